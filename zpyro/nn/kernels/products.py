"""Matrix products that are repeated at every step of a loop with the same matrix.

A product of few rows with a large matrix spends much of its time bringing the matrix into the
order that the processor likes. Where torch has oneDNN, a matrix is brought into that order once
for all steps (1.6 to 2 times as fast at 32 rows; see docs/performance.md); elsewhere, in float64,
and for small matrices, ``addmm`` it is. Nothing here is differentiable.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

PACKED_SIZE = 1 << 16
"""Numbers in a matrix from which on packing pays."""

PACKED_USES = 8
"""Products with a matrix from which on packing it pays."""


class Product(Protocol):
    """rows @ weight.T + bias, for rows (N, in) and a weight (out, in); a new tensor (N, out)."""

    def __call__(self, rows: Tensor) -> Tensor:
        """The product and the bias."""
        ...

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        """The product without bias, added to a tensor (N, out) that is left as it was."""
        ...


def prepare(
    weight: Tensor,
    rows: int,
    uses: int,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Product:
    """Make a weight ready for many products.

    Args:
        weight: (out, in), contiguous or transposed.
        rows: rows of each product.
        uses: how many products will follow.
        bias: (out,).
        dtype: lower precision for the products; their results have the weight's own type.
    """
    weight = weight.detach()
    if dtype is not None and dtype != weight.dtype:
        return _LowPrecision(weight.to(dtype), bias)
    worth = weight.numel() >= PACKED_SIZE and uses >= PACKED_USES and rows > 1
    if worth and packs(weight.device.type, weight.dtype):
        return _Packed(weight, rows, bias)
    return _Plain(weight, bias)


def packs(device: str, dtype: torch.dtype) -> bool:
    """Whether large matrices of this kind are packed here; it is found out once a process."""
    return device == "cpu" and dtype == torch.float32 and _packing_works()


class _Plain:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.t(), bias

    def __call__(self, rows: Tensor) -> Tensor:
        if self._bias is None:
            return rows @ self._weight
        return torch.addmm(self._bias, rows, self._weight)

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        return torch.addmm(to, rows, self._weight)


class _LowPrecision:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.t(), bias

    def __call__(self, rows: Tensor) -> Tensor:
        product = (rows.to(self._weight.dtype) @ self._weight).to(rows.dtype)
        return product if self._bias is None else product + self._bias

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        return to + rows.to(self._weight.dtype) @ self._weight


class _Packed:
    def __init__(self, weight: Tensor, rows: int, bias: Tensor | None) -> None:
        operations: Any = torch.ops.mkldnn
        self._multiply = operations._linear_pointwise.default
        self._multiply_add = operations._linear_pointwise.binary
        # Out of a transposed weight packing is five times slower than out of a copy.
        self._weight = operations._reorder_linear_weight(weight.contiguous(), rows)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        return self._multiply(rows, self._weight, self._bias, "none", [], "")

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        return self._multiply_add(rows, to, self._weight, None, "add")


@cache
def _packing_works() -> bool:
    """Packed products are no public part of torch: one is tried before any is relied on."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight = torch.arange(24.0).reshape(4, 6)
    rows, to, bias = torch.ones(3, 6), torch.ones(3, 4), torch.arange(4.0)
    try:
        with torch.no_grad():
            product = _Packed(weight, len(rows), bias)
            results = torch.stack([product(rows), product.add(rows, to)])
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    expected = torch.stack([rows @ weight.t() + bias, rows @ weight.t() + to])
    return torch.equal(results, expected)
