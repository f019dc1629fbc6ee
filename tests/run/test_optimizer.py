"""The optimizer: clipping, step sizes, averaged weights, and coming back from a checkpoint."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from zpyro.training.config import TrainConfig
from zpyro.training.optimizer import MOMENTUM, AveragedWeights, Optimizer

pytestmark = pytest.mark.fast

FINITE = torch.tensor(True)


def steps(module: nn.Linear, optimizer: Optimizer, count: int) -> None:
    for step in range(count):
        gradients(optimizer, module(torch.full((1, 2), float(step))).square().sum())
        optimizer.step(torch.tensor(optimizer.learning_rate(step / 10)), FINITE)


def gradients(optimizer: Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss.backward()
    return optimizer.clip_gradients()


def make(module: nn.Module, train: TrainConfig) -> Optimizer:
    return Optimizer([(list(module.parameters()), 1.0)], train)


def test_the_norm_is_that_before_clipping() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = make(module, TrainConfig(clip_norm=0.5))
    norm = gradients(optimizer, 100 * module.weight.sum())
    assert float(norm) == pytest.approx(100 * 2**0.5)
    assert module.weight.grad is not None
    assert float(module.weight.grad.norm()) == pytest.approx(0.5)


def test_step_sizes() -> None:
    def rate(schedule: str, fraction: float, halvings: int = 0) -> float:
        train = TrainConfig(
            learning_rate=2.0, learning_rate_schedule=schedule, learning_rate_floor=0.1
        )
        optimizer = make(nn.Linear(1, 1), train)
        for _ in range(halvings):
            optimizer.reduce()
        return optimizer.learning_rate(fraction)

    assert rate("constant", 0.7) == 2.0
    assert rate("cosine", 0.0) == pytest.approx(2.0)
    assert rate("cosine", 0.5) == pytest.approx(1.1)
    assert rate("cosine", 1.0) == pytest.approx(0.2)
    assert rate("plateau", 0.5, halvings=2) == pytest.approx(0.5)
    assert rate("plateau", 0.5, halvings=20) == pytest.approx(0.2)


def test_step_sizes_that_follow_epochs() -> None:
    train = TrainConfig(learning_rate=2.0, learning_rate_schedule="milestones", milestones=(3, 5))
    optimizer = make(nn.Linear(1, 1), train)
    rates = [optimizer.learning_rate(0.5, epoch) for epoch in (0, 2, 3, 5)]
    assert rates == pytest.approx([2.0, 2.0, 0.2, 0.02])
    warm = make(nn.Linear(1, 1), TrainConfig(learning_rate=1.0, warmup_epochs=2.0))
    expected = [1 - np.exp(-1 / 2), 1 - np.exp(-3 / 2)]
    assert [warm.learning_rate(0.5, epoch) for epoch in (0, 2)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_groups_have_their_share_of_the_step_size(name: str) -> None:
    train = TrainConfig(optimizer=name, weight_decay=0.1)
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = Optimizer([([weights[0]], 1.0), ([weights[1]], 0.5)], train)
    for _ in range(2):
        gradients(optimizer, weights[0].sum() + weights[1].sum())
        optimizer.step(torch.tensor(0.01), FINITE)
    moved = [1 - weight.detach() for weight in weights]
    torch.testing.assert_close(moved[1], 0.5 * moved[0], rtol=0.02, atol=0)


def test_sgd_has_the_momentum_of_torch() -> None:
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    train = TrainConfig(optimizer="sgd", clip_norm=math.inf)
    optimizer = Optimizer([([ours], 1.0)], train)
    stock = torch.optim.SGD([theirs], lr=0.1, momentum=MOMENTUM)
    gradients(optimizer, ours.sum() * float("nan"))
    optimizer.step(torch.tensor(0.1), ~FINITE)
    for _ in range(3):
        gradients(optimizer, ours.square().sum())
        optimizer.step(torch.tensor(0.1), FINITE)
        stock.zero_grad()
        theirs.square().sum().backward()
        stock.step()
    torch.testing.assert_close(ours, theirs)


def test_the_average_forgets_the_start_and_lags_behind() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = AveragedWeights([parameter], 0.9)
    for value in range(200):
        parameter.data.fill_(float(value))
        average.update(FINITE)
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
    optimizer = make(module, train)
    steps(module, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    other = nn.Linear(2, 1)
    other.load_state_dict(module.state_dict())
    restored = make(other, train)
    restored.load_state_dict(state)
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
    optimizer = make(module, TrainConfig(average=0.9))
    steps(module, optimizer, 3)
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    gradients(optimizer, module.weight.sum() * float("nan"))
    optimizer.step(torch.tensor(0.1), ~FINITE)
    for kept, now in zip(
        tensors(before), tensors((module.state_dict(), optimizer.state_dict())), strict=True
    ):
        assert torch.equal(kept, now)
    steps(module, optimizer, 1)
    assert not torch.equal(module.weight, before[0]["weight"])


def tensors(state: object) -> list[torch.Tensor]:
    """Every tensor within, in order."""
    leaves = torch.utils._pytree.tree_leaves(state)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def test_weight_noise_moves_the_weights_while_a_gradient_is_taken() -> None:
    weight = nn.Parameter(torch.full((20_000,), 3.0))
    optimizer = Optimizer([([weight], 1.0)], TrainConfig(weight_noise=0.5, clip_norm=math.inf))
    before = weight.detach().clone()
    with optimizer.noisy_weights():
        noise = weight.detach() - before
        # The gradient of w^2 / 2 is w, here with its noise.
        gradients(optimizer, weight.square().sum() / 2)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(weight.detach(), before)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, before + noise)


def test_the_weights_are_as_before_after_an_error_under_noise() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([([weight], 1.0)], TrainConfig(weight_noise=0.5))

    def fail() -> None:
        with optimizer.noisy_weights():
            assert not torch.equal(weight.detach(), torch.ones(3))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert torch.equal(weight.detach(), torch.ones(3))


def test_no_weight_noise_draws_no_random_numbers() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([([weight], 1.0)], TrainConfig())
    state = torch.get_rng_state()
    with optimizer.noisy_weights():
        assert torch.equal(weight.detach(), torch.ones(3))
    assert torch.equal(torch.get_rng_state(), state)
