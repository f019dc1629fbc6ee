"""Safetensors files that are checked, name by name, before memory is taken for their tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zpyro.errors import UserError

_TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device."""
    # Copies, because safetensors refuses tensors that share storage.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    # save_file makes files that only their owner can read.
    path.write_bytes(safetensors.torch.save(copies, {"format": "pt"}))


def read(
    path: Path,
    expected: Mapping[str, Tensor],
    *,
    optional: str | None = None,
    advice: str = "choose another checkpoint",
) -> dict[str, Tensor]:
    """Read the tensors of a file, after a check of their names, shapes and types.

    Args:
        path: the file.
        expected: tensors of the shapes and types to find, such as ones on the "meta" device.
        optional: prefix of tensors that may be in the file and are not read.
        advice: what to do about tensors that are missing, extra or of another shape.

    Raises:
        UserError: naming the first tensor that is missing, extra, or of another shape or type, or
            if the file is missing or corrupt.
    """
    with _opened(path) as file:
        names = set(file.keys())
        if optional is not None:
            names = {name for name in names if not name.startswith(optional)}
        for name in sorted(expected.keys() | names):
            if name not in names:
                raise UserError(f"{path}: tensor {name} is missing; {advice}")
            if name not in expected:
                raise UserError(f"{path}: tensor {name} is none of this model's; {advice}")
            _check(path, name, file.get_slice(name), expected[name], advice)
        # Copied into memory that torch aligns: last digits of products depend on where
        # their factors begin.
        return {name: file.get_tensor(name).clone() for name in expected}


def names(path: Path) -> set[str]:
    """The names of the tensors in a file.

    Raises:
        UserError: if the file is missing or corrupt.
    """
    with _opened(path) as file:
        return set(file.keys())


def rows(path: Path, name: str) -> int:
    """The first dimension of a tensor in a file.

    Raises:
        UserError: if the file is corrupt, or has no such tensor.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.get_slice(name).get_shape()[0]
    except (safetensors.SafetensorError, OSError, IndexError) as error:
        raise UserError(f"{path}: is corrupt ({error}); choose another checkpoint") from error


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; choose another checkpoint") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: is corrupt ({error}); choose another checkpoint") from error


def _check(path: Path, name: str, header: Any, expected: Tensor, advice: str) -> None:
    shape, kind = tuple(header.get_shape()), header.get_dtype()
    if shape != tuple(expected.shape):
        raise UserError(
            f"{path}: tensor {name} has shape {shape}, its settings ask for "
            f"{tuple(expected.shape)}; {advice}"
        )
    if _TYPES.get(kind) != expected.dtype:
        wanted = str(expected.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: tensor {name} has type {kind}, its settings ask for {wanted}; {advice}"
        )
