"""A prepared data set: numbers in memory-mapped shards, read sequence by sequence."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.batching import Indices
from zpyro.datasets.prepared.index import (
    FORMAT,
    INDEX,
    SPLITS,
    VERSION,
    read_index,
    read_table,
)
from zpyro.datasets.prepared.numbers import Array, Numbers
from zpyro.datasets.sequences import Dataset, Normalization, Sequences, Stored
from zpyro.errors import UserError, pluralize
from zpyro.io import files

__all__ = ["FORMAT", "INDEX", "SPLITS", "VERSION", "Store", "is_prepared"]


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared data set."""
    # Of a folder that may not be entered, pathlib would raise the error.
    return os.path.isfile(folder / INDEX)


class Store:
    """A prepared data set in a folder.

    Args:
        folder: where it is.

    Attributes:
        folder: where it is.
        index: what its index says.
        numbers: what is stored.

    Raises:
        UserError: if it is damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)
        shards = [(shard["file"], shard["count"]) for shard in self.index["shards"]]
        self.numbers = Numbers(folder, shards, self.index["dtype"])

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)

    @property
    def normalization(self) -> Normalization:
        """Of the training split, for raw samples."""
        return Normalization(*self.index["normalization"])

    def split(self, name: str) -> Sequences:
        """The sequences of a split, read when they are needed."""
        table = read_table(self.folder, name, self.index, len(self.numbers))
        labels = self.index["splits"][name]["labels"]
        return self.sequences(table, labels, self.normalization)

    def sequences(
        self, table: Indices, labels: list[str], normalization: Normalization
    ) -> Sequences:
        """Sequences for the rows of a table, see :class:`zpyro.datasets.prepared.Split`."""
        index = self.index
        shape = index["image_shape"]
        return Sequences(
            values=StoredValues(self, table, normalization),
            names=StoredNames(table, labels),
            start=StoredStart(self, table, normalization) if index["start"] else None,
            normalization=normalization,
            sample_rate=index["sample_rate"],
            data_type=index["kind"],
            image_shape=None if shape is None else (shape[0], shape[1]),
            notes=tuple(index["notes"]),
        )

    def dataset(self, **more: Any) -> Dataset:
        """The data set in its three splits."""
        index = self.index
        train, valid, test = (self.split(name) for name in SPLITS)
        notes = tuple(index["notes"])
        if index["skipped"]:
            notes += (f"left out, not readable: {pluralize(len(index['skipped']), 'file')}",)
        size = index["frame_size"]
        likelihood = index["likelihood"]
        return Dataset(index["name"], train, valid, test, likelihood, size, notes, **more)

    def check(self, name: str, settings: Mapping[str, Any]) -> None:
        """Make sure that this is the data set of that name, prepared with these settings.

        Raises:
            UserError: naming what differs first.
        """
        if self.index["name"] != name:
            raise UserError(
                f"{self.folder}: is the data set {self.index['name']}, prepared;"
                f" pass --dataset {self.index['name']}"
            )
        prepared = self.index["settings"]
        for name, value in json.loads(json.dumps(settings)).items():
            if name in prepared and prepared[name] != value:
                raise UserError(
                    f"{self.folder}: was prepared with data.{name}={prepared[name]}, not {value};"
                    f" pass --set data.{name}={prepared[name]}, or prepare it again"
                )

    def verify(self) -> None:
        """Compare the sha256 of every file with the index.

        Raises:
            UserError: naming the first that differs.
        """
        tables = {f"{name}.npy": self.index["splits"][name]["sha256"] for name in SPLITS}
        shards = {shard["file"]: shard["sha256"] for shard in self.index["shards"]}
        for name, expected in {**shards, **tables}.items():
            path = self.folder / name
            if not path.is_file() or files.checksum(path) != expected:
                raise UserError(f"{path}: is damaged; prepare the data set again")

    @property
    def checksum(self) -> str:
        """Of the whole data set, by the sums in its index."""
        sums = [shard["sha256"] for shard in self.index["shards"]]
        sums += [self.index["splits"][name]["sha256"] for name in SPLITS]
        return hashlib.sha256("".join(sums).encode()).hexdigest()


class StoredFrames(Stored[Array]):
    """Frames of sequences, normalized as they are read."""

    def __init__(self, store: Store, table: Indices, normalization: Normalization) -> None:
        self.store, self.table, self.normalization = store, table, normalization

    def __len__(self) -> int:
        return len(self.table)

    def chosen(self, indices: Indices) -> Self:
        return type(self)(self.store, self.table[indices], self.normalization)

    def joined(self, others: Sequence[Any]) -> Self:
        tables = [self.table, *(other.table for other in others)]
        return type(self)(self.store, np.concatenate(tables), self.normalization)

    def renormalized(self, normalization: Normalization) -> Self:
        return type(self)(self.store, self.table, normalization)

    def _frames(self, first: int, count: int) -> Array:
        """Stored numbers as frames (T, D) or tokens (T,)."""
        numbers, index = self.store.numbers.read(first, count), self.store.index
        largest = {"tokens": index["frame_size"] - 1, "binary": 1}.get(index["kind"])
        if largest is not None and not 0 <= numbers.min() <= numbers.max() <= largest:
            raise UserError(
                f"{self.store.folder}: is damaged, it holds {index['kind']} beyond {largest};"
                f" zpyro data verify {shlex.quote(str(self.store.folder))} says where"
            )
        if index["kind"] == "tokens":
            # A copy: torch wants to be able to write.
            return np.array(numbers)
        frames = numbers.reshape(-1, index["frame_size"])
        if index["kind"] == "binary":
            # A copy: torch takes no arrays that must not be written to.
            return np.array(frames)
        return self.normalization.apply(frames * index["gain"])


class StoredValues(StoredFrames):
    """The scored frames of sequences."""

    def at(self, index: int) -> Array:
        start, count = (int(number) for number in self.table[index, :2])
        skipped = self._frame if self.store.index["start"] else 0
        return self._frames(start + skipped, count - skipped)

    @property
    def lengths(self) -> NDArray[np.int64]:
        counts = np.asarray(self.table[:, 1]) // self._frame
        return counts - 1 if self.store.index["start"] else counts

    @property
    def streams(self) -> Indices | None:
        numbered = len(self.table) and (np.asarray(self.table[:, 3]) >= 0).all()
        return np.asarray(self.table[:, 2]) if numbered else None

    @property
    def _frame(self) -> int:
        """Stored numbers in a frame."""
        index = self.store.index
        return 1 if index["kind"] == "tokens" else int(index["frame_size"])


class StoredStart(StoredFrames):
    """The start frames of sequences."""

    def at(self, index: int) -> Array:
        frame = self.store.index["frame_size"]
        return self._frames(int(self.table[index, 0]), frame)[0]


class StoredNames(Stored[str]):
    """The names of sequences."""

    def __init__(self, table: Indices, labels: list[str]) -> None:
        self.table, self.labels = table, labels

    def __len__(self) -> int:
        return len(self.table)

    def at(self, index: int) -> str:
        label, number = (int(part) for part in self.table[index, 2:])
        return self.labels[label] if number < 0 else f"{self.labels[label]}#{number}"

    def chosen(self, indices: Indices) -> StoredNames:
        return StoredNames(self.table[indices], self.labels)

    def joined(self, others: Sequence[Any]) -> StoredNames:
        tables, labels = [np.array(self.table)], list(self.labels)
        for other in others:
            table = np.array(other.table)
            table[:, 2] += len(labels)
            tables.append(table)
            labels += other.labels
        return StoredNames(np.concatenate(tables), labels)
