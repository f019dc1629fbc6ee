"""Loggers to experiment trackers: TensorBoard, Weights & Biases and MLflow, each an optional extra.

Every record of ``metrics.jsonl`` is written under ``train/NAME`` and ``valid/NAME`` at its step.
"""

from __future__ import annotations

import abc
import importlib.util
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from zpyro.errors import UserError
from zpyro.training.callbacks import Callback, Record
from zpyro.training.task import TrainingTask, TrainState

logger = logging.getLogger(__name__)


class TrackerLogger(Callback, abc.ABC):
    """A callback that sends the numbers of every record to a tracker.

    Required are ``package``, :meth:`start`, :meth:`write` and :meth:`close`. A tracker that fails
    at the start is an error. One that fails later is dropped with one warning, and the training
    continues.

    Args:
        folder: the run directory; its name is the name of the run in the tracker.
        settings: of the run by their dotted names, kept beside the numbers.

    Attributes:
        package: the package that it needs, and the extra of zpyro that installs it.

    Raises:
        UserError: if the package is not installed.
    """

    package: ClassVar[str]

    def __init__(self, folder: str | Path, settings: Mapping[str, object] | None = None) -> None:
        self.check_installed()
        self.folder = Path(folder)
        self.settings = dict(settings or {})
        self._is_open = False

    @classmethod
    def check_installed(cls) -> None:
        """Check that the tracker's package is there.

        Raises:
            UserError: if it is not installed.
        """
        if importlib.util.find_spec(cls.package) is None:
            raise UserError(
                f"logger {cls.package}: is not installed; "
                f'pip install "zpyro[{cls.package}]", or leave the logger out'
            )

    @abc.abstractmethod
    def start(self, step: int) -> None:
        """Begin, or continue a resumed training at a step; later records of it are superseded."""

    @abc.abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is buffered, and end."""

    def on_fit_start(self, task: TrainingTask[Any], state: TrainState) -> None:
        del task
        try:
            self.start(state.step)
        except Exception as error:
            raise UserError(
                f"logger {self.package}: cannot start ({_first_line(error)}); "
                "repair its configuration or train without this logger"
            ) from error
        self._is_open = True

    def on_train_record(self, record: Record) -> None:
        self._write("train", record)

    def on_validation(self, record: Record) -> None:
        self._write("valid", record)

    def on_fit_end(self) -> None:
        if self._is_open:
            self._attempt(self.close)
            self._is_open = False

    def _write(self, part: str, record: Record) -> None:
        values = {f"{part}/{name}": float(value) for name, value in _numbers(record).items()}
        if self._is_open:
            self._attempt(lambda: self.write(int(record["step"]), values))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._is_open = False
            logger.warning(
                "logger %s: failed (%s); training continues without this logger",
                self.package,
                _first_line(error),
            )


class TensorBoardLogger(TrackerLogger):
    """Event files in ``RUN/tensorboard``; ``tensorboard --logdir RUNS`` shows them.

    Example::

        fit(model, dataset, config, run=run, callbacks=[TensorBoardLogger(run.folder)])
    """

    package = "tensorboard"

    def start(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events after the step are of a training that was interrupted and repeats them.
        place = str(self.folder / "tensorboard")
        self._writer = SummaryWriter(place, purge_step=step + 1 if step else None)
        lines = (f"    {name} = {value}" for name, value in self.settings.items())
        self._writer.add_text("settings", "\n".join(lines), step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbLogger(TrackerLogger):
    """A run of Weights & Biases, with its files in ``RUN/wandb``.

    ``WANDB_PROJECT`` names the project (by default ``zpyro``), and ``WANDB_MODE=offline`` needs
    neither an account nor a network. A resumed training continues its run, whose identifier is in
    ``RUN/wandb_run``.

    Example::

        fit(model, dataset, config, run=run, callbacks=[WandbLogger(run.folder)])
    """

    package = "wandb"

    def start(self, step: int) -> None:
        import wandb

        del step
        kept = self.folder / "wandb_run"
        known = _read_identifier(kept)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "zpyro"),
            name=self.folder.name,
            dir=str(self.folder),
            config=self.settings,
            id=known,
            resume=None if known is None else "allow",
        )
        kept.write_text(f"{self._run.id}\n", encoding="utf-8")
        # Records of one step come apart: of the training and of the validation.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class MLflowLogger(TrackerLogger):
    """A run of MLflow, in the experiment and at the place that MLflow's own variables name.

    ``MLFLOW_TRACKING_URI`` is a server or a database file; ``MLFLOW_EXPERIMENT_NAME`` the
    experiment. A resumed training continues its run, whose identifier is in ``RUN/mlflow_run``.

    Example::

        fit(model, dataset, config, run=run, callbacks=[MLflowLogger(run.folder)])
    """

    package = "mlflow"

    def start(self, step: int) -> None:
        import mlflow

        del step
        self._mlflow: Any = mlflow
        kept = self.folder / "mlflow_run"
        known = _read_identifier(kept)
        run = self._mlflow.start_run(run_id=known, run_name=None if known else self.folder.name)
        self._id = run.info.run_id
        kept.write_text(f"{self._id}\n", encoding="utf-8")
        if known is None:
            self._mlflow.log_params(self.settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step, run_id=self._id)

    def close(self) -> None:
        self._mlflow.end_run()


LOGGERS: Mapping[str, type[TrackerLogger]] = {
    cls.package: cls for cls in (TensorBoardLogger, WandbLogger, MLflowLogger)
}
"""The trackers of ``zpyro train --logger NAME``."""


def _numbers(record: Record) -> dict[str, float]:
    """The finite numbers of a record, without its step."""
    return {
        name: value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _read_identifier(path: Path) -> str | None:
    """A tracker's name for the run, if an earlier part of the training wrote it."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
