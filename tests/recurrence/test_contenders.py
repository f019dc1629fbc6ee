"""Every contender of the benchmarks takes a step, and those of the same equations agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.contenders import MAKERS, make
from benchmarks.sizes import TINY

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", MAKERS)
def test_a_contender_takes_steps(name: str) -> None:
    step = make(name, TINY)
    losses = [step() for _ in range(2)]
    assert all(loss is None or torch.as_tensor(loss).isfinite().all() for loss in losses)


def test_contenders_of_the_same_equations_have_the_same_loss() -> None:
    losses: dict[str, Tensor] = {}
    for name in ("plain", "fused", "fast", "svi"):
        step = make(name, TINY)
        torch.manual_seed(1)  # the same noise
        losses[name] = torch.as_tensor(step()).sum()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, losses["plain"], msg=name)
