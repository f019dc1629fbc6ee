"""Matrix products with the same matrix at every step of a loop.

A product of few rows with a large matrix spends much of its time on reordering the matrix for the
processor. Where torch has oneDNN, a matrix is reordered ("packed") once for all steps, which is 1.6
to 2 times as fast at 32 rows (see docs/performance.md). Otherwise, in float64 and for small
matrices, ``addmm`` is used. Nothing here is differentiable.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

PACKED_SIZE = 1 << 16
"""Elements of a matrix for which packing pays off."""

PACKED_USES = 8
"""Products with a matrix for which packing pays off."""


class Product:
    """rows @ weight.T + bias, for rows (N, in) and a weight (out, in); a new tensor (N, out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.t(), bias

    def __call__(self, rows: Tensor) -> Tensor:
        if self._bias is None:
            return rows @ self._weight
        return torch.addmm(self._bias, rows, self._weight)

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        """The product without bias plus a tensor (N, out), as a new tensor."""
        return torch.addmm(to, rows, self._weight)


def prepare(
    weight: Tensor,
    rows: int,
    uses: int,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Product:
    """Prepare a weight for many products.

    Args:
        weight: (out, in), contiguous or transposed.
        rows: number of rows of each product.
        uses: number of products.
        bias: (out,).
        dtype: lower precision for the products; results have the dtype of the weight.
    """
    weight = weight.detach()
    if dtype is not None and dtype != weight.dtype:
        return _LowPrecision(weight.to(dtype), bias)
    pays_off = weight.numel() >= PACKED_SIZE and uses >= PACKED_USES and rows > 1
    if pays_off and packs(weight.device.type, weight.dtype):
        return _Packed(weight, rows, bias)
    return Product(weight, bias)


def packs(device: str, dtype: torch.dtype) -> bool:
    """Whether large matrices of this dtype are packed on this device."""
    return device == "cpu" and dtype == torch.float32 and _packing_works()


class _LowPrecision(Product):
    def __call__(self, rows: Tensor) -> Tensor:
        product = (rows.to(self._weight.dtype) @ self._weight).to(rows.dtype)
        return product if self._bias is None else product + self._bias

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        return to + rows.to(self._weight.dtype) @ self._weight


class _Packed(Product):
    def __init__(self, weight: Tensor, rows: int, bias: Tensor | None) -> None:
        operations: Any = torch.ops.mkldnn
        self._multiply = operations._linear_pointwise.default
        self._multiply_add = operations._linear_pointwise.binary
        # Packing a transposed weight is five times slower than packing a copy.
        packed = operations._reorder_linear_weight(weight.contiguous(), rows)
        self._weight, self._bias = packed, bias

    def __call__(self, rows: Tensor) -> Tensor:
        return self._multiply(rows, self._weight, self._bias, "none", [], "")

    def add(self, rows: Tensor, to: Tensor) -> Tensor:
        return self._multiply_add(rows, to, self._weight, None, "add")


@cache
def _packing_works() -> bool:
    """Try packed products once, because they are not in torch's public interface."""
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
