"""Files of ``torch.save`` from any source: tensors and plain values, no code."""

from __future__ import annotations

import errno
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zpyro.errors import UserError

_ZIP = b"PK\x03\x04"
_LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
"""How files of torch before 1.6 begin."""

_DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch's restricted unpickler and its readers of archives may raise on a damaged file."""


def read(path: Path) -> Any:
    """The content of a file of ``torch.save``, on the CPU; loaded with ``weights_only=True``.

    Raises:
        UserError: if it cannot be read, was not written by torch, declares more than it holds, or
            holds anything but tensors, numbers, text, lists and dictionaries.
    """
    try:
        with path.open("rb") as stream:
            _check_container(path, stream)
            with warnings.catch_warnings():
                # Of another pickle protocol: what it cannot read is an error all the same.
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                return torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: is corrupt, or no file of plain tensors with weights_only=True; "
            "choose another one"
        ) from error


def write(path: Path, value: Any) -> None:
    """torch.save, with an OSError where the disk is full.

    Raises:
        OSError: if it cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # torch's writer raises this for an OSError in file.write.
            raise _cause(error) from error


def _cause(error: RuntimeError) -> OSError:
    """The OSError that caused an error of torch, if it is known."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, OSError):
            return OSError(before.errno, before.strerror)
        before = before.__cause__ or before.__context__
    return OSError(errno.EIO, f"torch could not write it: {error}".splitlines()[0])


def _check_container(path: Path, stream: BinaryIO) -> None:
    head = stream.read(max(len(_ZIP), len(_LEGACY)))
    if not head.startswith((_ZIP, _LEGACY)):
        raise UserError(
            f"{path}: is not a file of plain tensors as torch.save writes it; choose another one"
        )
    if head.startswith(_ZIP):
        size = stream.seek(0, 2)
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
        # torch stores members as they are: compressed ones could expand without measure.
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > size:
            raise UserError(f"{path}: declares more than it holds; choose another one")
    stream.seek(0)
