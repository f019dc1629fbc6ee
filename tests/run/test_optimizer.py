"""The optimizer: clipping, step sizes, averaged weights, and coming back from a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zpyro.training.config import TrainConfig
from zpyro.training.optimizer import AveragedWeights, Optimizer

pytestmark = pytest.mark.fast

GOOD = torch.tensor(True)


def steps(module: nn.Linear, optimizer: Optimizer, count: int) -> None:
    for step in range(count):
        optimizer.gradients(module(torch.full((1, 2), float(step))).square().sum())
        optimizer.step(torch.tensor(optimizer.learning_rate(step / 10)), GOOD)


def test_the_norm_is_that_before_clipping() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = Optimizer(module, TrainConfig(clip_norm=0.5))
    norm = optimizer.gradients(100 * module.weight.sum())
    assert float(norm) == pytest.approx(100 * 2**0.5)
    assert module.weight.grad is not None
    assert float(module.weight.grad.norm()) == pytest.approx(0.5)


def test_step_sizes() -> None:
    def rate(schedule: str, fraction: float, halvings: int = 0) -> float:
        train = TrainConfig(
            learning_rate=2.0, learning_rate_schedule=schedule, learning_rate_floor=0.1
        )
        optimizer = Optimizer(nn.Linear(1, 1), train)
        for _ in range(halvings):
            optimizer.reduce()
        return optimizer.learning_rate(fraction)

    assert rate("constant", 0.7) == 2.0
    assert rate("cosine", 0.0) == pytest.approx(2.0)
    assert rate("cosine", 0.5) == pytest.approx(1.1)
    assert rate("cosine", 1.0) == pytest.approx(0.2)
    assert rate("plateau", 0.5, halvings=2) == pytest.approx(0.5)
    assert rate("plateau", 0.5, halvings=20) == pytest.approx(0.2)


def test_the_average_forgets_the_start_and_lags_behind() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = AveragedWeights([parameter], 0.9)
    for value in range(200):
        parameter.data.fill_(float(value))
        average.update(GOOD)
    with average.applied():
        # A line seen through a decay of d lags d / (1 - d) = 9 behind.
        assert parameter.item() == pytest.approx(199 - 9, abs=1e-3)
    assert parameter.item() == 199


def test_weights_come_back_when_the_use_of_the_average_fails() -> None:
    parameter = nn.Parameter(torch.ones(1))
    average = AveragedWeights([parameter], 0.9)
    parameter.data.fill_(5.0)

    def fail() -> None:
        with average.applied():
            assert parameter.item() == 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert parameter.item() == 5.0


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    train = TrainConfig(learning_rate_schedule="cosine", average=0.9)
    module = nn.Linear(2, 1)
    optimizer = Optimizer(module, train)
    steps(module, optimizer, 3)
    state = copy.deepcopy(optimizer.state())
    other = nn.Linear(2, 1)
    other.load_state_dict(module.state_dict())
    restored = Optimizer(other, train)
    restored.restore(state)
    steps(module, optimizer, 4)
    steps(other, restored, 4)
    assert torch.equal(module.weight, other.weight)
    assert optimizer.average is not None
    assert restored.average is not None
    with optimizer.average.applied(), restored.average.applied():
        assert torch.equal(module.weight, other.weight)


def test_a_step_that_is_not_good_changes_nothing() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    optimizer = Optimizer(module, TrainConfig(average=0.9))
    steps(module, optimizer, 3)
    before = copy.deepcopy((module.state_dict(), optimizer.state()))
    optimizer.gradients(module.weight.sum() * float("nan"))
    optimizer.step(torch.tensor(0.1), ~GOOD)
    for kept, now in zip(
        tensors(before), tensors((module.state_dict(), optimizer.state())), strict=True
    ):
        assert torch.equal(kept, now)
    steps(module, optimizer, 1)
    assert not torch.equal(module.weight, before[0]["weight"])


def tensors(state: object) -> list[torch.Tensor]:
    """Every tensor within, in order."""
    leaves = torch.utils._pytree.tree_leaves(state)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
