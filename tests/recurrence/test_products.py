"""Prepared products equal plain products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.recurrence.cases import assert_close, gradients, make, outputs
from zpyro.nn.kernels import products
from zpyro.nn.kernels.products import PACKED_SIZE, PACKED_USES, packs, prepare
from zpyro.nn.recurrence import RECURRENCES, plain

pytestmark = pytest.mark.fast


def exact(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.double() @ weight.double().t()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 5), (300, 256), (256, 300)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_product(dtype: torch.dtype, shape: tuple[int, int], transposed: bool, count: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=dtype)
    weight = weight.t().contiguous().t() if transposed else weight
    rows, to = torch.randn(count, shape[1], dtype=dtype), torch.randn(count, shape[0], dtype=dtype)
    bias, before = torch.randn(shape[0], dtype=dtype), to.clone()

    product = prepare(weight, count, uses=100, bias=bias)

    close = {"rtol": 1e-4 if dtype == torch.float32 else 1e-12, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(product(rows), exact(rows, weight) + bias, **close)
    torch.testing.assert_close(product.add(rows, to), exact(rows, weight) + to, **close)
    assert torch.equal(to, before)


def test_lower_precision_keeps_the_type_of_the_results() -> None:
    weight, rows, to = torch.randn(6, 4), torch.randn(3, 4), torch.randn(3, 6)
    product = prepare(weight, 3, uses=9, bias=torch.ones(6), dtype=torch.bfloat16)
    for result, other in ((product(rows), 1.0), (product.add(rows, to), to)):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, rows @ weight.t() + other, rtol=0.05, atol=0.05)


def test_packing_is_for_large_float32_matrices_on_a_cpu() -> None:
    assert not packs("cpu", torch.float64)
    assert not packs("cuda", torch.float32)
    small, large = torch.randn(4, 4), torch.randn(PACKED_SIZE // 64, 64)
    kinds = {
        "small": type(prepare(small, 32, PACKED_USES)),
        "seldom": type(prepare(large, 32, PACKED_USES - 1)),
        "large": type(prepare(large, 32, PACKED_USES)),
    }
    assert kinds["small"] is kinds["seldom"]
    assert (kinds["large"] is kinds["small"]) != packs("cpu", torch.float32)


def test_without_packing_the_results_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, rows = torch.randn(300, 256), torch.randn(8, 256)
    packed = prepare(weight, 8, uses=100)(rows)
    monkeypatch.setattr(products, "_packing_works", lambda: False)
    torch.testing.assert_close(prepare(weight, 8, uses=100)(rows), packed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("cell", ["lstm", "layer_norm"])
def test_recurrence_with_packed_matrices(name: str, cell: str) -> None:
    """Large enough that matrices are packed; float32 against the plain loop in float64."""
    case = make(cell, sequences=5, steps=8, hidden=130, latent=20, width=140, embedded=9, scale=0.2)
    expected = outputs(case.run(plain)), gradients(case, case.run(plain))
    single = case.to(torch.float32)
    path = single.run(RECURRENCES[name])
    assert_close(outputs(path), expected[0], 1e-4)
    assert_close(gradients(single, path), expected[1], 1e-3)
