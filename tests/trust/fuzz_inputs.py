"""Damaged and generated files for fuzzing: what a target is, and strategies to make its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

EDGES = (
    *(b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80"),
    *(b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x7f" + b"\xff" * 7, b"\x01\x00\x00\x00"),
)
"""Numbers at the edges of 32 and 64 bits, in both byte orders."""

HEAD = 160
"""Most edits fall in so many first bytes, where headers are."""


@dataclass(frozen=True)
class Target:
    """One reader of files.

    Attributes:
        inputs: makes the strategy of the file's contents; called once, in the process that reads.
        read: reads the file; only the library's user error may come of it.
        file_name: name that the file gets.
        others: what an error may name instead of the file: settings in it, files beside it.
    """

    inputs: Callable[[], st.SearchStrategy[bytes]]
    read: Callable[[Path], object]
    file_name: str
    others: tuple[str, ...] = ()


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the valid files with one to four edits, most of them near its beginning."""
    content = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 4))):
        near = min(len(content), HEAD)
        last = draw(st.sampled_from((near, near, near, len(content))))
        place = draw(st.integers(0, last))
        edit = draw(st.sampled_from(("edge", "edge", "bytes", "bit", "insert", "drop", "cut")))
        if edit == "edge":
            value = draw(st.sampled_from(EDGES))
            content[place : place + len(value)] = value
        elif edit == "bytes":
            value = draw(st.binary(min_size=1, max_size=8))
            content[place : place + len(value)] = value
        elif edit == "bit" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif edit == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif edit == "drop":
            del content[place : place + draw(st.integers(1, 16))]
        elif edit == "cut":
            del content[place:]
    return bytes(content)


def numbers(bits: int, *usual: int) -> st.SearchStrategy[int]:
    """Unsigned numbers of a header: the usual ones, those at the edges, and any other."""
    top = (1 << bits) - 1
    edges = (0, 1, 2, top, top - 1, top >> 1, (top >> 1) + 1, top - 0xFF)
    return st.one_of(st.sampled_from(usual or edges), st.sampled_from(edges), st.integers(0, top))
