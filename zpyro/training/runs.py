"""The run directory: everything that training leaves and that the other commands need::

    config.toml      every resolved setting
    metrics.jsonl    one record a line: {"kind": "train", ...} and {"kind": "valid", ...}
    best/  last/     checkpoints, see zpyro.training.checkpoint; last.previous precedes last
    .lock            held by the process that trains here, see zpyro.io.locking

Checkpoints are written aside and renamed, so that a kill leaves the old one or the new one whole.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zpyro import datasets, settings
from zpyro.datasets.sequences import Sequences
from zpyro.errors import UserError
from zpyro.evaluation.baselines import files as baseline_files
from zpyro.evaluation.baselines.files import Baseline
from zpyro.io import files, manifest
from zpyro.io.locking import LOCK, locked
from zpyro.io.paths import user_path
from zpyro.training import checkpoint, config
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.config import Config
from zpyro.training.custom_guides import GuideSource

logger = logging.getLogger(__name__)

LARGEST_STEP = 1 << 53
CONFIG, METRICS, BASELINE_FILE = "config.toml", "metrics.jsonl", "baselines.safetensors"
EXAMPLE_SETTINGS = "settings.json"
"""The settings of a run of ``zpyro example``, which has no config.toml."""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation bound."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """The newest checkpoint, the one that training continues from."""
        return self.folder / "last"

    def config(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        resume: bool = False,
        assignments: Sequence[str] = (),
    ) -> Config:
        """The settings: those of config.toml, which users may edit.

        A setting that the file does not have is that of the checkpoint. Of settings that cannot
        change (:func:`zpyro.training.config.is_fixed`) the checkpoint's count.

        Args:
            checkpoint: of this run, if one is used.
            resume: whether to train on; an edited setting that cannot change is then an error
                instead of a warning.
            assignments: texts ``section.name=value`` over those of the file.

        Raises:
            UserError: if config.toml is missing or wrong, or for a setting that cannot change.
        """
        path = self.folder / CONFIG
        table = settings.read_toml(path)
        if table.get("data") == settings.NONE:
            raise UserError(
                f"{self.folder}: was trained on data in memory, which commands cannot read; use "
                "zpyro.load in Python"
            )
        recorded = {} if checkpoint is None else _renamed(checkpoint.settings)
        preset = config.preset_of({**recorded, **table}, str(path), accept_renamed=True)
        folder = table.get("data_folder", settings.NONE)
        if preset.dataset is None or not isinstance(folder, str):
            raise UserError(f"{path}: dataset and data_folder must be text; choose another run")

        def resolved(values: Mapping[str, object], assignments: Sequence[str] = ()) -> Config:
            dataset = str(values["dataset"])
            others = {key: value for key, value in values.items() if key != "dataset"}
            return config.resolve(
                dataset,
                datasets.entry(dataset).settings,
                preset=replace(preset, dataset=dataset, values=others),
                assignments=assignments,
                data_folder=None if folder == settings.NONE else folder,
                on_dropped=refuse if resume else None,
            )

        def refuse(model: str, keys: Sequence[str]) -> None:
            if keys[-1].startswith("objective."):
                raise UserError(
                    f"{path}: {keys[-1]} has no effect on the model {model}; set it to 0"
                )

        values = {"dataset": preset.dataset, **preset.values}
        fixed = {key: value for key, value in recorded.items() if config.is_fixed(key)}
        edited = [key for key in fixed if values[key] != fixed[key]]
        for key in edited:
            line = (
                f"{path}: {key} is {settings.shown(values[key])}, but the checkpoint was trained "
                f"with {settings.shown(fixed[key])}"
            )
            if resume:
                raise UserError(f"{line}; set it back, or start a new training")
            logger.warning("%s, which is used", line)
        if edited:
            # What is not used must be sound all the same: a damaged file is an error.
            other = values["dataset"] != fixed.get("dataset", values["dataset"])
            own = config.preset_of(table, str(path), accept_renamed=True).values
            resolved({"dataset": preset.dataset, **own} if other else values)
            if other:  # its settings of data are those of another data set
                values = {k: value for k, value in values.items() if not k.startswith("data.")}
        for text in assignments:
            key, _, value = (part.strip() for part in text.partition("="))
            if key in fixed and settings.parse_value(value) != fixed[key]:
                raise UserError(
                    f"--set {text}: the run was trained with {settings.shown(fixed[key])}; "
                    "--resume takes the run's own settings of data, model, optimizer and seed, "
                    "leave it out"
                )
        return resolved({**values, **fixed}, assignments)

    def load(
        self, which: str = "best", device: Any = "cpu", guide: GuideSource | None = None
    ) -> Checkpoint:
        """One of its checkpoints, "best" or "last", with a custom guide if one is given.

        Raises:
            UserError: if there is none yet, or it is corrupt.
        """
        if not self.has(which):
            raise UserError(
                f"{self.folder}: has no {which} checkpoint yet; "
                f"train on with zpyro train --resume {shlex.quote(str(self.folder))}"
            )
        return checkpoint.load(self.best if which == "best" else self.last, device, guide)

    def locked(self, *, is_main_process: bool = True) -> AbstractContextManager[None]:
        """A context without other trainings in this directory: :func:`zpyro.io.locking.locked`."""
        return locked(self.folder, is_main_process=is_main_process)

    def recover(self) -> str | None:
        """Make the newest sound checkpoint the one that training continues from.

        A damaged ``last`` is set aside as ``last.damaged``, and the one before it takes its place.

        Returns:
            A line that names the damaged file, or None where nothing was.

        Raises:
            UserError: if the newest is damaged and none before it is sound.
        """
        previous = self.last.with_name(self.last.name + files.PREVIOUS)
        damage = manifest.damage(self.last) if self.last.exists() else None
        if damage is None:
            return None
        if not previous.exists() or manifest.damage(previous) is not None:
            raise UserError(
                f"{damage}, and no sound checkpoint is left from before it; start a new training"
            )
        aside = files.set_aside(self.last)
        return f"{damage}; kept as {aside}, training continues from {previous}"

    def set_aside_best(self) -> str | None:
        """Keep the best weights of a run whose last checkpoint is missing, as ``best.damaged``.

        Returns:
            A line that names them, or None where there are none.

        Raises:
            UserError: if the directory cannot be written.
        """
        if not self.has("best"):
            return None
        aside = files.set_aside(files.complete_folder(self.best))
        return (
            f"{self.last}: is missing; training starts again, the best weights are kept as {aside}"
        )

    def has(self, which: str) -> bool:
        """Whether there is a checkpoint of that name, "best" or "last"."""
        return files.complete_folder(self.folder / which).exists()

    def records(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds; damaged lines, as a kill may leave one, are left out.

        Raises:
            UserError: if it cannot be read.
        """
        path = self.folder / METRICS
        if not path.exists():
            return []
        with files.translate_os_errors(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [record for record in map(_record, lines) if record is not None]

    def write_baselines(self, train: Sequences, size: int) -> None:
        """Fit the baselines of :mod:`zpyro.evaluation.baselines.files` to the training data.

        Args:
            train: the training sequences.
            size: D, or V for tokens.

        Raises:
            UserError: if the run directory cannot be written.
        """
        fitted = baseline_files.fit(train, size)
        if fitted:
            baseline_files.write(self.folder / BASELINE_FILE, fitted)

    def baselines(self, like: Sequences, size: int) -> Mapping[str, Baseline]:
        """The fitted baselines by name; none where the run has none.

        Args:
            like: data of the kind that they were fitted to.
            size: D, or V for tokens.

        Raises:
            UserError: if their file is corrupt.
        """
        path = self.folder / BASELINE_FILE
        return baseline_files.read(path, like, size) if path.exists() else {}


def check_free(folder: Path) -> None:
    """Make sure that a new run can be written here, before any work is done for it.

    Raises:
        UserError: if something is there already, or no folder can be made there.
    """
    try:
        if folder.is_dir():
            if any(path.name != LOCK for path in folder.iterdir()):
                raise UserError(
                    f"{folder}: is not empty; choose another --out, or go on with "
                    f"zpyro train --resume {shlex.quote(str(folder))}"
                )
        elif folder.exists() or folder.is_symlink():
            raise UserError(f"{folder}: is not a directory; choose another --out")
        parent = folder.absolute()
        while not parent.exists():
            parent = parent.parent
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); choose another --out"
        ) from error
    if not parent.is_dir():
        raise UserError(f"{folder}: {parent} is not a directory; choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: {parent} cannot be written to; choose another --out")


def create(folder: Path, settled: Config) -> Run:
    """Make a run directory.

    Raises:
        UserError: if something is there already, or it cannot be written.
    """
    folder = user_path(folder)
    check_free(folder)
    with files.translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        # Again: another training may have come here while this one loaded its data.
        check_free(folder)
        files.replace_file(folder / CONFIG, config.write_config(settled))
    return Run(folder)


def open_run(folder: str | Path) -> Run:
    """A run directory that is there.

    Raises:
        UserError: if it is none.
    """
    folder = user_path(folder)
    check_run(folder, CONFIG)
    return Run(folder)


def check_run(folder: Path, needed: str) -> None:
    """Make sure that a directory is a run of the commands that read it.

    Args:
        folder: the directory.
        needed: the file of settings, :data:`CONFIG` or :data:`EXAMPLE_SETTINGS`.

    Raises:
        UserError: if the file is missing; of a run of other commands it names those.
    """
    if (folder / needed).is_file():
        return
    if (folder / CONFIG).is_file():
        described = "is a run of zpyro train; use zpyro evaluate or zpyro train --resume"
    elif (folder / EXAMPLE_SETTINGS).is_file():
        described = describe_example(folder)
    else:
        described = f"is not a run directory ({needed} is missing); choose another"
    raise UserError(f"{folder}: {described}")


def describe_example(folder: Path) -> str:
    """Of which task a run of ``zpyro example`` is, and the commands that read it."""
    try:
        task = json.loads((folder / EXAMPLE_SETTINGS).read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        task = "TASK"
    command = f"zpyro example {task}"
    return f"is a run of {command}; use {command} test, show or train --resume"


def _renamed(recorded: Mapping[str, object]) -> dict[str, object]:
    return {settings.RENAMED.get(key, key): value for key, value in recorded.items()}


class MetricsLog:
    """Appends to metrics.jsonl.

    Args:
        run: whose metrics.
        step: where training continues from; later records, of a session that was killed, are
            dropped.
    """

    def __init__(self, run: Run, step: int) -> None:
        self._path = run.folder / METRICS
        kept = [record for record in run.records() if record["step"] <= step]
        files.replace_file(self._path, "".join(map(_line, kept)))
        with files.translate_os_errors(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; numbers that are not finite become null."""
        with files.translate_os_errors(self._path):
            self._file.write(_line(record))
            self._file.flush()

    def flush(self) -> None:
        """Wait until every record is on the disk."""
        with files.translate_os_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with files.translate_os_errors(self._path):
            self._file.close()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"


def _finite(value: Any) -> Any:
    bad = isinstance(value, float) and value - value != 0.0
    return None if bad else value


def _record(line: str) -> dict[str, Any] | None:
    """A record, or None for a line that is none: the file may be cut short or edited."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    sound = type(step) is int and 0 <= step <= LARGEST_STEP
    return record if sound and all(map(_is_plain, record.values())) else None


def _is_plain(value: object) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= sys.float_info.max
    return value is None or isinstance(value, str)
