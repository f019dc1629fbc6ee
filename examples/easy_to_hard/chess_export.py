"""Lichess's puzzle export, row by row: plain csv or zstd, with header or without."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from zpyro.errors import UserError

COLUMNS = ("PuzzleId", "FEN", "Moves", "Rating")
"""The columns that are used. Exports have had 9 to 11; these four have always been the first."""

_FEWEST = 9
_CHUNK = 1 << 20


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
        path: a file that ends in .csv or .csv.zst.

    Raises:
        UserError: if the file cannot be read, is cut off within its compression, lacks a column,
            or is compressed and the package ``zstandard`` is missing.
    """
    try:
        with path.open("rb") as file:
            binary = _Decompressed(file, path) if path.suffix == ".zst" else file
            with io.TextIOWrapper(io.BufferedReader(binary, _CHUNK), "utf-8", newline="") as text:
                yield from _parsed(text, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8; is it a puzzle export?") from error


def _parsed(text: IO[str], path: Path) -> Iterator[Row]:
    lines = csv.reader(text, strict=True)
    columns: list[int] = []
    width = 0
    while True:
        try:
            line = next(lines, None)
        except csv.Error as error:
            raise UserError(f"{path}: row {lines.line_num} is not CSV ({error})") from error
        if line is None:
            break
        if not columns:
            columns, width = _columns(line, path), len(line)
            if "PuzzleId" in line:
                continue
        number = lines.line_num
        if len(line) != width:
            yield Row(number, None, f"has {len(line)} columns instead of {width}; is it cut off?")
        else:
            puzzle, fen, moves, rating = (line[column] for column in columns)
            yield Row(number, (puzzle, fen, moves, rating), "")
    if not columns:
        raise UserError(f"{path}: is empty; it should be Lichess's puzzle export")


def _columns(line: list[str], path: Path) -> list[int]:
    """Where the columns in use stand, from the first line of a file."""
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
                    self._check_end()
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

    def _check_end(self) -> None:
        if self._frame is not None:
            raise UserError(f"{self._path}: is cut off before its end; download it again")


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"{path}: reading .zst needs the package zstandard; "
            "pip install 'zpyro[chess]', or decompress the file first"
        ) from error
    return zstandard
