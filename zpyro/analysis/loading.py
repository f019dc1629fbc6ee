"""Opening a trained run for use: its model, and its data on the scale of the model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from zpyro import datasets
from zpyro.datasets.linear_prediction import LinearPrediction
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError, pluralize
from zpyro.models import SequenceModel
from zpyro.nn.devices import choose_device
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.config import Config
from zpyro.training.custom_guides import GuideSource
from zpyro.training.runs import Run, open_run


@dataclass(frozen=True)
class LoadedRun:
    """A run whose checkpoint is loaded.

    Attributes:
        run: the run directory.
        checkpoint: the model, with the scale and vocabulary of its data.

    Example:
        >>> loaded = load_run("runs/vowels")
        >>> bound = zpyro.evaluation.evaluate(loaded.model, loaded.split("test")).elbo
    """

    run: Run
    checkpoint: Checkpoint

    def __repr__(self) -> str:
        name, step = self.checkpoint.config.name, self.checkpoint.step
        return f"LoadedRun({str(self.run.folder)!r}, {name}, step {step})"

    @property
    def model(self) -> SequenceModel:
        """The model of the checkpoint."""
        return self.checkpoint.model

    @cached_property
    def config(self) -> Config:
        """The settings of the run."""
        return self.run.config(self.checkpoint)

    def split(
        self, split: str = "test", data_folder: Path | None = None, *, workers: int = 1
    ) -> Sequences:
        """A split of the run's data, see :func:`load_split`."""
        return load_split(
            self.run, self.checkpoint, split, data_folder, self.config, workers=workers
        )

    def all_of(self, data_folder: Path, *, workers: int = 1) -> Sequences:
        """Every sequence of another folder, on the scale of the model.

        ``workers`` is that of :func:`zpyro.datasets.load`.

        Raises:
            UserError: if the data cannot be read or do not suit the model.
        """
        config, data = self.config, self.checkpoint.data
        scale, vocabulary = data.normalization, self.checkpoint.vocabulary
        found = datasets.load_all(
            config.dataset, data_folder, config.data, scale, vocabulary, workers=workers
        )
        return renormalize_like(self.checkpoint, found)


def load_run(
    folder: str | Path,
    which: str = "best",
    device: str = "auto",
    guide: GuideSource | None = None,
) -> LoadedRun:
    """Open a run directory and load one of its checkpoints.

    Args:
        folder: the run directory.
        which: "best" or "last".
        device: "auto", or a device of torch such as "cpu" or "cuda:1".
        guide: the custom guide of the run, see :func:`zpyro.training.custom_guides.load`.

    Raises:
        UserError: if it is not a run directory, or has no such checkpoint yet.
    """
    run = open_run(folder)
    other = "last" if which == "best" else "best"
    quoted = shlex.quote(str(run.folder))
    if not run.has(which):
        if run.has(other):
            raise UserError(
                f"{run.folder}: has no {which} checkpoint yet; train on with zpyro train --resume "
                f"{quoted}, or pass --checkpoint {other}"
            )
        if run.records():
            raise UserError(
                f"{run.folder}: has no {which} checkpoint yet; train on with zpyro train --resume "
                f"{quoted}, or see its curves with zpyro plot {quoted}"
            )
    return LoadedRun(run, run.load(which, choose_device(device), guide))


def load_dataset(
    config: Config, vocabulary: Vocabulary | None = None, *, workers: int = 1
) -> Dataset:
    """The data set of a configuration; text in the vocabulary of a trained model if given.

    ``workers`` is that of :func:`zpyro.datasets.load`.
    """
    folder = None if config.data_folder is None else Path(config.data_folder)
    return datasets.load(
        config.dataset, folder, config.data, vocabulary=vocabulary, workers=workers
    )


def load_split(
    run: Run,
    checkpoint: Checkpoint,
    split: str,
    data_folder: Path | None = None,
    config: Config | None = None,
    *,
    workers: int = 1,
) -> Sequences:
    """A split of the data that a run was trained on, on the scale of its model.

    Args:
        run: its settings name the data.
        checkpoint: its normalization and vocabulary are used.
        split: "train", "valid", "test" or "all".
        data_folder: where the data are now; by default where they were at training.
        config: the settings of the run, where they are known.
        workers: see :func:`zpyro.datasets.load`.

    Raises:
        UserError: if the data are missing or do not suit the model, or the split is unknown or
            empty.
    """
    config = config or run.config(checkpoint)
    if data_folder is not None:
        config = replace(config, data_folder=str(data_folder.absolute()))
    sequences = load_dataset(config, checkpoint.vocabulary, workers=workers).split(split)
    if len(sequences) == 0:
        raise UserError(f"the {split} split of {config.dataset} is empty; choose another --split")
    return renormalize_like(checkpoint, sequences)


def renormalize_like(checkpoint: Checkpoint, sequences: Sequences) -> Sequences:
    """The sequences on the scale that a model was trained on.

    Raises:
        UserError: if they have another data type, frame size, sample rate or vocabulary.
    """
    data, likelihood = checkpoint.data, checkpoint.model.likelihood
    if not _have_same_prediction(sequences.normalization, data.normalization):
        raise UserError(
            "the data are not those that the run fitted data.lags to; restore the table, or give"
            " all of another one"
        )
    size = 1 if data.data_type == "tokens" else likelihood.size
    if (sequences.data_type, sequences.frame_size) != (data.data_type, size):
        found, wanted = (
            name if name == "tokens" else f"{name} of {numbers} numbers a frame"
            for name, numbers in (
                (sequences.data_type, sequences.frame_size),
                (data.data_type, size),
            )
        )
        raise UserError(
            f"the data are {found}, the run was trained on {wanted}; choose other --data"
        )
    if sequences.sample_rate != data.sample_rate:
        raise UserError(
            f"the data have a sample rate of {sequences.sample_rate} Hz, the run was trained on "
            f"{data.sample_rate} Hz; resample the data"
        )
    if likelihood.discrete_tokens:
        largest = max((int(np.max(value)) for value in sequences.values), default=0)
        if largest >= likelihood.size:
            raise UserError(
                f"the data hold token {largest}, the model has "
                f"{pluralize(likelihood.size, 'token')}; "
                "give data with the same vocabulary"
            )
    return sequences.renormalized(data.normalization)


def _have_same_prediction(found: Normalization, wanted: Normalization) -> bool:
    """Whether frames are errors of the same linear prediction, or both are values."""
    if not (found.lag_weights and wanted.lag_weights):
        return found.lag_weights == wanted.lag_weights
    fitted = LinearPrediction(found.lag_weights)
    return fitted.is_close(LinearPrediction(wanted.lag_weights), np.asarray(wanted.scale))
