"""What the headers of recordings declare, so that a file which was cut short is noticed.

libsndfile reads such a file without a word.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from zpyro.errors import UserError

SPHERE_MAGIC = b"NIST_1A\n"
SPHERE_LIMIT = 1 << 16
"""No header is longer; the usual one has 1,024 bytes."""

UNKNOWN_LENGTH = 0xFFFFFF00
"""Streamed wav files declare about the largest number there is, for want of a better one."""


def check_size(path: Path) -> None:
    """Make sure that a RIFF wav or NIST SPHERE file is as long as its header says.

    Raises:
        UserError: if the file cannot be opened, is empty or cut short, has a damaged SPHERE
            header, or is SPHERE compressed with shorten, which nothing here can expand.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            declared = _declared(path, stream)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); repair or remove it"
        ) from error
    if size == 0:
        raise UserError(f"{path}: is an empty file; remove it")
    if declared > size:
        raise UserError(
            f"{path}: is cut short, its header declares {declared} bytes and it has {size};"
            " copy it again"
        )


def _declared(path: Path, stream: BinaryIO) -> int:
    """Bytes up to the last sample, or 0 where the header does not say."""
    head = stream.read(12)
    if head.startswith(SPHERE_MAGIC):
        return _sphere_size(path, head + stream.read(SPHERE_LIMIT))
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return _riff_size(stream)
    return 0


def _riff_size(stream: BinaryIO) -> int:
    while len(head := stream.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            return 0 if length >= UNKNOWN_LENGTH else stream.tell() + length
        # Chunks begin at even positions.
        stream.seek(length + length % 2, 1)
    return 0


def _sphere_size(path: Path, head: bytes) -> int:
    fields = _sphere_fields(path, head)
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding:
        raise UserError(
            f"{path}: is SPHERE compressed with shorten ({coding}); expand it with"
            " `w_decode -o pcm` of the LDC's SPHERE tools first"
        )
    try:
        header = int(head[8:16])
        numbers = [int(fields[key]) for key in ("sample_count", "sample_n_bytes")]
        return header + numbers[0] * numbers[1] * int(fields.get("channel_count", "1"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its SPHERE header is damaged ({error}); copy it again") from error


def _sphere_fields(path: Path, head: bytes) -> dict[str, str]:
    text, mark, _ = head.partition(b"end_head")
    if not mark:
        raise UserError(f"{path}: its SPHERE header has no end; copy it again")
    lines = (line.split(None, 2) for line in text.decode("latin-1").splitlines()[2:])
    return {parts[0]: parts[2] for parts in lines if len(parts) == 3}
