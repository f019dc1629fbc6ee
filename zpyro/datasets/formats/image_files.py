"""The files that MNIST comes in: idx, and the binarized ``.amat`` (text, or MATLAB v5 inside)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.formats import matlab
from zpyro.datasets.formats.plain_files import largest_content, read_bytes
from zpyro.datasets.sequences import Array
from zpyro.errors import UserError, pluralize

SIDE = 28
PIXELS = SIDE * SIDE

IDX_IMAGES = 0x00000803
"""Two zero bytes, unsigned bytes, three dimensions."""

LARGEST_CONTENT = 1 << 30
"""Bytes of an expanded file; the largest real one, 50,000 images as 8-byte numbers, has 314 MB."""

Bits = NDArray[np.uint8]

_ZERO, _ONE, _SPACE = b"01 "


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The images of an idx3-ubyte file, gzipped or not, (N, 28, 28) of 0 to 255.

    The format is that of the MNIST page (Y. LeCun, C. Cortes, C. Burges): big-endian magic number,
    number of images, rows, columns, then a byte a pixel.

    Raises:
        UserError: if the file cannot be read, has another magic number or size of image, or not
            exactly as many images as it announces.
    """
    head = read_bytes(path, 16)
    if len(head) < 16:
        raise UserError(f"{path}: is cut short, it has {len(head)} bytes; copy it again")
    magic, count, rows, columns = struct.unpack(">4I", head)
    if magic != IDX_IMAGES:
        raise UserError(
            f"{path}: begins with {magic:#010x}, idx files of images with {IDX_IMAGES:#010x};"
            " give the original file"
        )
    if (rows, columns) != (SIDE, SIDE) or count == 0:
        raise UserError(
            f"{path}: announces {pluralize(count, 'image')} of {rows} x {columns}; MNIST's "
            f"are {SIDE} x {SIDE}"
        )
    size = 16 + count * PIXELS
    if size > min(largest_content(path), LARGEST_CONTENT):
        raise UserError(
            f"{path}: announces {pluralize(count, 'image')}, far more than it holds; copy it again"
        )
    content = read_bytes(path, size + 1)
    if len(content) != size:
        held = (len(content) - 16) / PIXELS
        found = "more" if len(content) > size else f"{held:.6g}"
        raise UserError(
            f"{path}: announces {pluralize(count, 'image')} and holds {found}; copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, SIDE, SIDE)


def read_amat(path: Path) -> Bits:
    """The images of a binarized MNIST file, (N, 784) of 0 and 1, row after row.

    Either text, one image a line, 784 zeros and ones between spaces (H. Larochelle's files); or a
    MATLAB v5 file under the same name, with one matrix (N, 784).

    Raises:
        UserError: if the file cannot be read, or holds anything else; of text the message names
            the line.
    """
    content = read_bytes(path, LARGEST_CONTENT + 1)
    if len(content) > LARGEST_CONTENT:
        raise UserError(f"{path}: is larger than {LARGEST_CONTENT >> 20} MiB; copy it again")
    if matlab.is_matlab(content):
        return _from_matlab(path, content)
    return _from_text(path, content)


def _from_matlab(path: Path, content: bytes) -> Bits:
    arrays = matlab.parse_matlab(path, content)
    fitting = [value for value in arrays.values() if value.shape[1:] == (PIXELS,) and len(value)]
    if len(fitting) != 1:
        found = ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "none"
        raise UserError(f"{path}: must hold one matrix of shape (N, {PIXELS}); it holds {found}")
    return _checked(path, fitting[0])


def _checked(path: Path, values: Array) -> Bits:
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: image {row + 1} holds {values[row, column]:.6g}; it must be binarized, 0 or 1"
        )
    return np.ascontiguousarray(values, np.uint8)


def _from_text(path: Path, content: bytes) -> Bits:
    lines = content.splitlines()
    images = np.empty((len(lines), PIXELS), np.uint8)
    for number, line in enumerate(lines):
        images[number] = _from_line(path, number + 1, line)
    return images


def _from_line(path: Path, number: int, line: bytes) -> Bits:
    """One image; the usual line, a single space between pixels, needs no splitting."""
    characters = np.frombuffer(line.strip(), np.uint8)
    if len(characters) == 2 * PIXELS - 1 and (characters[1::2] == _SPACE).all():
        pixels = characters[::2]
        if ((pixels == _ZERO) | (pixels == _ONE)).all():
            return pixels - np.uint8(_ZERO)
    tokens = line.split()
    for token in tokens:
        if token not in (b"0", b"1"):
            raise UserError(
                f"{path}: line {number} holds {_shown(token)}; binarized images are 0 and 1 only"
            )
    if len(tokens) != PIXELS:
        raise UserError(
            f"{path}: line {number} has {len(tokens)} pixels; an image has {PIXELS};"
            " copy the file again"
        )
    return np.array([token == b"1" for token in tokens], np.uint8)


def _shown(token: bytes) -> Any:
    return repr(token[:20].decode("latin-1"))
