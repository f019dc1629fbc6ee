"""What .npy and .npz files declare, compared with their size before memory is taken for it."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zpyro.datasets.formats.plain_files import LARGEST_RATIO
from zpyro.errors import UserError

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy may raise on a damaged file; it parses array headers as Python literals."""
LARGEST_ARRAY = 1 << 40
"""Bytes of one array; beyond it the header is wrong."""

_ZIP = b"PK"
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_declared(path: Path, stream: BinaryIO) -> None:
    """Make sure that the arrays of a file are no larger than what is there.

    Args:
        path: of the file, for the message.
        stream: the open file; it is left at its beginning.

    Raises:
        UserError: naming the array that declares more than there is.
        Exception: whatever numpy and zipfile raise on a damaged file.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    magic = stream.read(2)
    stream.seek(0)
    if magic == _ZIP:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                _check_member(path, archive, member, size)
    else:
        _check_header(f"{path}", stream, size)
    stream.seek(0)


def _check_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    label = f"{path}: {member.filename.removesuffix('.npy')}"
    packed = member.compress_type != zipfile.ZIP_STORED
    if member.file_size > member.compress_size * (LARGEST_RATIO if packed else 1) + 64:
        raise _too_much(label, member.file_size, member.compress_size)
    if member.compress_size > size:
        raise _too_much(label, member.compress_size, size)
    with archive.open(member) as stream:
        _check_header(label, stream, member.file_size)


def _check_header(label: str, stream: Any, size: int) -> None:
    """Compare the shape and type in a header with the bytes that follow it."""
    reader = _READERS.get(np.lib.format.read_magic(stream))
    if reader is None:
        raise UserError(f"{label} has an .npy version that nobody writes for numbers; save it anew")
    shape, _, dtype = reader(stream)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise UserError(f"{label} has shape {shape}; save it anew")
    declared = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        return  # numpy refuses it without pickle, in better words
    if declared > min(size, LARGEST_ARRAY):
        raise _too_much(label, declared, size)


def _too_much(label: str, declared: int, held: int) -> UserError:
    return UserError(
        f"{label} declares {declared} bytes and holds {held} at most; copy or save it again"
    )
