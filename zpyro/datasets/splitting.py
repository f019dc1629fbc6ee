"""Which split a file belongs to: by a setting, by a whole name, or by a stable hash of its name.

:data:`SPLIT_NAMES` is the one table of names that stand for a split, in upper or lower case. A
folder must have such a name as a whole (``test/``). A file must have it as its whole name, or as
what follows the last dot, perhaps with a number (``test.txt``, ``ptb.test.txt``, ``dev-2.txt``).
``latest.txt``, ``train_station.wav`` and ``pretrain/`` stand for no split.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from zpyro.errors import UserError, pluralize

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""Splits by the names that stand for them."""

Splits = tuple[list[int], list[int], list[int]]
"""Indices of train, valid and test."""

_FILE = re.compile(rf"(.*\.)?(?P<name>{'|'.join(SPLIT_NAMES)})([-_ ]\d+([-_ ]of[-_ ]\d+)?)?")
_RESEMBLES = re.compile(
    r"(.*[^a-z])?"
    r"(train(ing)?|valid(ation)?|val|dev|test(ing)?|eval(uation)?|held[-_ ]?out)"
    r"([^a-z].*)?"
)
"""Names of folders that stand for no split, but that readers may take to."""
_SHOWN = 5
"""Files or folders that are named before the rest is only counted."""


def split_named(name: str) -> str:
    """The split that a relative path stands for by a whole name, or nothing.

    The outermost folder that stands for one decides, else the name of the file.
    """
    path = PurePosixPath(name)
    split = split_of_folder(path.parent)
    if split:
        return split
    found = _FILE.fullmatch(path.stem.lower())
    return "" if found is None else SPLIT_NAMES[found["name"]]


def split_of_folder(folder: PurePosixPath) -> str:
    """The split that a relative folder or one above it stands for, the outermost; or nothing."""
    found = (SPLIT_NAMES.get(part.lower(), "") for part in folder.parts)
    return next(filter(None, found), "")


def named_splits(names: Sequence[str]) -> list[str | None]:
    """For each relative path its split by name, "" for any of those lacking, or None.

    Names count where validation or test is among them; else there is nothing to keep apart. If
    there is train too, a file of no split is left out (None); otherwise it is shared out as
    training data are.
    """
    found = [split_named(name) for name in names]
    if not {"valid", "test"} & set(found):
        return [""] * len(found)
    if "train" not in found:
        return list(found)
    return [{"train": "", "": None}.get(split, split) for split in found]


def describe_split(names: Sequence[str], lacking: str = "a share of train") -> tuple[str, ...]:
    """Sentences on what the names of files decide, and which files are left out; none if nothing.

    Args:
        names: relative paths.
        lacking: where a split without files comes from.
    """
    found = named_splits(names)
    named = {split for split in found if split}
    unclear = _resembling(name for name, split in zip(names, found, strict=True) if split == "")
    if not named:
        return unclear
    by_name = [split for split in SPLITS if split in named or (split == "train" and "" in found)]
    told = f"names of files, folders or arrays decide what is {' and '.join(by_name)}"
    rest = [split for split in SPLITS if split not in by_name]
    told += "".join(f"; {split} is {lacking}" for split in rest if split != "train")
    told += "; nothing is train" if "train" in rest else ""
    left_out = [name for name, split in zip(names, found, strict=True) if split is None]
    if left_out:
        unclear = (f"left out, because they stand for no split: {list_files(left_out)}", *unclear)
    return (told, *unclear)


def _resembling(names: Iterable[str]) -> tuple[str, ...]:
    """A sentence on folders that are shared out, though their names are like those of splits."""
    found = [
        name
        for name in names
        if any(
            part.lower() not in SPLIT_NAMES and _RESEMBLES.fullmatch(part.lower())
            for part in PurePosixPath(name).parent.parts
        )
    ]
    if not found:
        return ()
    return (
        f"shared out like all others, though the names of their folders are like those of splits: "
        f"{list_files(found)}; rename a folder to train, valid or test to use it as that",
    )


def list_files(names: Iterable[str]) -> str:
    """Relative paths in a few words: folders with the number of files below them, then files."""
    parts = [PurePosixPath(name).parts for name in names]
    folders = Counter(part[0] for part in parts if len(part) > 1)
    shown = [f"{folder}/ ({pluralize(count, 'file')})" for folder, count in sorted(folders.items())]
    shown += sorted(part[0] for part in parts if len(part) == 1)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def split_by_name(
    names: Sequence[str],
    valid_fraction: float,
    test_fraction: float,
    *,
    valid_files: str = "",
    test_files: str = "",
    seed: int = 0,
    use_names: bool = True,
) -> Splits:
    """Split names into train, valid and test, each in the given order.

    A pattern (as of a shell, matched against the last part of the name, or against the whole name
    if it has a slash) decides where one is given. Then whole names of folders and files do, see
    :func:`named_splits`, unless ``use_names`` is False. Elsewhere names are ranked by a hash of
    (seed, name), and the first ones are test, the next ones valid: adding a recording moves few
    others.

    Raises:
        UserError: if a split would be empty.
    """
    named = named_splits(names) if use_names else [""] * len(names)
    free = [i for i, split in enumerate(named) if split == ""]
    total, taken = len(free), set[int]()
    held_out: dict[str, list[int]] = {}
    for split, pattern, fraction in (
        ("test", test_files, test_fraction),
        ("valid", valid_files, valid_fraction),
    ):
        if pattern:
            found = [i for i, name in enumerate(names) if _matches(name, pattern)]
        else:
            found = [i for i, each in enumerate(named) if each == split]
        found = [i for i in found if i not in taken]
        if not found and not pattern:
            found = _ranked(free, names, fraction, total, seed)
        held_out[split] = found
        taken |= set(found)
        free = [i for i in free if i not in taken]
    train, valid, test = free, held_out["valid"], held_out["test"]
    for what, chosen, pattern in (
        ("train", train, ""),
        ("valid", valid, valid_files),
        ("test", test, test_files),
    ):
        if pattern and not chosen:
            raise UserError(
                f"data.{what}_files {pattern!r} matches none of {pluralize(len(names), 'name')},"
                f" e.g. {names[0]}; change it"
            )
        if not chosen:
            told = "".join(f" ({note})" for note in describe_split(names)[:1] if use_names)
            settings = (
                "data.valid_fraction, data.test_fraction, or patterns of files where there are any"
                if use_names
                else "valid_fraction and test_fraction"
            )
            raise UserError(
                f"the {what} split would be empty with "
                f"{pluralize(len(names), 'sequence')}{told}; give more, or set {settings}"
            )
    return train, valid, test


def hold_out(names: Sequence[str], fraction: float, *, seed: int = 0) -> list[int]:
    """Indices of a share of the names, chosen by the hash of (seed, name), in their order.

    At least one is chosen where the fraction is above 0.
    """
    return _ranked(list(range(len(names))), names, fraction, len(names), seed)


def stable_fraction(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on (seed, name) alone, spread evenly over names."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def _ranked(
    rest: Sequence[int], names: Sequence[str], fraction: float, total: int, seed: int
) -> list[int]:
    """Those of the rest with the smallest hashes, the fraction of so many in all."""
    order = sorted(rest, key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest())
    count = max(1, round(fraction * total)) if fraction > 0 else 0
    return sorted(order[:count])


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)
