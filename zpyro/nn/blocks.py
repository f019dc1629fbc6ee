"""Apply networks to long batches block by block, to reuse memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192
"""Rows per block. The allocator reuses the memory of this many rows for the next operation; larger
tensors are requested from the operating system and returned to it by every operation."""

Pair = tuple[Tensor, Tensor]


@overload
def in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor: ...
@overload
def in_blocks(function: Callable[..., Pair], *tensors: Tensor) -> Pair: ...
def in_blocks(function: Callable[..., Any], *tensors: Tensor) -> Tensor | Pair:
    """Apply a function of rows in blocks of time steps.

    Args:
        function: returns one or two tensors with as many steps as its arguments.
        *tensors: time-major, (T, L, B, ...), all with the same T.
    """
    rows = max(math.prod(tensor.shape[1:3]) for tensor in tensors)
    block = max(1, ROWS_AT_ONCE // max(1, rows))
    if tensors[0].shape[0] <= block:
        return function(*tensors)
    parts = zip(*(tensor.split(block) for tensor in tensors), strict=True)
    results: list[Any] = [function(*part) for part in parts]
    if isinstance(results[0], Tensor):
        return torch.cat(results)
    first, second = (torch.cat(part) for part in zip(*results, strict=True))
    return first, second
