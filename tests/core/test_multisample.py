"""The importance-weighted objective and its two gradient estimates."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO
from torch import Tensor

import zpyro
from tests.core.cases import Case, make
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.sequence_terms import FixedNoise

NAMES = ("gaussian", "categorical", "srnn", "vrnn", "storn", "rnn")


def flat_gradient(
    case: Case, objective: zpyro.ZForcingELBO, granularity: str = "sequence"
) -> Tensor:
    case.module.zero_grad()
    objective.differentiable_loss(*case.module.program(granularity), *case.batch).backward()
    return torch.cat(
        [
            torch.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.flatten()
            for p in case.module.parameters()
        ]
    )


@pytest.mark.parametrize("doubly", [False, True])
@pytest.mark.parametrize("granularity", ["sequence", "step"])
@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_stock_importance_weighted_bound(
    name: str, granularity: str, doubly: bool
) -> None:
    case = make(name)
    stock = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    pyro.set_rng_seed(2)
    expected = stock.loss(*case.module.program(granularity), *case.batch)
    pyro.set_rng_seed(2)
    ours = MultiSampleELBO(5, doubly_reparameterized=doubly)
    parts = ours.terms(*case.module.program(granularity), *case.batch)
    assert parts.loss.item() == pytest.approx(expected, rel=1e-10)
    assert parts.bound <= -parts.loss + 1e-9


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_reparameterized_gradient_is_that_of_stock_pyro(name: str) -> None:
    case = make(name)
    stock = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    pyro.set_rng_seed(2)
    case.module.zero_grad()
    stock.loss_and_grads(case.module.model, case.module.guide, *case.batch)
    expected = [p.grad for p in case.module.parameters()]
    pyro.set_rng_seed(2)
    flat_gradient(case, MultiSampleELBO(5, doubly_reparameterized=False))
    for parameter, gradient in zip(case.module.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.fast
@pytest.mark.parametrize("doubly", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "srnn"])
def test_granularities_have_the_same_gradient(name: str, doubly: bool) -> None:
    case = make(name)
    found = []
    for granularity in ("sequence", "step"):
        torch.manual_seed(1)
        noise = torch.randn(4, *case.noise.shape, dtype=torch.float64)
        with FixedNoise(noise):
            objective = MultiSampleELBO(4, doubly_reparameterized=doubly)
            found.append(flat_gradient(case, objective, granularity))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kl_weight", [1.0, 0.4])
@pytest.mark.parametrize("name", ["gaussian", "srnn"])
def test_both_estimates_have_the_same_mean(name: str, kl_weight: float) -> None:
    """Their difference has mean zero, along random directions in the space of parameters."""
    case = make(name, lengths=(3, 2))
    torch.manual_seed(0)
    directions = torch.randn(
        sum(p.numel() for p in case.module.parameters()), 8, dtype=torch.float64
    )
    differences = []
    for seed in range(120):
        pair = []
        for doubly in (False, True):
            pyro.set_rng_seed(seed)
            objective = MultiSampleELBO(3, kl_weight, doubly_reparameterized=doubly)
            pair.append(flat_gradient(case, objective) @ directions)
        differences.append(pair[0] - pair[1])
    stacked = torch.stack(differences)
    error = stacked.std(0) / math.sqrt(len(stacked))
    assert error.gt(0).all(), "the two estimates must differ draw by draw"
    assert (stacked.mean(0).abs() < 4.5 * error).all()


def test_doubly_reparameterized_gradient_varies_less() -> None:
    """On the parameters of the posterior alone, at K = 16 (Tucker et al., figure 1)."""
    case = make("srnn", lengths=(4, 4))
    variances = []
    names = [name for name, _ in case.module.named_parameters()]
    sizes = [p.numel() for p in case.module.parameters()]
    for doubly in (False, True):
        draws = []
        for seed in range(60):
            pyro.set_rng_seed(seed)
            gradient = flat_gradient(case, MultiSampleELBO(16, doubly_reparameterized=doubly))
            parts = dict(zip(names, gradient.split(sizes), strict=True))
            draws.append(torch.cat([v for k, v in parts.items() if k.startswith("posterior")]))
        variances.append(torch.stack(draws).var(0).sum())
    assert variances[1] < 0.7 * variances[0]


@pytest.mark.fast
def test_one_path_is_the_plain_bound_without_the_score() -> None:
    """K = 1, doubly reparameterized: the path derivative of Roeder et al., arXiv:1703.09194."""
    case = make("gaussian")
    pyro.set_rng_seed(3)
    loss = MultiSampleELBO(1).terms(case.module.model, case.module.guide, *case.batch).loss
    pyro.set_rng_seed(3)
    plain = zpyro.ZForcingELBO(analytic_kl=False)
    expected = plain.terms(case.module.model, case.module.guide, *case.batch).loss
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_it_trains_with_auxiliary_costs_and_leaves_parameters_trainable() -> None:
    case = make("gaussian")
    objective = MultiSampleELBO(4, 0.5, 0.1, 0.1)(case.module.model, case.module.guide)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(*case.batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.requires_grad for p in case.module.parameters())
    assert sum(losses[-10:]) < sum(losses[:10])
