"""What a data set tells the preparation of its files, and what it gets back."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.batching import Indices
from zpyro.datasets.prepared.store import Store
from zpyro.datasets.sequences import Dataset

Array = NDArray[Any]


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Attributes:
        key: its name in the prepared data set, unique; mostly the path below the source.
        path: the file.
        group: what the layout says of its split, "train", "valid", "test" or nothing.
    """

    key: str
    path: Path
    group: str = ""


@dataclass(frozen=True, eq=False)
class ParsedFile:
    """What one file gives: numbers one after another, perhaps of several sequences.

    Attributes:
        values: raw numbers of the corpus's type, (count,).
        lengths: how many numbers each sequence has; their sum is the count.
        names: of the sequences where there are several, or nothing.
        metadata: what else is to be remembered of the file, in JSON.
    """

    values: Array
    lengths: Sequence[int]
    names: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class FileSpan:
    """Where a file's numbers stand among those of all files.

    Attributes:
        key: of the item.
        group: of the item.
        start: position of its first number.
        lengths: of its sequences, in numbers.
        names: of its sequences, or nothing.
        metadata: as read.
    """

    key: str
    group: str
    start: int
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    metadata: Mapping[str, Any]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return sum(self.lengths)


@dataclass(frozen=True, eq=False)
class Split:
    """The sequences of one split.

    Attributes:
        rows: (N, 4): first number, how many, index of the label, number within it or -1.
        labels: what sequences are called; those with a number are ``label#number``.
    """

    rows: Indices
    labels: Sequence[str]


@dataclass(frozen=True)
class Layout:
    """How the numbers of a prepared data set are to be read as sequences of frames.

    Attributes:
        data_type: see :class:`zpyro.datasets.sequences.Sequences`.
        likelihood: the natural likelihood's name.
        frame_size: D, or the size of the vocabulary for tokens.
        start: whether the first frame of each sequence is its start frame.
        gain: raw samples are the stored numbers times this.
        normalized: whether frames are scaled by the mean and deviation of the training split.
        sample_rate: samples a second, for audio.
        image_shape: rows and columns, for pictures.
        vocabulary: whatever the corpus needs to make its vocabulary again, in JSON.
        notes: what a user should know.
    """

    data_type: str
    likelihood: str
    frame_size: int
    start: bool = False
    gain: float = 1.0
    normalized: bool = False
    sample_rate: int | None = None
    image_shape: tuple[int, int] | None = None
    vocabulary: Any = None
    notes: tuple[str, ...] = ()


class Reader(abc.ABC):
    """Reads the files of one shard, in order, in a process of its own."""

    @abc.abstractmethod
    def read(self, item: SourceFile) -> ParsedFile:
        """The numbers of a file.

        Raises:
            UserError: naming the file and what is wrong with it.
        """

    def metadata(self) -> Any:
        """What the shard's files have in common that is needed later, in JSON."""
        return None


class Corpus(abc.ABC):
    """A data set in its original files. One has no state and can be pickled.

    Attributes:
        name: as in ``--dataset NAME``.
        dtype: of the stored numbers, "int16", "uint8" or "int32".
        revision: raised when the same files give other numbers, so that cached ones are not used.
    """

    name: str
    dtype: str
    revision: int = 1

    @abc.abstractmethod
    def items(self, source: Path, settings: Any) -> list[SourceFile]:
        """The files, in the order in which they are stored.

        Raises:
            UserError: if the layout is not that of the corpus.
        """

    def file_notes(self, source: Path, settings: Any) -> tuple[str, ...]:
        """What a user should know of which files are read as what, and which are left out."""
        del source, settings
        return ()

    @abc.abstractmethod
    def reader(self, settings: Any) -> Reader:
        """What reads the files of one shard."""

    @abc.abstractmethod
    def make_splits(
        self, spans: Sequence[FileSpan], shard_metadata: Sequence[Any], settings: Any
    ) -> tuple[dict[str, Split], Layout]:
        """The splits and how to read them, once all files are stored.

        Raises:
            UserError: if a split would be empty.
        """

    def translate(self, shard_metadata: Any, layout: Layout) -> Array | None:
        """The final number of every stored one of a shard, or None where they are final."""
        del shard_metadata, layout

    def dataset(self, store: Store) -> Dataset:
        """The data set of a prepared folder."""
        return store.dataset()


def cut_rows(
    streams: Sequence[tuple[str, int, int]],
    frame_size: int,
    segment_length: int,
    *,
    whole: bool = True,
) -> tuple[Indices, list[str]]:
    """Rows of a start frame and ``segment_length`` scored ones, contiguous in each stream.

    The start frame of a row is the last scored frame of the row before, so that every frame but
    the first of a stream is scored once.

    Args:
        streams: (label, first number, how many) of each.
        frame_size: numbers in a frame.
        segment_length: scored frames in a row.
        whole: leave out what does not fill a row at a stream's end; else it is a shorter row.

    Returns:
        The rows, as in :class:`Split`, and the labels.
    """
    parts = [
        _rows_of(index, start, max(0, count // frame_size - 1), frame_size, segment_length, whole)
        for index, (_, start, count) in enumerate(streams)
    ]
    rows = np.concatenate(parts) if parts else np.zeros((0, 4), dtype=np.int64)
    return rows, [label for label, _, _ in streams]


def _rows_of(
    index: int, start: int, scored: int, frame_size: int, segment_length: int, whole: bool
) -> Indices:
    count = scored // segment_length if whole else -(-scored // segment_length)
    numbers = np.arange(count)
    rows = np.empty((count, 4), dtype=np.int64)
    rows[:, 0] = start + numbers * segment_length * frame_size
    rows[:, 1] = (1 + np.minimum(segment_length, scored - numbers * segment_length)) * frame_size
    rows[:, 2] = index
    rows[:, 3] = numbers
    return rows


def streams_of(spans: Sequence[FileSpan]) -> Iterator[tuple[str, int, int]]:
    """Each file as one stream: label, first number, how many."""
    for item in spans:
        yield item.key, item.start, item.count
