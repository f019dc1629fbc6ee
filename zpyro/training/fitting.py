"""Training in one call: :func:`fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from zpyro import settings
from zpyro.datasets import from_arrays, from_dataset
from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.datasets.splitting import hold_out
from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.errors import UserError, pluralize
from zpyro.io.figures import save_figure
from zpyro.io.paths import user_path
from zpyro.models import SequenceModel
from zpyro.models.config import config_of
from zpyro.nn.devices import choose_device
from zpyro.objectives import schedules
from zpyro.objectives.elbo import ZForcingELBO
from zpyro.objectives.schedules import Schedule
from zpyro.training import checkpoint, curves, runs
from zpyro.training.callbacks import Callback, Record, duration, logger_for, shown_number
from zpyro.training.config import Config, ObjectiveConfig, TrainConfig
from zpyro.training.loading import copy_weights
from zpyro.training.runs import Run
from zpyro.training.sequence_task import SequenceTask
from zpyro.training.trainer import Outcome, Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PATIENCE = 20
"""Validations without a better bound before training ends, where nothing else is asked for."""
KL_WEIGHT = schedules.linear(0.2, 1.0, steps=1_000)
"""The weight of the KL where nothing else is asked for."""
VALID_FRACTION = 0.1

_SETTINGS = {"minutes": "max_minutes", "steps": "max_steps"}
"""Names in :class:`TrainConfig` of arguments that are called otherwise here."""


@dataclass(frozen=True, repr=False)
class FitResult(Outcome):
    """How a training went.

    Attributes:
        data: the data set, also where :func:`fit` made it.
        history: the records of the training, as in ``metrics.jsonl``: of kind "train", means over
            the steps since the one before, and of kind "valid"; bounds and terms in nats per
            sequence. Empty in all processes but the main one.
        run: the run directory, or None.

    Example::

        result = zpyro.fit(model, data, minutes=5)
        result.best  # the best held-out bound, nats per sequence
        result.to_dataframe()[["step", "elbo"]].dropna()
        result.plot("curves.png")
    """

    data: Dataset
    history: tuple[Mapping[str, Any], ...]
    run: Run | None

    @property
    def minutes(self) -> float:
        """The time spent training and validating."""
        return self.seconds / 60.0

    @property
    def best_step(self) -> int | None:
        """The step of the best bound, whose weights the model holds; None without a bound."""
        return _best_step(self.history)

    def __repr__(self) -> str:
        how = f"{pluralize(self.step, 'step')}, {pluralize(self.epoch, 'epoch')}"
        best = f"best held-out bound {shown_number(self.best)} nats/sequence"
        where = "" if self.best_step is None else f" at step {self.best_step:,}"
        return f"FitResult({how}, {duration(self.seconds)}, {best}{where})"

    def to_dataframe(self) -> DataFrame:
        """The history as a table with a row for each record.

        Raises:
            UserError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError('to_dataframe needs pandas; pip install "zpyro[pandas]"') from error
        return pandas.DataFrame.from_records([dict(record) for record in self.history])

    def plot(
        self, path: str | Path | None = None, metrics: Sequence[str] = curves.DEFAULT
    ) -> Figure:
        """Plot the history: training dashed, held-out data solid.

        Args:
            path: the picture file; nothing is written without one.
            metrics: one panel each: "bound", or another number of the records.

        Raises:
            UserError: if matplotlib is missing or the file cannot be written.
        """
        figure = curves.curves_figure({"fit": self.history}, metrics)
        if path is not None:
            save_figure(figure, user_path(path))
        return figure


def fit(
    module: SequenceModel,
    dataset: Any,
    config: Config | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    kl_weight: float | Schedule | None = None,
    auxiliary_weight: float | Schedule | None = None,
    reverse_weight: float | Schedule | None = None,
    objective: ZForcingELBO | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    run: Run | None = None,
    resume: bool = False,
    detect_anomaly: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    **train: Any,
) -> FitResult:
    """Train a model on a data set; it holds the best weights on return.

    The best weights are those of the highest held-out bound, averaged where ``average`` is set.
    Training ends at the first of ``minutes``, ``steps`` and ``epochs`` that is given (50 epochs
    without any), or when the bound no longer improves. Ctrl-C ends it after the present step. After
    that, and after an exception of a callback or of the training, the model holds the best weights
    so far. Gradients are computed also under ``torch.no_grad`` and ``torch.inference_mode``.

    The arguments up to ``out`` are the usual ones. A :class:`~zpyro.training.Config` in their place
    has every setting of the command line.

    The result does not depend on the number of processes (see :mod:`zpyro.distributed.processes`):
    they share each batch, noise depends on seed, step and row of the batch, gradients have one
    normalizer. The main process alone writes and calls the callbacks; time and signals are agreed
    on after every step.

    Args:
        module: the model.
        dataset: a :class:`~zpyro.datasets.Dataset`; or sequences, of which a tenth validates:
            :class:`~zpyro.datasets.Sequences`, or anything that
            :func:`~zpyro.datasets.from_arrays` or :func:`~zpyro.datasets.from_dataset` takes (these
            two keep another tenth in ``result.data.test``).
        config: objective, optimizer and budget, instead of the arguments below up to ``out``. The
            data must then be a data set, and the model be on its device.
        minutes: of training and validation.
        steps: of training.
        epochs: passes over the data.
        learning_rate: of Adam, 1e-3 by default.
        batch_size: sequences in a step, 32 by default.
        kl_weight: a number or a schedule of the step; by default from 0.2 to 1 in 1,000 steps.
        auxiliary_weight: alpha, likewise; 0 by default. For models with a backward network.
        reverse_weight: beta, likewise; 0 by default.
        objective: what to maximize, in place of the three weights.
        patience: validations (one for each epoch, at least 50 steps apart) without a better bound
            before training ends, 20 by default; 0 for no such end.
        seed: of the noise, the order of the data, and the split of sequences; 0 by default.
        device: where to train, such as "cuda:1", or "auto"; by default where the model is.
        out: a new run directory for the records and checkpoints, which :func:`zpyro.load` reads.
            The class of the model must be registered (:func:`zpyro.models.register`).
        callbacks: called during the training, see :class:`~zpyro.training.Callback`.
        progress: show a progress bar in a terminal or notebook, and lines elsewhere; by default
            only in a terminal or notebook.
        run: the run directory for metrics and checkpoints, in place of ``out``.
        resume: continue from the last checkpoint of ``run`` or ``out``, with its weights. With
            ``init=RUN`` (of :class:`~zpyro.training.TrainConfig`), a new training starts from the
            weights of another run, which are then the best ones until a validation is better.
        detect_anomaly: stop at the first number that is not finite and name it; slow.
        process_group: this process among those that train together, all with the same arguments.
        **train: further attributes of :class:`~zpyro.training.TrainConfig`, such as ``average``,
            ``clip_norm`` or ``validate_every``.

    Raises:
        UserError: for a value that is not allowed, if many steps in a row are not finite, there is
            nothing to train or validate on, ``config.model`` describes another model than the one
            to be written to the run, another training writes into the run directory, or it cannot
            be written.
        TypeError: for an argument of another type, or of both kinds.

    Example::

        result = zpyro.fit(model, data, minutes=5, auxiliary_weight=0.005)
        bound = zpyro.evaluate(model, data.test).elbo
    """
    train |= {
        "minutes": minutes,
        "steps": steps,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "patience": patience,
        "seed": seed,
    }
    weights = {
        "kl_weight": kl_weight,
        "auxiliary_weight": auxiliary_weight,
        "reverse_weight": reverse_weight,
    }
    given = {name: value for name, value in train.items() if value is not None}
    weights = {name: value for name, value in weights.items() if value is not None}
    _check_types(module, dataset, config, run, callbacks)
    if config is None:
        if objective is None:
            chosen: dict[str, Any] = {"kl_weight": KL_WEIGHT, **weights}
            objective = ZForcingELBO(**chosen, max_plate_nesting=1)
        elif weights:
            raise TypeError(f"fit: give objective or {next(iter(weights))}, not both")
        dataset = _as_dataset(dataset, module, seed or 0)
        config = _config(dataset, objective, given)
        if device is not None:
            module.to(choose_device(str(device)))
    else:
        plain = {**given, **weights, "objective": objective, "device": device, "out": out}
        both = [name for name, value in plain.items() if value is not None]
        if both:
            raise TypeError(f"fit: give config or {both[0]}, not both")
    if config.train.init is not None and not resume:
        copy_weights(module, config.train.init)
    if out is not None:
        if run is not None:
            raise TypeError("fit: give out or run, not both")
        config = replace(config, model=config_of(module))
        with process_group.main_process_first():
            is_new = not resume and process_group.is_main_process
            run = runs.create(user_path(out), config) if is_new else runs.open_run(out)
        if resume:
            config = _as_recorded(config, run, given)
    with torch.inference_mode(False), torch.enable_grad():
        return _fit(
            SequenceTask(module, dataset, config, process_group, objective),
            run,
            resume=resume,
            callbacks=[*callbacks, *_loggers(progress)],
            detect_anomaly=detect_anomaly,
        )


def _fit(
    task: SequenceTask,
    run: Run | None,
    *,
    resume: bool,
    callbacks: Sequence[Callback],
    detect_anomaly: bool,
) -> FitResult:
    if run is not None:
        checkpoint.check_described(task.model, task.config.model)
    group, history = task.process_group, _History()
    with nullcontext() if run is None else run.locked(is_main_process=group.is_main_process):
        trainer = Trainer(
            task,
            task.config.train,
            run=run,
            callbacks=[history, *callbacks],
            process_group=group,
            detect_anomaly=detect_anomaly,
        )
        if resume:
            assert run is not None, "only a run can be resumed"
            task.model.load_state_dict(checkpoint.load_weights(run.last, task.model))
            trainer.resume()
            history.records += [
                record for record in run.records() if record["step"] <= trainer.state.step
            ]
        try:
            outcome = trainer.fit()
        finally:
            trainer.restore_best()
            best_step = _best_step(history.records)
            task.model.metadata = task.metadata(trainer.state, best_step)
    numbers = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    return FitResult(**numbers, data=task.dataset, history=tuple(history.records), run=run)


def _as_recorded(config: Config, run: Run, given: Mapping[str, Any]) -> Config:
    """The configuration with the seed and optimizer that a run was trained with.

    Raises:
        UserError: if other ones were given.
    """
    recorded = settings.flatten(settings.read_toml(run.folder / runs.CONFIG))
    fixed = {key: recorded[f"train.{key}"] for key in ("seed", "optimizer")}
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise UserError(
                f"fit: {key} is {given[key]}, but {run.folder} was trained with {value}; leave it "
                "out to continue this training"
            )
    return replace(config, train=replace(config.train, **fixed))


def _best_step(history: Sequence[Record]) -> int | None:
    """The step of the newest validation with the best bound until then; None without one."""
    return next((record["step"] for record in reversed(history) if record.get("best")), None)


class _History(Callback):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_train_record(self, record: Record) -> None:
        self.records.append(record)

    def on_validation(self, record: Record) -> None:
        self.records.append(record)


def _loggers(progress: bool | None) -> list[Callback]:
    console = Console(stderr=True)
    if progress is None:
        progress = console.is_terminal or console.is_jupyter
    return [logger_for(console)] if progress else []


def _config(dataset: Dataset, objective: ZForcingELBO, given: Mapping[str, Any]) -> Config:
    """The configuration of plain arguments.

    Raises:
        UserError: for an unknown argument or a value that is not allowed.
    """
    fields = settings.fields_of(TrainConfig, "")
    of_arguments = {old: name for name, old in _SETTINGS.items()}
    known = {of_arguments.get(key, key): (key, field) for key, field in fields.items()}
    values: dict[str, Any] = {"patience": PATIENCE}
    if any(given.get(name) for name in ("minutes", "steps", "epochs")):
        values["epochs"] = None
    for name, value in given.items():
        if name not in known:
            raise settings.unknown_key(name, known, "fit")
        key, field = known[name]
        if isinstance(value, np.generic):
            value = value.item()
        no_patience = name == "patience" and value == 0
        values[key] = None if no_patience else replace(field, key=name).convert(value, "fit")
    # What a run directory records; the objective itself may have any schedules and terms.
    recorded = ObjectiveConfig(
        kl_weight=objective.kl_weight(0),
        kl_weight_final=objective.kl_weight(0),
        auxiliary_weight=objective.auxiliary_weight(0),
        reverse_weight=objective.reverse_weight(0),
    )
    return Config(dataset.name, objective=recorded, train=TrainConfig(**values))


def _as_dataset(data: Any, module: SequenceModel, seed: int) -> Dataset:
    """A data set of what :func:`fit` takes.

    Raises:
        UserError: if sequences cannot be used, or do not fit the model.
        TypeError: if it is nothing of sequences.
    """
    # Of arrays, zeros and ones are numbers like others unless the model asks for them.
    binary = module.likelihood.data_type == "binary"
    settings = {"likelihood": "bernoulli"} if binary else {}
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, Sequences):
        valid = hold_out(list(data.names), VALID_FRACTION, seed=seed)
        train = sorted(set(range(len(data))) - set(valid))
        likelihood = module.likelihood
        size = likelihood.size if likelihood.discrete_tokens else data.frame_size
        parts = data[train], data[valid], data[[]]
        dataset = Dataset("sequences", *parts, likelihood=likelihood.name, frame_size=size)
    elif isinstance(data, np.ndarray | Tensor | list | tuple | Mapping):
        dataset = from_arrays(data, seed=seed, **settings)
    elif hasattr(data, "columns") and hasattr(data, "index"):
        raise TypeError(
            "fit: dataset is a table; make a data set of it with zpyro.datasets.from_dataframe"
        )
    elif isinstance(data, torch.utils.data.DataLoader) or hasattr(data, "__getitem__"):
        dataset = from_dataset(data, seed=seed, **settings)
    else:
        raise TypeError(
            f"fit: dataset is a {type(data).__name__}, not a Dataset; make one with "
            "zpyro.datasets.load or zpyro.datasets.from_arrays"
        )
    likelihood = module.likelihood
    found, wanted = dataset.frame_size, likelihood.size
    kind = dataset.train.data_type
    if likelihood.data_type != ("frames" if kind == "audio" else kind):
        raise UserError(
            f"fit: the data are {kind}, which the likelihood {likelihood.name} cannot score; make "
            + ('them with data_type="binary", or ' if binary else "")
            + f"the model with the likelihood {dataset.likelihood}"
        )
    if found > wanted or (found < wanted and not likelihood.discrete_tokens):
        what = "tokens" if likelihood.discrete_tokens else "numbers in a frame"
        raise UserError(
            f"fit: the data have {found} {what}, the likelihood of the model {wanted}; "
            "make the likelihood with data.frame_size"
        )
    if dataset.has_missing and not module.missing:
        raise UserError("fit: the data have missing values; make the model with missing=True")
    if dataset.covariate_size != module.covariate_size:
        raise UserError(
            f"fit: the data have {pluralize(dataset.covariate_size, 'covariate')}, the model "
            f"{module.covariate_size}; make it with covariate_size={dataset.covariate_size}"
        )
    return dataset


def _check_types(
    module: object, dataset: object, config: object, run: object, callbacks: object
) -> None:
    """Raise TypeError for a mixed-up argument of :func:`fit`."""
    hints = {
        "dataset": "make one with zpyro.datasets.load or zpyro.datasets.from_arrays",
        "config": 'make one with zpyro.training.Config("NAME", train=TrainConfig(...))',
        "run": "open one with zpyro.training.open_run",
    }
    wanted: dict[str, Any] = {"module": SequenceModel, "config": Config | None, "run": Run | None}
    names = {"config": "Config", "run": "Run"}
    given: dict[str, Any] = {"module": module, "dataset": dataset, "config": config, "run": run}
    if config is not None:
        wanted["dataset"] = Dataset
    for name, kind in wanted.items():
        if not isinstance(given[name], kind):
            expected = names.get(name) or getattr(kind, "__name__", "")
            hint = f"; {hints[name]}" if name in hints else ""
            found = type(given[name]).__name__
            raise TypeError(f"fit: {name} is a {found}, not a {expected}{hint}")
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"fit: callbacks is a {type(callbacks).__name__}; pass a list of callbacks")
    for each in callbacks:
        if not isinstance(each, Callback):
            raise TypeError(f"fit: the callback {each!r} is no instance of zpyro.training.Callback")
