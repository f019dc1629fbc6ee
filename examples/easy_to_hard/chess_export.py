"""Lichess's puzzle export, row by row: plain csv or compressed, with header or without."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from zpyro.errors import UserError, pluralize

COLUMNS = ("PuzzleId", "FEN", "Moves", "Rating")
"""The columns that are used. Exports have had 9 to 11; these four have always been the first."""

_FEWEST = 9
_CHUNK = 1 << 20
LONGEST_LINE = 1 << 16
"""Characters; the export's lines have a few hundred."""

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {
    b"PK": "a zip archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\xff\xfe": "UTF-16, not UTF-8; save it as CSV UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8; save it as CSV UTF-8",
}


class Row(NamedTuple):
    """A row of the export, or why it could not be read.

    Attributes:
        number: its line in the file, the header being 1.
        values: puzzle id, FEN, moves, rating; None if the row is damaged.
        damage: what is wrong with it, "" if nothing.
    """

    number: int
    values: tuple[str, str, str, str] | None
    damage: str


def rows(path: Path) -> Iterator[Row]:
    """The rows of an export, one after another.

    Args:
        path: the file, plain or compressed with zstd, gzip, bzip2 or xz, under any name; a byte
            order mark is dropped.

    Raises:
        UserError: if the file cannot be read, is cut off within its compression, lacks a column,
            or is compressed and the package ``zstandard`` is missing.
    """
    try:
        with path.open("rb") as file:
            binary = io.BufferedReader(_decompressed(file, path), _CHUNK)
            with io.TextIOWrapper(binary, "utf-8-sig", newline="") as text:
                yield from _parsed(text, path)
    except EOFError as error:
        raise UserError(f"{path}: is cut off before its end; download it again") from error
    except (OSError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); download it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8; is it a puzzle export?") from error


def _parsed(text: IO[str], path: Path) -> Iterator[Row]:
    lines = csv.reader(_lines(text, path), strict=True)
    columns: list[int] = []
    width = 0
    try:
        for line in lines:
            if not columns:
                columns, width = _columns(line, path), len(line)
                if "PuzzleId" in line:
                    continue
            if len(line) != width:
                damage = f"has {pluralize(len(line), 'column')} instead of {width}; is it cut off?"
                yield Row(lines.line_num, None, damage)
            else:
                puzzle, fen, moves, rating = (line[column] for column in columns)
                yield Row(lines.line_num, (puzzle, fen, moves, rating), "")
    except csv.Error as error:
        raise UserError(f"{path}: row {lines.line_num} is not CSV ({error})") from error
    if not columns:
        raise UserError(f"{path}: is empty; it should be Lichess's puzzle export")


def _lines(text: IO[str], path: Path) -> Iterator[str]:
    """The lines of a text, whose length is limited."""
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise UserError(
                f"{path}: has a line of more than {LONGEST_LINE:,} characters; "
                "give a puzzle export of database.lichess.org"
            )
        yield line


def _decompressed(file: BinaryIO, path: Path) -> Any:
    """The content of a file, by its first bytes and the suffix .zst."""
    magic = file.read(6)
    file.seek(0)
    if path.suffix.lower() == ".zst" or magic.startswith(_ZSTD):
        return _Decompressed(file, path)
    for start, what in _OTHERS.items():
        if magic.startswith(start):
            raise UserError(f"{path}: is {what}")
    found = (opener for start, opener in _OPENERS.items() if magic.startswith(start))
    opener = next(found, None)
    return file if opener is None else opener(file)


def _columns(line: list[str], path: Path) -> list[int]:
    """The positions of the columns in use, from the first line of a file."""
    if "PuzzleId" not in line and len(line) >= _FEWEST and line[1].count("/") == 7:
        return list(range(len(COLUMNS)))
    missing = [column for column in COLUMNS if column not in line]
    if missing:
        raise UserError(
            f"{path}: row 1 lacks the columns {', '.join(missing)}; "
            "give a puzzle export of database.lichess.org"
        )
    return [line.index(column) for column in COLUMNS]


class _Decompressed(io.RawIOBase):
    """A zstd file as it was before compression; a file that ends early is an error."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__()
        self._module = _zstandard(path)
        self._file, self._path = file, path
        self._frame: Any = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            if not self._compressed:
                self._compressed = self._file.read(_CHUNK)
                if not self._compressed:
                    if self._frame is not None:
                        raise UserError(
                            f"{self._path}: is cut off before its end; download it again"
                        )
                    return 0
            self._decompress()
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = self._module.ZstdDecompressor().decompressobj()
        try:
            self._plain = memoryview(self._frame.decompress(self._compressed))
        except self._module.ZstdError as error:
            raise UserError(f"{self._path}: is damaged or no zstd file ({error})") from error
        self._compressed = b""
        if self._frame.eof:
            # A file may hold several frames one after another.
            self._compressed, self._frame = self._frame.unused_data, None


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"{path}: reading .zst needs the package zstandard; "
            "pip install 'zpyro[chess]', or decompress the file first"
        ) from error
    return zstandard
