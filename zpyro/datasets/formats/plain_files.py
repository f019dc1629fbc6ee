"""Whole files as bytes, gzipped or not, with every way of being unreadable said in one line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

from zpyro.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"

BLOCK = 1 << 20

LARGEST_RATIO = 1032
"""Deflate makes nothing smaller than by this factor, so what claims more is damaged."""


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a file, expanded if it is gzipped (whatever its name).

    Args:
        path: the file.
        limit: read at most so many bytes, where the reader knows how many there must be.

    Raises:
        UserError: if the file cannot be opened, is empty, or is a damaged or truncated gzip file.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(GZIP_MAGIC))
            stream.seek(0)
            content = _expand(path, stream, limit) if magic == GZIP_MAGIC else _read(stream, limit)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror or error}); repair or remove it"
        ) from error
    if not content:
        raise UserError(f"{path}: is an empty file; unpack or copy it again")
    return content


def largest_content(path: Path) -> int:
    """No more bytes than this can be in a file, even a gzipped one.

    Raises:
        UserError: if the file cannot be opened.
    """
    try:
        return path.stat().st_size * LARGEST_RATIO
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror or error}); repair or remove it"
        ) from error


def _expand(path: Path, stream: BinaryIO, limit: int | None) -> bytes:
    try:
        with gzip.GzipFile(fileobj=stream) as expanded:
            return _read(expanded, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "cut short" if isinstance(error, EOFError) else "damaged"
        raise UserError(f"{path}: is a {what} gzip file ({error}); copy it again") from error


def _read(stream: BinaryIO | gzip.GzipFile, limit: int | None) -> bytes:
    if limit is None:
        return stream.read()
    # In blocks: a read takes memory for as many bytes as it is asked for.
    parts: list[bytes] = []
    while limit and (block := stream.read(min(limit, BLOCK))):
        parts.append(block)
        limit -= len(block)
    return b"".join(parts)
