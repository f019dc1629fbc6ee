"""The baselines for models of binary frames: tables of frequencies in the training data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.sequences import Sequences

Matrix = NDArray[np.float64]
Bits = NDArray[np.uint8]

PSEUDO_COUNT = 0.5
"""Of each value in each cell before anything was counted (Krichevsky and Trofimov, 1981)."""

GROUP = 1000
"""Sequences counted together."""


@dataclass(frozen=True, eq=False)
class BitTable:
    """p(x = 1) of each pixel, independent, given the one above, or given the left and upper one.

    An image has a table for each place in it. Other binary sequences share one over time; "left" is
    then the previous element of the frame, "above" the same element of the last frame.

    Attributes:
        probability: (R, C), (R, C, 2) by place and by the value above, or (R, C, 2, 2) by the
            values left and above; R is 1 where time shares the table.
    """

    probability: Matrix

    def score(self, sequences: Sequences) -> Matrix:
        """log-probability of each sequence, nats, (N,)."""
        scores: list[float] = []
        for images in _groups(sequences):
            on = self.probability
            if on.ndim > 2:
                given = _neighbors(images)[4 - on.ndim :]
                rows = np.arange(len(on))[:, None] if len(on) > 1 else 0
                on = on[rows, np.arange(on.shape[1]), *given]
            chance = np.where(images == 1, on, 1.0 - on)
            scores.extend(np.log(chance).sum((1, 2)).tolist())
        return np.array(scores)


def single_bits(train: Sequences) -> BitTable:
    """Independent pixels."""
    on, count = np.zeros(table_shape(train)), 0
    for images in _groups(train):
        pooled = len(on) == 1
        on += images.sum((0, 1) if pooled else 0, dtype=np.float64)
        count += images.shape[0] * (images.shape[1] if pooled else 1)
    return BitTable((on + PSEUDO_COUNT) / (count + 2 * PSEUDO_COUNT))


def neighboring_bits(train: Sequences) -> BitTable:
    """Every pixel given the one left of it and the one above it; zeros beyond the border."""
    return _conditional(train, slice(None))


def markov_bits(train: Sequences) -> BitTable:
    """Every pixel given the one above it, a Markov chain for each; zeros before the first row."""
    return _conditional(train, slice(1, None))


def _conditional(train: Sequences, which: slice) -> BitTable:
    """Every pixel given those of its left and upper neighbor that are asked for."""
    shape, given = table_shape(train), (2, 2)[which]
    counts = np.zeros((2, *shape, *given))
    for images in _groups(train):
        rows = np.zeros_like(images, np.int64)
        if shape[0] > 1:
            rows += np.arange(shape[0])[:, None]
        columns = np.broadcast_to(np.arange(shape[1]), images.shape)
        np.add.at(counts, (images, rows, columns, *_neighbors(images)[which]), 1.0)
    counts += PSEUDO_COUNT
    return BitTable(counts[1] / counts.sum(0))


def table_shape(sequences: Sequences) -> tuple[int, int]:
    """Rows and columns of places with separate probabilities."""
    if sequences.image_shape is not None:
        return sequences.image_shape
    return 1, sequences.frame_size


FITS = {"bernoulli": single_bits, "markov": markov_bits, "neighbors": neighboring_bits}
"""The baselines by the names they are stored and printed under."""


def shapes(sequences: Sequences) -> dict[str, tuple[int, ...]]:
    """The shape of each table for such data."""
    shape = table_shape(sequences)
    return {"bernoulli": shape, "markov": (*shape, 2), "neighbors": (*shape, 2, 2)}


def _groups(sequences: Sequences) -> Iterator[Bits]:
    """Sequences of one length together, (N, rows, columns), in order."""
    lengths = sequences.lengths
    ends = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    for begin, end in itertools.pairwise(ends):
        for first in range(begin, end, GROUP):
            values = sequences.values[first : min(first + GROUP, end)]
            stacked = np.stack([np.asarray(value, np.uint8) for value in values])
            shape = sequences.image_shape
            yield stacked if shape is None else stacked.reshape(len(stacked), *shape)


def _neighbors(images: Bits) -> tuple[Bits, Bits]:
    """The pixels left of each one and above it, zeros beyond the border."""
    left, above = np.zeros_like(images), np.zeros_like(images)
    left[:, :, 1:] = images[:, :, :-1]
    above[:, 1:] = images[:, :-1]
    return left, above
