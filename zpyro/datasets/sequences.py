"""Sequences, in memory or on the disk, and the three splits of a data set."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar, overload
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from zpyro.datasets.batching import (
    Batch,
    BatchOrder,
    Sample,
    SeriesSample,
    collate,
    stream_batches,
)
from zpyro.datasets.splitting import SPLITS
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError, pluralize

Array = NDArray[Any]

LENGTHS_AT_ONCE = 1 << 16

Augmentation = Callable[[Array, np.random.Generator], Array]
"""From the values of a sequence and random numbers to values of the same shape."""


@dataclass(frozen=True)
class Normalization:
    """frames = (raw - mean) / scale, and the same for covariates with numbers of their own.

    Attributes:
        mean: one number for every sample, or one for each dimension, (D,).
        scale: likewise.
        covariate_mean: one for each covariate, (C,); empty leaves covariates as they are.
        covariate_scale: likewise.
        lag_weights: of the linear prediction whose errors are ``raw``, one row a dimension, see
            :mod:`zpyro.datasets.linear_prediction`; empty where ``raw`` are values.
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    covariate_mean: tuple[float, ...] = ()
    covariate_scale: tuple[float, ...] = ()
    lag_weights: tuple[tuple[float, ...], ...] = ()

    def apply(self, raw: Array) -> Array:
        """Raw samples as normalized float32 frames."""
        return ((raw - _operand(self.mean)) / _operand(self.scale)).astype(np.float32)

    def invert(self, frames: Array) -> Array:
        """Normalized frames as raw samples."""
        return frames * _operand(self.scale) + _operand(self.mean)

    def apply_to_covariates(self, raw: Array) -> Array:
        """Raw covariates (..., C) as normalized float32 ones."""
        if not self.covariate_scale:
            return raw.astype(np.float32)
        centered = raw - _operand(self.covariate_mean)
        return (centered / _operand(self.covariate_scale)).astype(np.float32)


def _operand(value: float | tuple[float, ...]) -> Any:
    # A Python number keeps float32 arrays as they are, an array of float64 does not.
    return np.array(value) if isinstance(value, tuple) else value


def _key(name: str) -> int:
    return crc32(name.encode("utf-8", "surrogateescape"))


T = TypeVar("T")


class Stored(abc.ABC, Generic[T]):
    """What belongs to sequences that stay on the disk: one element each, read when asked for."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def at(self, index: int) -> T:
        """The element of one sequence."""

    @abc.abstractmethod
    def chosen(self, indices: NDArray[np.int64]) -> Self:
        """Those of some sequences, still on the disk."""

    @abc.abstractmethod
    def joined(self, others: Sequence[Any]) -> Self:
        """These and then those of the others, of the same store."""

    def renormalized(self, normalization: Normalization) -> Self:
        """The same on another scale."""
        raise NotImplementedError(f"{type(self).__name__} has no scale")

    @property
    def streams(self) -> NDArray[np.int64] | None:
        """A number for the stream that each sequence is a row of, or None."""
        return None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each sequence."""
        raise NotImplementedError(f"{type(self).__name__} has no frames")

    def __iter__(self) -> Iterator[T]:
        return (self.at(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> list[T]: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> T | list[T]:
        if isinstance(index, int | np.integer):
            return self.at(range(len(self))[index])
        chosen = range(len(self))[index] if isinstance(index, slice) else index
        return [self.at(int(i)) for i in chosen]


@dataclass(frozen=True, eq=False, repr=False)
class Sequences(torch.utils.data.Dataset[Any]):
    """One split of a data set.

    A number as index gives a :class:`~zpyro.datasets.Sample`, or where the sequences have missing
    values or covariates a :class:`~zpyro.datasets.SeriesSample`; a slice or several numbers give
    Sequences. With :func:`zpyro.datasets.collate` it works in a ``torch.utils.data.DataLoader``;
    :meth:`batches` pads less.

    Attributes:
        values: one array a sequence, (T_i, D) float32 frames or (T_i,) int32 or int64 tokens;
            frames of data type "binary" may stay uint8, batches turn them into float32.
        names: one a sequence.
        start: x_0 of each sequence, (N, D) or (N,), or None for the likelihood's default.
            Values, names and start may stay on the disk, see :class:`Stored`.
        normalization: what turned raw samples into these frames.
        sample_rate: samples a second where the frames are audio, else None.
        data_type: "audio", "frames", "binary" or "tokens".
        image_shape: rows and columns where each sequence is a picture read row after row.
        notes: what a user should know of how they were read.
        observed: one boolean array a sequence, True where a number is known, (T_i, D) or (T_i,);
            None where all are. Values are zero where they are missing.
        covariates: numbers u_t that are known for every step, one array (T_i, C) float32 a
            sequence; None without.
        covariate_names: one a column of the covariates, or empty.
        steps_per_quarter: frames in a quarter note where each frame is the 88 keys of a piano,
            else None.
        augmentation: makes another sequence of one with the same shape, given random numbers;
            used by :meth:`training_batch` alone.

    Raises:
        UserError: if a sequence is empty, has values that are not finite, another frame size, no
            observed value, or covariates of another length.
    """

    values: tuple[Array, ...] | Stored[Array]
    names: tuple[str, ...] | Stored[str]
    start: Array | Stored[Array] | None = None
    normalization: Normalization = Normalization()
    sample_rate: int | None = None
    data_type: str = "frames"
    image_shape: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    observed: tuple[Array, ...] | None = None
    covariates: tuple[Array, ...] | None = None
    covariate_names: tuple[str, ...] = ()
    steps_per_quarter: int | None = None
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        counts = {len(self.values), len(self.names)}
        parts = (self.start, self.observed, self.covariates)
        counts |= {len(part) for part in parts if part is not None}
        if len(counts) != 1:
            raise ValueError(f"values, names and what belongs to them differ: {sorted(counts)}")
        self._check_values()
        self._check_observed()
        self._check_covariates()

    def _check_values(self) -> None:
        if isinstance(self.values, Stored):
            return
        for name, value in zip(self.names, self.values, strict=True):
            if len(value) == 0:
                raise UserError(f"sequence {name} is empty; leave it out")
            if value.shape[1:] != self.values[0].shape[1:]:
                raise UserError(
                    f"sequence {name} has frames of shape {value.shape[1:]},"
                    f" others of {self.values[0].shape[1:]}; all must agree"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise UserError(f"sequence {name} holds NaN or infinity; repair or remove it")

    def _check_observed(self) -> None:
        if self.observed is None:
            return
        for name, value, mask in zip(self.names, self.values, self.observed, strict=True):
            if mask.shape != value.shape or mask.dtype != bool:
                raise ValueError(
                    f"sequence {name}: observed has shape {mask.shape} and type {mask.dtype}; it "
                    f"must be {value.shape}, bool"
                )
            if not mask.any():
                raise UserError(f"sequence {name} has no observed value; leave it out")
            if value[~mask].any():
                raise ValueError(f"sequence {name} is not zero where it is missing")

    def _check_covariates(self) -> None:
        if self.covariates is None:
            return
        for name, length, known in zip(self.names, self.lengths, self.covariates, strict=True):
            if known.shape != (length, self.covariate_size):
                raise UserError(
                    f"sequence {name} has covariates of shape {known.shape}; they must be "
                    f"{(int(length), self.covariate_size)}"
                )
            if not np.isfinite(known).all():
                raise UserError(
                    f"sequence {name} has covariates with NaN or infinity; covariates must be "
                    "known at every step, fill them or leave the column out"
                )

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Sequences({self.summary()}, data_type={self.data_type!r})"

    def summary(self) -> str:
        """How many sequences there are, of which lengths and frame size, in a few words."""
        if not len(self):
            return "0 sequences"
        lengths = self.lengths
        what = "token" if self.data_type == "tokens" else "frame"
        size = "" if self.data_type == "tokens" else f" of {self.frame_size}"
        least, most = int(lengths.min()), int(lengths.max())
        span = f"{'' if least == most else f'{least} to '}{pluralize(most, what)}{size}"
        return f"{pluralize(len(self), 'sequence')} of {span}"

    @overload
    def __getitem__(self, index: int) -> Sample | SeriesSample: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Sequences: ...
    def __getitem__(
        self, index: int | slice | Sequence[int] | NDArray[Any]
    ) -> Sample | SeriesSample | Sequences:
        if isinstance(index, int | np.integer):
            sample = self._sample(range(len(self))[index])
            # What is done to it in place stays out of the data set.
            return sample._replace(x=sample.x.clone())
        if isinstance(index, np.ndarray):
            # A mask, or numbers.
            indices = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        else:
            chosen = range(len(self))[index] if isinstance(index, slice) else index
            indices = np.fromiter(chosen, dtype=np.int64, count=len(chosen))
        start = self.start
        if start is not None:
            start = start.chosen(indices) if isinstance(start, Stored) else start[indices]
        return replace(
            self,
            values=_chosen(self.values, indices),
            names=_chosen(self.names, indices),
            start=start,
            observed=None if self.observed is None else _chosen(self.observed, indices),
            covariates=None if self.covariates is None else _chosen(self.covariates, indices),
        )

    @property
    def covariate_size(self) -> int:
        """C, 0 without covariates."""
        return self.covariates[0].shape[-1] if self.covariates else 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """T_i, (N,)."""
        if isinstance(self.values, Stored):
            return self.values.lengths
        return np.array([len(value) for value in self.values], dtype=np.int64)

    def lengths_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """T_i of the sequences with these indices; only theirs are read."""
        if isinstance(self.values, Stored):
            return self.values.chosen(indices).lengths
        return np.array([len(self.values[index]) for index in indices], dtype=np.int64)

    def lengths_in_blocks(self) -> Iterator[NDArray[np.int64]]:
        """T_i of all sequences, some thousand at a time."""
        for first in range(0, len(self), LENGTHS_AT_ONCE):
            yield self.lengths_of(np.arange(first, min(first + LENGTHS_AT_ONCE, len(self))))

    @property
    def frame_size(self) -> int:
        """D, or 1 for tokens."""
        return self.values[0].shape[1] if len(self) and self.values[0].ndim > 1 else 1

    @property
    def num_frames(self) -> int:
        """Scored frames in all."""
        return sum(int(lengths.sum()) for lengths in self.lengths_in_blocks())

    @property
    def seconds(self) -> float | None:
        """Scored sound in seconds, or None where the frames are not audio."""
        if self.sample_rate is None:
            return None
        return self.num_frames * self.frame_size / self.sample_rate

    def num_batches(self, batch_size: int, *, drop_last: bool = False) -> int:
        """How many batches one pass gives."""
        whole, rest = divmod(len(self), batch_size)
        return whole + (rest > 0 and not drop_last)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        bucketed: bool = True,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One pass in padded batches, in an order that (seed, epoch) fixes.

        Args:
            batch_size: B.
            shuffle: mix the sequences; else they keep their order.
            seed: first half of what fixes the order.
            epoch: second half.
            bucketed: where shuffled, sort by length within windows of some batches, so that
                little is padded, and mix the batches afterwards.
            drop_last: leave out a last batch that is not full.

        Raises:
            UserError: if batch_size is not positive.
        """
        order = BatchOrder(
            len(self),
            batch_size,
            self.lengths_of,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            bucketed=bucketed,
            drop_last=drop_last,
        )
        for indices, _, _ in order.batches():
            yield self[indices].batch()

    def stream_batches(self, batch_size: int, *, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        """One pass in batches whose rows go on where those of the batch before ended.

        See :func:`zpyro.datasets.batching.stream_batches`.

        Raises:
            UserError: if the sequences are no rows of streams.
        """
        rows = stream_batches(self.streams, batch_size, seed=seed, epoch=epoch)
        return (self.stream_batch(*each) for each in rows)

    @property
    def streams(self) -> NDArray[np.int64]:
        """A number for the stream that each sequence is a row of, (N,).

        Raises:
            UserError: if the sequences are no rows of streams.
        """
        streams = self.values.streams if isinstance(self.values, Stored) else None
        if streams is None:
            raise UserError("these sequences are no rows of longer streams; no state to carry")
        return streams

    def stream_batch(self, rows: NDArray[np.int64], continues: NDArray[np.bool_]) -> Batch:
        """Some rows as one batch, and whether each goes on with the one before in its place."""
        return replace(self[rows].batch(), continues=torch.from_numpy(continues))

    def batch(self, steps: int = 0) -> Batch:
        """All sequences as one batch.

        Args:
            steps: pad to so many steps where none is longer.
        """
        return collate([self._sample(index) for index in range(len(self))], steps=steps)

    def training_batch(self, *, seed: int = 0, epoch: int = 0) -> Batch:
        """All sequences as one batch, each changed by the augmentation, if there is one.

        The random numbers depend only on seed, epoch and the name of each sequence, so training
        that was interrupted continues with the same ones, on any number of processes.

        Args:
            seed: of the training.
            epoch: the pass over the data.
        """
        if self.augmentation is None:
            return self.batch()
        values = tuple(
            self.augmentation(value, np.random.default_rng([seed, epoch, _key(name)]))
            for value, name in zip(self.values, self.names, strict=True)
        )
        return replace(self, values=values, augmentation=None).batch()

    def _sample(self, index: int) -> Sample | SeriesSample:
        x = torch.from_numpy(np.ascontiguousarray(self.values[index]))
        x = x.long() if self.data_type == "tokens" else x
        x = x.float() if self.data_type == "binary" else x
        start = None
        if self.start is not None:
            start = torch.from_numpy(np.array(self.start[index]))
        if self.observed is None and self.covariates is None:
            return Sample(x, start, self.names[index])
        observed = None if self.observed is None else torch.from_numpy(self.observed[index])
        covariates = None
        if self.covariates is not None:
            covariates = torch.from_numpy(np.asarray(self.covariates[index], dtype=np.float32))
        return SeriesSample(x, start, self.names[index], observed, covariates)

    def masks(self) -> tuple[Array, ...]:
        """Which numbers are known, one boolean array a sequence, also where all are."""
        if self.observed is not None:
            return self.observed
        return tuple(np.ones(value.shape, dtype=bool) for value in self.values)

    def renormalized(self, normalization: Normalization) -> Sequences:
        """The same sequences on another scale, such as that of the data a model was trained on."""
        old = self.normalization
        if old == normalization or self.data_type not in ("audio", "frames"):
            return self

        def moved(values: Array) -> Array:
            return normalization.apply(old.invert(values))

        values, start = self.values, self.start
        if isinstance(values, Stored):
            values = values.renormalized(normalization)
        else:
            values = tuple(moved(value) for value in values)
            if self.observed is not None:
                pairs = zip(values, self.observed, strict=True)
                values = tuple(np.where(mask, value, np.float32(0)) for value, mask in pairs)
        if start is not None:
            stored = isinstance(start, Stored)
            start = start.renormalized(normalization) if stored else moved(start)
        return replace(self, values=values, start=start, normalization=normalization)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set in three splits.

    Attributes:
        name: as on the command line.
        train: what models and normalization are fitted to.
        valid: what models are chosen by.
        test: what is reported.
        likelihood: the natural likelihood's name, see :mod:`zpyro.likelihoods`.
        frame_size: D, or the size of the vocabulary for tokens.
        notes: what a user should know of how it was read.
        vocabulary: the words behind tokens, or None where tokens are only numbers.
        settings: the settings it was read with, and in them what the files decided, such as the
            names of columns; None where the files decide nothing.
    """

    name: str
    train: Sequences
    valid: Sequences
    test: Sequences
    likelihood: str
    frame_size: int
    notes: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    settings: Any = None

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {self.split(name).summary()}" for name in SPLITS)
        return f"Dataset({self.name!r}, {splits}, likelihood={self.likelihood!r})"

    @property
    def has_missing(self) -> bool:
        """Whether some split has missing values."""
        return any(self.split(name).observed is not None for name in SPLITS)

    @property
    def covariate_size(self) -> int:
        """C, 0 without covariates."""
        return self.train.covariate_size

    def split(self, name: str) -> Sequences:
        """The split of that name, or every sequence for "all".

        Raises:
            UserError: for another name.
        """
        if name == "all":
            return concatenate((self.train, self.valid, self.test))
        if name not in SPLITS:
            raise UserError(f"split {name!r} is unknown; choose train, valid, test or all")
        return getattr(self, name)


def concatenate(parts: Sequence[Sequences]) -> Sequences:
    """Sequences one after another; they must share normalization, kind and covariates."""
    first = parts[0]
    masks = None
    if any(part.observed is not None for part in parts):
        masks = tuple(mask for part in parts for mask in part.masks())
    return replace(
        first,
        values=_joined([part.values for part in parts]),
        names=_joined([part.names for part in parts]),
        start=_joined_start([part.start for part in parts if part.start is not None]),
        observed=masks,
        covariates=None
        if first.covariates is None
        else _joined([part.covariates for part in parts]),
    )


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Stored):
        return first.joined(parts[1:])
    return tuple(element for part in parts for element in part)


def _joined_start(parts: Sequence[Any]) -> Any:
    if parts and isinstance(parts[0], Stored):
        return _joined(parts)
    return np.concatenate(parts) if parts else None


def _chosen(parts: tuple[T, ...] | Stored[T], indices: NDArray[np.int64]) -> Any:
    return parts.chosen(indices) if isinstance(parts, Stored) else tuple(parts[i] for i in indices)
