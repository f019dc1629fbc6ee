"""The stored numbers of all shards as one long line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.errors import UserError

Array = NDArray[Any]


class Numbers:
    """Memory-mapped shards, read by position across their borders.

    Args:
        folder: where the shards are.
        shards: file name and count of numbers of each, in order.
        dtype: of the numbers.

    Raises:
        UserError: if a shard is missing or has another size.
    """

    def __init__(self, folder: Path, shards: Sequence[tuple[str, int]], dtype: str) -> None:
        self._arguments = folder, tuple(shards), dtype
        self._dtype = np.dtype(dtype)
        self._starts = np.cumsum([0, *(count for _, count in shards)])
        for name, count in shards:
            path = folder / name
            size = path.stat().st_size if path.exists() else None
            if size != count * self._dtype.itemsize:
                raise UserError(
                    f"{path}: is missing or cut short; prepare the data set again, or copy it anew"
                )

    def __reduce__(self) -> tuple[type[Numbers], tuple[Any, ...]]:
        # Another process maps the files itself.
        return Numbers, self._arguments

    @cached_property
    def _maps(self) -> list[Array]:
        folder, shards, _ = self._arguments
        return [
            np.memmap(folder / name, self._dtype, mode="r") if count else np.zeros(0, self._dtype)
            for name, count in shards
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, count: int) -> Array:
        """The numbers from a position on, (count,)."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts: list[Array] = []
        while count > 0:
            offset = start - int(self._starts[shard])
            part = self._maps[shard][offset : offset + count]
            parts.append(np.asarray(part))
            start, count, shard = start + len(part), count - len(part), shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def forget(self) -> None:
        """Give up the maps, which the system counts to this process, until the next read."""
        self.__dict__.pop("_maps", None)
