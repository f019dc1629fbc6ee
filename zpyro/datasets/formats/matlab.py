"""Numeric matrices and cells of MATLAB v5 files (``save -v6`` and ``-v7``), read strictly.

The layout is that of "MAT-File Format" (The MathWorks), chapter 1: a header of 128 bytes, then data
elements, each a tag (type, number of bytes) and its data, padded to 8 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from zpyro.datasets.formats.plain_files import LARGEST_RATIO, read_bytes
from zpyro.datasets.sequences import Array
from zpyro.errors import UserError

LARGEST_ELEMENT = 1 << 30
"""Bytes of an element once it is expanded."""

MAGIC = b"MATLAB 5.0 MAT-file"
HEADER = 128

_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""numpy's name of each numeric data type that an element may be stored as."""

_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
"""numpy's name of each numeric class of array; the data may be stored in a smaller type."""

_CELL, _COMPLEX = 1, 0x0800


def is_matlab(head: bytes) -> bool:
    """Whether these first bytes are those of a MATLAB v5 file."""
    return head.startswith(MAGIC)


def read_matlab(path: Path) -> dict[str, Array]:
    """Every real numeric matrix of a file by name, in its own class and shape.

    Text, cells, structures, sparse and complex arrays are passed over.

    Raises:
        UserError: if the file cannot be read, is not a MATLAB v5 file, or is damaged or cut short.
    """
    return parse_matlab(path, read_bytes(path))


def parse_matlab(path: Path, content: bytes) -> dict[str, Array]:
    """The same of a file's content; the path is for messages.

    Raises:
        UserError: if it is not a MATLAB v5 file, or is damaged or cut short.
    """
    order = _byte_order(path, content)
    found: dict[str, Array] = {}
    for data in _variables(path, content, order):
        named = _matrix(path, data, order)
        if named is not None:
            found[named[0]] = named[1]
    return found


def parse_cells(path: Path, content: bytes) -> dict[str, list[Array]]:
    """Every cell array of a file's content by name, its real numeric matrices in MATLAB's order.

    Variables that are no cell arrays are passed over.

    Raises:
        UserError: if it is not a MATLAB v5 file, or is damaged or cut short, or a cell holds
            anything but a real numeric matrix.
    """
    order = _byte_order(path, content)
    found: dict[str, list[Array]] = {}
    for data in _variables(path, content, order):
        named = _cells(path, data, order)
        if named is not None:
            found[named[0]] = named[1]
    return found


def _variables(path: Path, content: bytes, order: str) -> Iterator[bytes]:
    """The content of the matrix element of each variable."""
    rest = _Elements(path, content, order, HEADER)
    while not rest.done:
        kind, data = rest.take(padded=False)
        if kind == _COMPRESSED:
            kind, data = _expanded(path, data, order)
        if kind != _MATRIX:
            raise UserError(f"{path}: is damaged, it has an element of type {kind}; copy it again")
        yield data


def _byte_order(path: Path, content: bytes) -> str:
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not is_matlab(content) or order is None:
        raise UserError(f"{path}: is not a MATLAB v5 file; save it with -v7 or -v6")
    (version,) = struct.unpack_from(f"{order}H", content, 124)
    if version != 0x0100:
        raise UserError(f"{path}: has MATLAB version {version:#06x}; save it with -v7 or -v6")
    return order


@dataclass
class _Elements:
    """Takes one data element after another from bytes."""

    path: Path
    content: bytes
    order: str
    position: int = 0

    @property
    def done(self) -> bool:
        return self.position >= len(self.content)

    def take(self, *, padded: bool = True) -> tuple[int, bytes]:
        """Type and data of the next element; those within a matrix are padded to 8 bytes."""
        if self.position + 8 > len(self.content):
            raise UserError(f"{self.path}: is cut short within a tag; copy it again")
        kind, count = struct.unpack_from(f"{self.order}II", self.content, self.position)
        if kind >> 16:
            return self._take_small(kind & 0xFFFF, kind >> 16)
        begin = self.position + 8
        data = self.content[begin : begin + count]
        if len(data) < count:
            raise UserError(
                f"{self.path}: is cut short, an element announces {count} bytes and has"
                f" {len(data)}; copy it again"
            )
        self.position = begin + count + (-count % 8 if padded else 0)
        return kind, data

    def _take_small(self, kind: int, count: int) -> tuple[int, bytes]:
        """An element whose number of bytes and at most 4 of data stand in the tag itself."""
        if count > 4:
            raise UserError(f"{self.path}: is damaged, a small element has {count} bytes")
        begin = self.position + 4
        self.position += 8
        return kind, self.content[begin : begin + count]


def _expanded(path: Path, data: bytes, order: str) -> tuple[int, bytes]:
    """The element within a compressed one."""
    stream = zlib.decompressobj()
    try:
        tag = stream.decompress(data, 8)
        if len(tag) < 8:
            raise UserError(f"{path}: is cut short within a compressed element; copy it again")
        kind, count = struct.unpack(f"{order}II", tag)
        if count > min(len(data) * LARGEST_RATIO, LARGEST_ELEMENT):
            raise UserError(f"{path}: is damaged, a compressed element announces {count} bytes")
        content = stream.decompress(stream.unconsumed_tail, count + 1)
    except zlib.error as error:
        raise UserError(f"{path}: is damaged ({error}); copy it again") from error
    if len(content) != count or not stream.eof:
        raise UserError(
            f"{path}: is damaged, a compressed element announces {count} bytes and has"
            f" {len(content)}; copy it again"
        )
    return kind, content


def _matrix(path: Path, content: bytes, order: str) -> tuple[str, Array] | None:
    """Name and values of a matrix element, or None where it is not real and numeric."""
    parts = _Elements(path, content, order)
    word = _flags(path, parts, order)
    if word & _COMPLEX or (word & 0xFF) not in _CLASSES:
        return None
    shape, name = _shape(path, parts, order), _name(path, parts)
    kind, data = parts.take()
    return name, _values(path, kind, data, shape, word & 0xFF, order)


def _cells(path: Path, content: bytes, order: str) -> tuple[str, list[Array]] | None:
    """Name and matrices of the element of a cell array, or None where it is none."""
    parts = _Elements(path, content, order)
    if _flags(path, parts, order) & 0xFF != _CELL:
        return None
    shape, name = _shape(path, parts, order), _name(path, parts)
    found: list[Array] = []
    # As many as there are, so that a number in the file takes no memory.
    while not parts.done:
        kind, data = parts.take()
        named = _matrix(path, data, order) if kind == _MATRIX and data else None
        if named is None:
            raise UserError(
                f"{path}: cell {len(found) + 1} of {name} is not a numeric matrix; save numbers"
            )
        found.append(named[1])
    if len(found) != prod(shape):
        raise UserError(
            f"{path}: is damaged, cell array {name} of shape {shape} has {len(found)} cells; copy"
            " it again"
        )
    return name, found


def _flags(path: Path, parts: _Elements, order: str) -> int:
    kind, flags = parts.take()
    if kind != _UINT32 or len(flags) != 8:
        raise UserError(f"{path}: is damaged, a matrix has no flags; copy it again")
    (word,) = struct.unpack_from(f"{order}I", flags)
    return word


def _name(path: Path, parts: _Elements) -> str:
    kind, name = parts.take()
    if kind != _INT8:
        raise UserError(f"{path}: is damaged, a matrix has no name; copy it again")
    return name.decode("latin-1")


def _shape(path: Path, parts: _Elements, order: str) -> tuple[int, ...]:
    kind, data = parts.take()
    if kind != _INT32 or len(data) < 8 or len(data) % 4:
        raise UserError(f"{path}: is damaged, a matrix has no dimensions; copy it again")
    shape = struct.unpack(f"{order}{len(data) // 4}i", data)
    if min(shape) < 0:
        raise UserError(f"{path}: is damaged, a matrix has dimensions {shape}; copy it again")
    return shape


def _values(
    path: Path, kind: int, data: bytes, shape: tuple[int, ...], numeric: int, order: str
) -> Array:
    if kind not in _STORED:
        raise UserError(f"{path}: is damaged, a matrix holds type {kind}; copy it again")
    stored = np.dtype(order + _STORED[kind])
    if len(data) != prod(shape) * stored.itemsize:
        raise UserError(
            f"{path}: is damaged, a matrix of shape {shape} has {len(data)} bytes; copy it again"
        )
    # Columns first, as MATLAB keeps them.
    values = np.frombuffer(data, stored).reshape(shape, order="F")
    return values.astype(np.dtype(_CLASSES[numeric]))
