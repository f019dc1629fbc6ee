"""``npz``: the user's own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets.arrays import (
    ArraySettings,
    Named,
    assemble,
    checked,
    likelihood_of,
    rows,
    to_sequences,
)
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.declared import DAMAGED, check_declared
from zpyro.datasets.formats.folders import files_to_give, first_of, walk
from zpyro.datasets.sequences import Array, Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS, describe_split
from zpyro.errors import UserError, pluralize

MISSING = "give a .npz file or a folder of .npy files with --data PATH"


def load(path: Path, settings: ArraySettings) -> Dataset:
    """Read arrays (N, T, D), tokens (N, T), or sequences of unequal length.

    The file is a ``.npz`` with

    - ``x``: (N, T, D) or (N, T) of whole numbers, or
    - ``values`` (sum of T_i, D) or (sum of T_i,) and ``lengths`` (N,), or
    - ``train``, and ``valid`` (or ``validation``, ``val``, ``dev``) and ``test`` or one of them: as
      ``x``, splits given; one that is lacking is a share of train; each may be a pair instead,
      ``train_values`` and ``train_lengths``,

    or it is a folder of ``.npy`` files, one sequence (T_i, D) or (T_i,) each, perhaps in folders
    ``train``, ``valid`` and ``test``.

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    groups = read(path)
    names = [
        name if group == "all" else f"{group}/{name}"
        for group, pairs in groups.items()
        for name, _ in pairs
    ]
    notes = describe_split(names)
    return assemble("npz", str(path), groups, settings, split_names=names, notes=notes)


def load_all(path: Path, settings: ArraySettings, normalization: Normalization) -> Sequences:
    """Every sequence as one split, normalized as a trained model needs it.

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    named = [pair for group in read(path).values() for pair in group]
    kind = likelihood_of(str(path), named, settings)
    return to_sequences(named, kind, settings, normalization)


def read(path: Path) -> dict[str, Named]:
    """Named sequences by split, or all under "all".

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    if path.is_dir():
        files = sorted(file for file in walk(path) if file.suffix.lower() == ".npy")
        if not files:
            others = files_to_give(path, (".npz",))
            advice = f"give one of its .npz files: {others}" if others else MISSING
            raise UserError(f"{path} holds no .npy files; {advice}")
        names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
        return {"all": list(zip(names, _load_each(files), strict=True))}
    if not path.exists():
        raise UserError(f"{path} does not exist; {MISSING}")
    arrays = _load(path)
    if isinstance(arrays, np.ndarray):
        return {"all": rows(f"{path}", arrays)}
    given = _given_splits(path, arrays)
    if given and {"x", "values"} & arrays.keys():
        raise UserError(
            f"{path} has arrays {', '.join(sorted(arrays))}; give x (or values and lengths), or the"
            " splits, not both"
        )
    if "x" in arrays:
        return {"all": rows(f"{path}: x", arrays["x"])}
    if {"values", "lengths"} <= arrays.keys():
        return {"all": _ragged(f"{path}", "", arrays)}
    if "train" in given and len(given) > 1:
        return {
            split: rows(f"{path}: {name}", arrays[name])
            if name in arrays
            else _ragged(f"{path}", f"{name}_", arrays)
            for split, name in sorted(given.items(), key=lambda pair: SPLITS.index(pair[0]))
        }
    raise UserError(
        f"{path} has arrays {', '.join(sorted(arrays)) or 'none'}; it needs x, or values and"
        " lengths, or train, valid and test, or train_values and train_lengths and so on"
    )


def _given_splits(path: Path, arrays: Mapping[str, Array]) -> dict[str, str]:
    """The name, as it is spelled, of each split among arrays ``NAME`` or ``NAME_values``.

    Raises:
        UserError: if a split has two names, or one of values and lengths is lacking.
    """
    found: dict[str, str] = {}
    for array in arrays:
        name = array.removesuffix("_values").removesuffix("_lengths")
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            continue
        pair = {f"{name}_values", f"{name}_lengths"}
        other = found.setdefault(split, name)
        if other != name or (name in arrays and pair & arrays.keys()):
            twice = sorted({array, other} if other != name else {name, *pair & arrays.keys()})
            raise UserError(f"{path} has arrays {' and '.join(twice)} for one split; keep one")
        lacking = sorted(pair - arrays.keys())
        if array != name and lacking:
            raise UserError(f"{path} has array {array} but not {lacking[0]}; save both")
    return found


def load_plain(path: Path) -> Any:
    """The array of a ``.npy`` file, or those of a ``.npz`` by name, of plain numbers.

    Raises:
        UserError: if the file declares more than it holds.
        Exception: one of :data:`DAMAGED`, if it is damaged.
    """
    # Opened here, so that a file which is not an archive is closed all the same.
    with path.open("rb") as stream:
        check_declared(path, stream)
        found = np.load(stream, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found.items())


def _load(path: Path) -> Any:
    try:
        return load_plain(path)
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: cannot be read as plain arrays; save a .npz with numpy.savez, without Python"
            " objects (for unequal lengths: values and lengths)"
        ) from error


def _load_each(paths: Sequence[Path]) -> list[Array]:
    """The sequence of each file.

    Raises:
        UserError: naming the first file that cannot be used, and how many more there are.
    """
    found: list[Array] = []
    problems: list[UserError] = []
    for path in paths:
        try:
            found.append(checked(str(path), _load_one(path)))
        except UserError as problem:
            problems.append(problem)
    if problems:
        raise first_of(problems)
    return found


def _load_one(path: Path) -> Array:
    found = _load(path)
    if isinstance(found, dict):
        raise UserError(f"{path} holds several arrays; save one sequence a file with numpy.save")
    return found


def _ragged(label: str, prefix: str, arrays: Mapping[str, Array]) -> Named:
    """Sequences laid end to end in ``values``, as long as ``lengths`` say; both have a prefix."""
    values, lengths = arrays[f"{prefix}values"], arrays[f"{prefix}lengths"]
    if values.ndim < 1:
        raise UserError(f"{label}: {prefix}values has shape (); it must be (sum of lengths, D)")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        raise UserError(f"{label}: {prefix}lengths must be whole numbers of at least 1, shape (N,)")
    # As Python's whole numbers: a sum of 64-bit ones may wrap round.
    total = sum(lengths.tolist())
    if total != len(values):
        raise UserError(
            f"{label}: {prefix}lengths add up to {total} and {prefix}values has "
            f"{pluralize(len(values), 'row')};"
            " they must agree"
        )
    where = f"{label}: {prefix}values, sequence" if prefix else f"{label}: sequence"
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    return [(str(i), checked(f"{where} {i}", piece)) for i, piece in enumerate(pieces)]


ENTRY = DatasetEntry(
    "npz",
    "your own arrays: frames (N, T, D), tokens (N, T), or unequal lengths",
    ArraySettings,
    load,
    load_all,
    MISSING,
)
