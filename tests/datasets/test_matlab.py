"""MATLAB v5 files as scipy writes them, and as nobody should."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from zpyro import UserError
from zpyro.datasets.formats.matlab import read_matlab

pytestmark = pytest.mark.fast

KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def save(path: Path, arrays: dict[str, object], *, compressed: bool = False) -> None:
    scipy.io.savemat(path, arrays, do_compression=compressed)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_numeric_classes_come_back(tmp_path: Path, kind: str, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    values = np.random.default_rng(0).integers(0, 100, (7, 5)).astype(kind)
    small = np.arange(3).astype(kind)[None]
    cube = np.arange(24).reshape(2, 3, 4).astype(kind)
    save(path, {"values": values, "x": small, "cube": cube}, compressed=compressed)
    found = read_matlab(path)
    assert list(found) == ["values", "x", "cube"]
    for name, expected in (("values", values), ("x", small), ("cube", cube)):
        assert found[name].dtype == np.dtype(kind)
        np.testing.assert_array_equal(found[name], expected)


def test_what_is_not_real_and_numeric_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    cell = np.empty(2, object)
    cell[:] = ["a", "b"]
    arrays: dict[str, object] = {"text": "words", "complex": np.array([1j]), "cell": cell}
    save(path, {**arrays, "struct": {"field": 1.0}, "kept": np.eye(2)})
    assert list(read_matlab(path)) == ["kept"]


def element(order: str, kind: int, data: bytes) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matlab_file(
    order: str, values: np.ndarray, *, stored: int = 2, compress: bool = False
) -> bytes:
    """A file of one double matrix stored as unsigned bytes, as MATLAB keeps small numbers."""
    matrix = (
        element(order, 6, struct.pack(f"{order}II", 6, 0))
        + element(order, 5, struct.pack(f"{order}2i", *values.shape))
        + element(order, 1, b"data")
        + element(order, stored, values.astype(np.uint8).tobytes(order="F"))
    )
    whole = element(order, 14, matrix)
    if compress:
        packed = zlib.compress(whole)
        whole = struct.pack(f"{order}II", 15, len(packed)) + packed
    mark = struct.pack(f"{order}HH", 0x0100, 0x4D49)
    return b"MATLAB 5.0 MAT-file, by a test".ljust(124) + mark + whole


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_narrow_storage(tmp_path: Path, order: str, compress: bool) -> None:
    path = tmp_path / "a.mat"
    values = np.arange(15).reshape(3, 5)
    path.write_bytes(matlab_file(order, values, compress=compress))
    np.testing.assert_array_equal(scipy.io.loadmat(path)["data"], values)
    found = read_matlab(path)["data"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values)


def compressed(content: bytes) -> bytes:
    data = zlib.compress(content)
    return struct.pack("<II", 15, len(data)) + data


def spoiled(kind: str) -> bytes:
    values = np.arange(40).reshape(4, 10)
    whole, packed = matlab_file("<", values), matlab_file("<", values, compress=True)
    tag = struct.pack("<II", 15, 4)
    return {
        "text": b"this is no matrix at all" * 20,
        "version": whole[:124] + b"\x00\x02" + whole[126:],
        "order": whole[:126] + b"XX" + whole[128:],
        "header": whole[:100],
        "cut": whole[:-20],
        "cut_tag": whole + b"\x0e\x00\x00",
        "cut_packed": packed[:-20],
        "checksum": packed[:-1] + bytes([packed[-1] ^ 1]),
        "no_zlib": whole[:128] + tag + b"abcd",
        "shape": whole.replace(struct.pack("<2i", 4, 10), struct.pack("<2i", 5, 10)),
        "negative": whole.replace(struct.pack("<2i", 4, 10), struct.pack("<2i", -4, -10)),
        "stored": matlab_file("<", values, stored=99),
        "element": whole[:128] + element("<", 9, bytes(8)),
        "small": whole.replace(
            element("<", 1, b"data"), struct.pack("<I", 7 << 16 | 1) + b"data" + bytes(8)
        ),
        "flags": whole[:128] + element("<", 14, element("<", 5, bytes(8))),
        "no_dimensions": whole[:128]
        + element("<", 14, element("<", 6, struct.pack("<II", 6, 0)) + element("<", 1, b"data")),
        "no_name": whole[:128]
        + element(
            "<",
            14,
            element("<", 6, struct.pack("<II", 6, 0))
            + element("<", 5, struct.pack("<2i", 1, 1))
            + element("<", 5, bytes(4)),
        ),
        "packed_tag": whole[:128] + compressed(b"\x0e\x00"),
        "packed_less": whole[:128] + compressed(struct.pack("<II", 14, 64) + bytes(8)),
        "packed_more": whole[:128] + compressed(struct.pack("<II", 14, 8) + bytes(64)),
        "packed_size": whole[:128]
        + (lambda data: struct.pack("<II", 15, len(data)) + data)(
            zlib.compress(struct.pack("<II", 14, 4_000_000_000))
        ),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "is not a MATLAB v5 file"),
        ("version", "has MATLAB version 0x0200"),
        ("order", "is not a MATLAB v5 file"),
        ("header", "is not a MATLAB v5 file"),
        ("cut", "is cut short, an element announces"),
        ("cut_tag", "is cut short within a tag"),
        ("cut_packed", "is cut short"),
        ("checksum", "is damaged"),
        ("no_zlib", "is damaged"),
        ("shape", r"a matrix of shape \(5, 10\) has 40 bytes"),
        ("negative", r"dimensions \(-4, -10\)"),
        ("stored", "holds type 99"),
        ("element", "element of type 9"),
        ("small", "a small element has 7 bytes"),
        ("flags", "has no flags"),
        ("no_dimensions", "a matrix has no dimensions"),
        ("no_name", "a matrix has no name"),
        ("packed_tag", "is cut short within a compressed element"),
        ("packed_less", "announces 64 bytes and has 8"),
        ("packed_more", "announces 8 bytes and has 9"),
        ("packed_size", "announces 4000000000 bytes"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(spoiled(kind))
    with pytest.raises(UserError, match=message) as caught:
        read_matlab(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
