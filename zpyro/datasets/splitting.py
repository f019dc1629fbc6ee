"""One rule for splitting what comes without splits: by a stable hash of each name."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence

from zpyro.errors import UserError

Splits = tuple[list[int], list[int], list[int]]
"""Indices of train, valid and test."""


def split_by_name(
    names: Sequence[str],
    valid_fraction: float,
    test_fraction: float,
    *,
    valid_files: str = "",
    test_files: str = "",
    seed: int = 0,
) -> Splits:
    """Split names into train, valid and test, each in the given order.

    A pattern (as of a shell, matched against the last part of the name, or against the whole name
    if it has a slash) decides where one is given. Elsewhere names are ranked by a hash of
    (seed, name), and the first ones are test, the next ones valid: adding a recording moves few
    others.

    Raises:
        UserError: if a split would be empty.
    """
    rest = list(range(len(names)))
    test, rest = _take(rest, names, test_files, test_fraction, len(names), seed)
    valid, train = _take(rest, names, valid_files, valid_fraction, len(names), seed)
    for what, chosen, pattern in (
        ("train", train, ""),
        ("valid", valid, valid_files),
        ("test", test, test_files),
    ):
        if pattern and not chosen:
            raise UserError(
                f"data.{what}_files {pattern!r} matches none of the {len(names)} names,"
                f" e.g. {names[0]}; change it"
            )
        if not chosen:
            raise UserError(
                f"the {what} split would be empty with {len(names)} sequences; give more, or set"
                " data.valid_fraction, data.test_fraction, or patterns of files where there are any"
            )
    return train, valid, test


def hold_out(names: Sequence[str], fraction: float, *, seed: int = 0) -> list[int]:
    """Indices of a share of the names, chosen by the hash of (seed, name), in their order.

    At least one is chosen where the fraction is above 0.
    """
    return _take(list(range(len(names))), names, "", fraction, len(names), seed)[0]


def stable_fraction(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on (seed, name) alone, spread evenly over names."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def _take(
    rest: list[int], names: Sequence[str], pattern: str, fraction: float, total: int, seed: int
) -> tuple[list[int], list[int]]:
    if pattern:
        chosen = {i for i in rest if _matches(names[i], pattern)}
    else:
        ranked = sorted(rest, key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest())
        count = max(1, round(fraction * total)) if fraction > 0 else 0
        chosen = set(ranked[:count])
    return sorted(chosen), [i for i in rest if i not in chosen]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)
