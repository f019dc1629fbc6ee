"""Networks applied to long batches, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192
"""Rows that a network takes at once. The memory for so many is used again by the next operation;
that for all rows of a long batch is fetched from the system, and given back, by every operation."""

Pair = tuple[Tensor, Tensor]


@overload
def in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor: ...
@overload
def in_blocks(function: Callable[..., Pair], *tensors: Tensor) -> Pair: ...
def in_blocks(function: Callable[..., Any], *tensors: Tensor) -> Tensor | Pair:
    """A function that treats every row alike, applied block by block through time.

    Args:
        function: gives a tensor, or two, of as many steps as it was given.
        *tensors: time-major, (T, L, B, ...), with T in common.
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
