"""Batches, and the one rule by which sequences become batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.errors import UserError

BUCKET_BATCHES = 16
"""Sequences are sorted by length within windows of this many batches."""

PADDED = 1.25
"""Frames of a batch with its padding over those without, where batches need no fixed size."""
FEW = 4
"""A batch of fewer sequences saves no time, however little is padded."""

LANE_ROWS = 512
"""A larger batch is put together from lanes of at most so many rows."""
PIECE_ROWS = 1 << 10
"""Neighbors that stay in one block of a large data set."""
BLOCK_ROWS = 1 << 18
"""About so many sequences are mixed at a time."""

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


class SeriesSample(NamedTuple):
    """One sequence with missing values or covariates.

    Attributes:
        x: frames (T, D) float32 or tokens (T,) int64, zeros where they are missing.
        start: x_0, (D,) or (), or None for the likelihood's default.
        name: of the sequence.
        observed: True where a number of x is known, shaped as x; None where all are.
        covariates: u_1..u_T, (T, C) float32, or None.
    """

    x: Tensor
    start: Tensor | None
    name: str
    observed: Tensor | None
    covariates: Tensor | None


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded sequences.

    Attributes:
        x: frames (B, T, D) float32 or tokens (B, T) int64, zeros beyond the lengths and where they
            are missing.
        lengths: (B,) int64, on the CPU so that reading them never stalls an accelerator.
        start: x_0, (B, D) or (B,), or None for the likelihood's default.
        names: one a sequence.
        continues: whether each goes on where the one in its place of the batch before ended, (B,);
            None in batches that are mixed.
        observed: True where a number of x is known, shaped as x; None where all are.
        covariates: u_1..u_T, (B, T, C) float32, zeros beyond the lengths, or None.
    """

    x: Tensor
    lengths: Tensor
    start: Tensor | None
    names: tuple[str, ...]
    continues: Tensor | None = None
    observed: Tensor | None = None
    covariates: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_frames(self) -> int:
        """Frames that count, padding left out."""
        return int(self.lengths.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all but the lengths on a device."""
        names = ("start", "observed", "covariates")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        moved = {name: values.to(device) for name, values in given.items()}
        return replace(self, x=self.x.to(device), **moved)


def collate(samples: Sequence[Sample | SeriesSample], *, steps: int = 0) -> Batch:
    """Sequences as one padded batch; the ``collate_fn`` of a ``torch.utils.data.DataLoader``.

    Args:
        samples: at least one.
        steps: pad to so many steps where none is longer.

    Example::

        loader = DataLoader(data.train, 32, shuffle=True, collate_fn=zpyro.datasets.collate)
    """
    x = padded([sample.x for sample in samples], steps)
    series = [sample for sample in samples if isinstance(sample, SeriesSample)]
    covariates = [sample.covariates for sample in series if sample.covariates is not None]
    masks: list[Tensor] = []
    if any(sample.observed is not None for sample in series):
        masks = [_mask(sample) for sample in samples]
    starts = [sample.start for sample in samples if sample.start is not None]
    lengths = torch.tensor([len(sample.x) for sample in samples], dtype=torch.int64)
    start = torch.stack(starts) if starts else None
    return Batch(
        x,
        lengths,
        start,
        tuple(sample.name for sample in samples),
        observed=padded(masks, steps) if masks else None,
        covariates=padded(covariates, steps) if covariates else None,
    )


def _mask(sample: Sample | SeriesSample) -> Tensor:
    observed = sample.observed if isinstance(sample, SeriesSample) else None
    return torch.ones_like(sample.x, dtype=torch.bool) if observed is None else observed


def padded(values: Sequence[Tensor], steps: int = 0) -> Tensor:
    """Tensors (T_i, ...) as one (B, T, ...), zeros (or False) beyond each.

    Args:
        values: at least one.
        steps: pad to so many steps where none is longer.
    """
    together = torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)
    if steps <= together.shape[1]:
        return together
    missing = steps - together.shape[1]
    filler = together.new_zeros(len(together), missing, *together.shape[2:])
    return torch.cat([together, filler], dim=1)


def similar_batches(lengths: Indices, batch_size: int) -> list[slice]:
    """Batches of sequences that follow one another by length, with little padding.

    A batch ends early where the next sequence would make padded frames more than :data:`PADDED`
    times its own frames, but has at least a sixteenth of ``batch_size`` sequences, and at least
    :data:`FEW`.

    Args:
        lengths: of the sequences, ascending, (N,).
        batch_size: sequences in a batch, at most.

    Raises:
        UserError: if batch_size is not positive.

    Example:
        >>> similar_batches(np.array([8, 9, 9, 9, 60, 70]), 6)
        [slice(0, 4, None), slice(4, 6, None)]
    """
    _check_size(batch_size)
    fewest = max(FEW, batch_size // 16)
    batches: list[slice] = []
    first = frames = 0
    for place, length in enumerate(lengths.tolist()):
        count = place - first
        padded = length * (count + 1) > PADDED * (frames + length)
        if count == batch_size or (padded and count >= fewest):
            batches.append(slice(first, place))
            first = place
            frames = 0
        frames += length
    batches.append(slice(first, len(lengths)))
    return batches


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}; give a positive number")


@dataclass(frozen=True, eq=False)
class BatchOrder:
    """Which sequences each batch of a pass holds; (seed, epoch) fixes it.

    Up to about :data:`BLOCK_ROWS` sequences are mixed as a whole. Of more, pieces of
    :data:`PIECE_ROWS` neighbors are mixed, and then the sequences within blocks of about
    :data:`BLOCK_ROWS`. A batch of more than :data:`LANE_ROWS` rows is a row of lanes, each with a
    share of the data and an order of its own. Memory therefore does not grow with the data, and the
    work of one process of several not with their number.

    Args:
        count: sequences in all, N.
        batch_size: B.
        lengths: of the sequences with some indices.
        shuffle: mix the sequences; else they keep their order.
        seed: first half of what fixes the order.
        epoch: second half.
        bucketed: where shuffled, sort by length within windows of :data:`BUCKET_BATCHES` batches,
            and mix the batches afterwards.
        drop_last: leave out a last batch that is not full.

    Raises:
        UserError: if batch_size is not positive.

    Example:
        >>> order = BatchOrder(5, 2, lambda indices: 1 + indices)
        >>> [rows.tolist() for rows, _, _ in order.batches()]
        [[0, 1], [2, 3], [4]]
    """

    count: int
    batch_size: int
    lengths: Callable[[Indices], Indices]
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    bucketed: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        _check_size(self.batch_size)

    def __len__(self) -> int:
        """How many batches there are."""
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def batches(
        self, first: int = 0, part: Callable[[int], range] = range
    ) -> Iterator[tuple[Indices, range, int]]:
        """The batches from a number on, or the part of each that one process of several has.

        Args:
            first: number of the first batch.
            part: gives the places of this process in a batch of so many rows, one after another.

        Yields:
            Sequences of this process, their places in the batch, and the rows of the whole batch.
        """
        per_block = max(1, BLOCK_ROWS // (self.batch_size * BUCKET_BATCHES)) * BUCKET_BATCHES
        for block in range(first // per_block, -(-len(self) // per_block)):
            begin = block * per_block
            end = min(begin + per_block, len(self))
            lanes: dict[int, list[Indices]] = {}
            for number in self._mixed_batches(begin, end, lanes)[max(0, first - begin) :]:
                total = min(self.batch_size, self.count - number * self.batch_size)
                places = part(total)
                yield self._rows(number, total, places, (begin, end), lanes), places, total

    # -- one batch of a block ---------------------------------------------------------------------

    @property
    def _lanes(self) -> int:
        return -(-self.batch_size // LANE_ROWS) if self.shuffle else 1

    def _is_mixed_as_a_whole(self, begin: int, end: int) -> bool:
        return self._lanes == 1 and (begin, end) == (0, len(self))

    def _mixed_batches(self, begin: int, end: int, lanes: dict[int, list[Indices]]) -> list[int]:
        """The batches of a block in the order in which they are used."""
        if not self.shuffle:
            return list(range(begin, end))
        random = _random(self.seed, self.epoch, 1 + begin)
        if self._is_mixed_as_a_whole(begin, end):
            random = _random(self.seed, self.epoch)
            lanes[0] = self._lane(0, begin, end, random)
        return (begin + random.permutation(end - begin)).tolist()

    def _rows(
        self,
        number: int,
        total: int,
        places: range,
        block: tuple[int, int],
        lanes: dict[int, list[Indices]],
    ) -> Indices:
        """The sequences at some places of a batch."""
        begin, end = block
        if not self.shuffle:
            return number * self.batch_size + np.arange(places.start, places.stop)
        found: list[Indices] = []
        borders = _shares(total, self._lanes)
        for lane in range(self._lanes):
            low, high = max(places.start, borders[lane]), min(places.stop, borders[lane + 1])
            if low >= high:
                continue
            if lane not in lanes:
                random = _random(self.seed, self.epoch, 1 + begin, 1 + lane)
                lanes[lane] = self._lane(lane, begin, end, random)
            found.append(lanes[lane][number - begin][low - borders[lane] : high - borders[lane]])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _lane(self, lane: int, begin: int, end: int, random: np.random.Generator) -> list[Indices]:
        """The sequences of one lane in each batch of a block."""
        full, rest = divmod(self.count, self.batch_size)
        wide, narrow = _shares(self.batch_size, self._lanes), _shares(rest, self._lanes)
        size = wide[lane + 1] - wide[lane]
        # The lanes divide the data: a share of all full batches, and one of what is left.
        first = full * wide[lane] + narrow[lane]
        last = full * wide[lane + 1] + narrow[lane + 1]
        order = np.arange(first + begin * size, last if end == len(self) else first + end * size)
        if not self._is_mixed_as_a_whole(begin, end):
            order = self._with_mixed_pieces(order)
        order = random.permutation(order)
        if self.bucketed:
            windows = _pieces(order, size * BUCKET_BATCHES)
            lengths = map(self.lengths, windows)
            windows = [
                window[np.argsort(length, kind="stable")]
                for window, length in zip(windows, lengths, strict=True)
            ]
            order = np.concatenate(windows) if windows else order
        return _pieces(order, size)

    def _with_mixed_pieces(self, places: Indices) -> Indices:
        """The sequences at some places of all data, its pieces mixed; what fills none is last."""
        pieces = _random(self.seed, self.epoch).permutation(self.count // PIECE_ROWS)
        piece, within = np.divmod(places, PIECE_ROWS)
        filled = piece < len(pieces)
        mixed = places.copy()
        mixed[filled] = pieces[piece[filled]] * PIECE_ROWS + within[filled]
        return mixed


def stream_batches(
    streams: Indices, batch_size: int, *, seed: int = 0, epoch: int = 0, first: int = 0
) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """A pass in batches whose rows go on where those of the batch before ended.

    The streams, in an order that (seed, epoch) fixes, are laid end to end and cut into
    ``batch_size`` parts; each batch takes the next row of every part.

    Args:
        streams: a number for the stream of each row, rows of a stream together and in order, (N,).
        batch_size: B; the last batches may have fewer rows.
        seed: first half of what fixes the order.
        epoch: second half.
        first: number of the first batch.

    Yields:
        Which rows, (B,), and whether each goes on with the stream of the row before it, (B,).
    """
    begins = np.concatenate([[0], *_borders(streams)])
    counts = np.diff(np.append(begins, len(streams)))
    order = _random(seed, epoch).permutation(len(begins))
    ends = np.cumsum(counts[order])
    steps = -(-len(streams) // batch_size)
    for step in range(first, steps):
        places = np.arange(step, len(streams), steps)
        stream = np.searchsorted(ends, places, side="right")
        within = places - (ends[stream] - counts[order[stream]])
        yield begins[order[stream]] + within, (within > 0) & (step > 0)


def _borders(streams: Indices) -> Iterator[Indices]:
    """Where a stream differs from the one before, a part of them at a time."""
    for first in range(0, len(streams), BLOCK_ROWS):
        part = np.asarray(streams[max(0, first - 1) : first + BLOCK_ROWS])
        yield max(0, first - 1) + 1 + np.flatnonzero(np.diff(part))


def _random(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(numbers))


def _shares(count: int, parts: int) -> list[int]:
    """The borders of equal parts of so many rows, (parts + 1,)."""
    return [count * number // parts for number in range(parts + 1)]


def _pieces(order: Indices, size: int) -> list[Indices]:
    return [order[i : i + size] for i in range(0, len(order), size)]
