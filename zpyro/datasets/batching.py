"""Batches, and the one rule by which sequences become batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.errors import UserError

BUCKET_BATCHES = 16
"""Sequences are sorted by length within windows of this many batches."""

Indices = NDArray[np.int64]


class Sample(NamedTuple):
    """One sequence, as a data set in the sense of torch gives it.

    Attributes:
        x: frames (T, D) float32 or tokens (T,) int64.
        start: x_0, (D,) or (), or None for the likelihood's default.
        name: of the sequence.
    """

    x: Tensor
    start: Tensor | None
    name: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences.

    Attributes:
        x: frames (B, T, D) float32 or tokens (B, T) int64, zeros beyond the lengths.
        lengths: (B,) int64, on the CPU so that reading them never stalls an accelerator.
        start: x_0, (B, D) or (B,), or None for the likelihood's default.
        names: one a sequence.
        continues: whether each goes on where the one in its place of the batch before ended, (B,);
            None in batches that are mixed.
    """

    x: Tensor
    lengths: Tensor
    start: Tensor | None
    names: tuple[str, ...]
    continues: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_frames(self) -> int:
        """Frames that count, padding left out."""
        return int(self.lengths.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with x and start on a device."""
        start = None if self.start is None else self.start.to(device)
        return replace(self, x=self.x.to(device), start=start)


def collate(samples: Sequence[Sample], *, steps: int = 0) -> Batch:
    """Sequences as one padded batch; the ``collate_fn`` of a ``torch.utils.data.DataLoader``.

    Args:
        samples: at least one.
        steps: pad to so many steps where none is longer.

    Example::

        loader = DataLoader(data.train, 32, shuffle=True, collate_fn=zpyro.datasets.collate)
    """
    x = torch.nn.utils.rnn.pad_sequence([sample.x for sample in samples], batch_first=True)
    if steps > x.shape[1]:
        filler = x.new_zeros(len(x), steps - x.shape[1], *x.shape[2:])
        x = torch.cat([x, filler], dim=1)
    starts = [sample.start for sample in samples if sample.start is not None]
    lengths = torch.tensor([len(sample.x) for sample in samples], dtype=torch.int64)
    start = torch.stack(starts) if starts else None
    return Batch(x, lengths, start, tuple(sample.name for sample in samples))


def groups(
    lengths: Indices,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    bucketed: bool = True,
    drop_last: bool = False,
) -> list[Indices]:
    """Which sequences each batch of a pass holds; nothing is read for it.

    Args:
        lengths: of the sequences, (N,).
        batch_size: B; the rest as in :meth:`zpyro.datasets.sequences.Sequences.batches`.

    Raises:
        UserError: if batch_size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}; give a positive number")
    order = np.arange(len(lengths))
    random = _random(seed, epoch)
    if shuffle:
        order = random.permutation(order)
    if shuffle and bucketed:
        windows = _pieces(order, batch_size * BUCKET_BATCHES)
        windows = [window[np.argsort(lengths[window], kind="stable")] for window in windows]
        order = np.concatenate(windows) if windows else order
    found = _pieces(order, batch_size)
    if drop_last:
        found = [group for group in found if len(group) == batch_size]
    if shuffle:
        found = [found[i] for i in random.permutation(len(found))]
    return found


def stream_batches(
    streams: Indices, batch_size: int, *, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """A pass in batches whose rows go on where those of the batch before ended.

    The streams, in an order that (seed, epoch) fixes, are laid end to end and cut into
    ``batch_size`` parts; each batch takes the next row of every part.

    Args:
        streams: a number for the stream of each row, rows of a stream together and in order, (N,).
        batch_size: B; the last batches may have fewer rows.
        seed: first half of what fixes the order.
        epoch: second half.

    Yields:
        Which rows, (B,), and whether each goes on with the stream of the row before it, (B,).
    """
    borders = np.flatnonzero(np.diff(streams)) + 1
    parts = np.split(np.arange(len(streams)), borders)
    order = np.concatenate([parts[i] for i in _random(seed, epoch).permutation(len(parts))])
    steps = -(-len(order) // batch_size)
    for step in range(steps):
        places = np.arange(step, len(order), steps)
        rows = order[places]
        continues = np.zeros(len(rows), dtype=bool)
        if step:
            before = order[places - 1]
            continues = (before == rows - 1) & (streams[before] == streams[rows])
        yield rows, continues


def _random(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch)))


def _pieces(order: Indices, size: int) -> list[Indices]:
    return [order[i : i + size] for i in range(0, len(order), size)]
