"""Models in a function that is compiled by ``torch.compile``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zpyro
from tests.core.cases import make


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what the compiler leaves to Python
def test_a_model_in_a_compiled_function() -> None:
    case = make("gaussian")

    def loss(x: Tensor) -> Tensor:
        terms = zpyro.sequence_terms(case.module, x, noise=case.noise)
        return 2.0 * (terms.kl - terms.log_likelihood).sum()

    # The backend runs what the compiler has traced, and needs no compiler of C++.
    compiled = torch.compile(loss, backend="eager")
    expected = loss(case.x)
    gradient = torch.autograd.grad(expected, list(case.module.parameters()), allow_unused=True)
    found = compiled(case.x)
    torch.testing.assert_close(found, expected)
    again = torch.autograd.grad(found, list(case.module.parameters()), allow_unused=True)
    for one, other in zip(again, gradient, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(compiled(case.x + 1.0), loss(case.x + 1.0))
