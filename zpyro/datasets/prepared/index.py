"""``index.json`` and the tables of a prepared data set, checked before anything is made of them.

A prepared data set may come from someone else: sizes, names and positions in it are compared with
the files that are there, so that no read leads out of the folder or out of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from zpyro.datasets.batching import Indices
from zpyro.datasets.formats.declared import DAMAGED
from zpyro.datasets.splitting import SPLITS
from zpyro.errors import UserError

INDEX = "index.json"
FORMAT, VERSION = "zpyro-prepared", 1

KINDS = ("audio", "frames", "binary", "tokens")
DTYPES = ("int16", "uint8", "int32")
LIKELIHOODS = {"tokens": ("categorical",), "binary": ("bernoulli",)}
"""The natural likelihoods of a kind, where they are not Gaussian."""

_LARGEST = 1 << 31
"""Bytes of an index; it names every source file and sequence label."""
_MOST = 1 << 62
_ROWS_AT_ONCE = 1 << 16


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a prepared data set, every entry of the type and within the bounds it needs.

    Raises:
        UserError: naming the file and the first entry that is not.
    """
    path = folder / INDEX
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: is larger than an index can be; point --data elsewhere")
        index = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the data set again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{path}: is not the index of a prepared data set; point --data elsewhere")
    if index.get("version") != VERSION:
        raise UserError(
            f"{path}: has version {index.get('version')!r}, this zpyro reads {VERSION};"
            " prepare the data set again"
        )
    _check(path, "", index, _ENTRIES)
    if index["likelihood"] not in LIKELIHOODS.get(index["kind"], ("gaussian", "gaussian-mixture")):
        raise UserError(f"{path}: is damaged, kind and likelihood differ; prepare it again")
    if index["start"] and index["kind"] == "tokens":
        raise UserError(f"{path}: is damaged, tokens have no start frames; prepare it again")
    for number, shard in enumerate(index["shards"]):
        _check(path, f"shard {number}: ", shard, _SHARD)
    for name in SPLITS:
        _check(path, f"{name}: ", index["splits"].get(name), _SPLIT)
    return index


def read_table(folder: Path, split: str, index: Mapping[str, Any], numbers: int) -> Indices:
    """The table of a split: start, count, label and number of each sequence, (N, 4).

    Args:
        folder: of the prepared data set.
        split: name of the split.
        index: of the data set.
        numbers: how many are stored in all shards.

    Raises:
        UserError: if the file is damaged, or a row leads out of the shards or the labels.
    """
    path = folder / f"{split}.npy"
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{path}: is damaged ({error}); prepare the data set again") from error
    expected = index["splits"][split]["sequences"], 4
    if not isinstance(table, np.ndarray) or table.shape != expected or table.dtype != np.int64:
        found = f"{getattr(table, 'dtype', 'no')} numbers of shape {getattr(table, 'shape', ())}"
        raise UserError(f"{path}: is damaged, it holds {found}; prepare the data set again")
    frame = 1 if index["kind"] == "tokens" else index["frame_size"]
    fewest = frame * (2 if index["start"] else 1)
    for first in range(0, len(table), _ROWS_AT_ONCE):
        start, count, label, number = np.asarray(table[first : first + _ROWS_AT_ONCE]).T
        sound = (start >= 0) & (count >= fewest) & (count <= numbers) & (start <= numbers - count)
        sound &= (count % frame == 0) & (label >= 0) & (number >= -1)
        if index["image_shape"] is not None:
            sound &= count == math.prod(index["image_shape"])
        sound &= label < len(index["splits"][split]["labels"])
        if not sound.all():
            row = first + int(np.argmin(sound))
            raise UserError(
                f"{path}: is damaged, row {row} leads out of the data; prepare the data set again"
            )
    return table


# -- what an entry must be ------------------------------------------------------------------------

Test = Callable[[Any], bool]


def _count(least: int) -> Test:
    return lambda value: type(value) is int and least <= value < _MOST


def _one_of(*values: str) -> Test:
    return lambda value: isinstance(value, str) and value in values


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e300


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _pair(test: Test) -> Test:
    return lambda value: isinstance(value, list) and len(value) == 2 and all(map(test, value))


def _file_name(value: Any) -> bool:
    """A plain name: nothing that leads out of the folder."""
    return isinstance(value, str) and PurePath(value).name == value and "\\" not in value


def _sources(value: Any) -> bool:
    return _tables(value) and all(
        _text(part.get("key")) and _count(0)(part.get("count")) for part in value
    )


def _skipped(value: Any) -> bool:
    return _tables(value) and all(
        _text(part.get("key")) and _text(part.get("problem")) for part in value
    )


_ENTRIES: dict[str, Test] = {
    "name": _text,
    "settings": lambda value: isinstance(value, dict),
    "dtype": _one_of(*DTYPES),
    "kind": _one_of(*KINDS),
    "likelihood": _text,
    "frame_size": _count(1),
    "start": _flag,
    "gain": lambda value: _number(value) and value > 0,
    "normalized": _flag,
    "sample_rate": _or_none(_count(1)),
    "image_shape": _or_none(_pair(_count(1))),
    "notes": _texts,
    "normalization": lambda value: _pair(_number)(value) and value[1] >= 0,
    "shards": _tables,
    "splits": lambda value: isinstance(value, dict),
    "sources": _sources,
    "skipped": _skipped,
}
_SHARD: dict[str, Test] = {"file": _file_name, "count": _count(0), "sha256": _text}
_SPLIT: dict[str, Test] = {"sequences": _count(0), "labels": _texts, "sha256": _text}


def _check(path: Path, where: str, table: Any, tests: Mapping[str, Test]) -> None:
    for name, test in tests.items():
        if not isinstance(table, dict) or name not in table or not test(table[name]):
            found = "is missing" if not isinstance(table, dict) or name not in table else "is wrong"
            raise UserError(
                f"{path}: is damaged, {where}{name} {found}; prepare the data set again"
            )
