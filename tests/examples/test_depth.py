"""Thinking depth as a latent variable: exact sums, checked against Pyro and against brute force."""

from __future__ import annotations

import itertools
import math
import random

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from torch import Tensor
from torch.nn import functional

from tests.examples.small import ITERATIONS, network, strings
from zpyro_examples.easy_to_hard import depth, tasks
from zpyro_examples.easy_to_hard.depth import (
    LatentDepthSolver,
    LatentDepthTrainer,
    StopAtRest,
    depth_prior,
)
from zpyro_examples.easy_to_hard.programs import RecurrentSolver
from zpyro_examples.easy_to_hard.solvers import FixedDepthSolver
from zpyro_examples.easy_to_hard.sweep import sweep
from zpyro_examples.easy_to_hard.tasks import Examples


@pytest.fixture(autouse=True)
def _own_store() -> None:
    pyro.clear_param_store()


def recurrent(
    scored: object = None, weight: float = 0.5, on_change: bool = False
) -> LatentDepthSolver:
    built = LatentDepthSolver(
        network(),
        ITERATIONS,
        weight,
        scored,  # pyright: ignore
        evidence_weight=1 - weight,
        stop_on_change=on_change,
    ).double()
    with torch.no_grad():
        built.done.weight.normal_(0, 0.5)
    return built


def odd_cells(inputs: Tensor) -> Tensor:
    return (torch.arange(inputs.shape[-1]) % 2 == 1).expand(len(inputs), -1)


def by_hand(built: LatentDepthSolver, x: Tensor, y: Tensor) -> list[list[float]]:
    """log p(t, y | x) for every example and depth, number by number."""
    joint = []
    for row in range(len(x)):
        one, target = x[row : row + 1], y[row]
        remaining, terms, last = 1.0, [], built.network.initial_state(one)
        for state in built.network.states(one, ITERATIONS):
            remaining *= built.patience
            ready = log_odds(built, state[0], last[0])
            last = state
            probabilities = built.network.answer(state)[0].softmax(0)
            if built.scored is not None:
                ready = ready[built.scored(one)[0]]
            stop = torch.sigmoid(ready.min()).item()
            likelihood = 1.0
            for cell, value in enumerate(target.tolist()):
                if built.scored is None or built.scored(one)[0, cell]:
                    likelihood *= probabilities[value, cell].item()
            terms.append(remaining * stop * likelihood)
            remaining *= 1 - stop
        cells = len(target) if built.scored is None else int(built.scored(one).sum())
        terms.append((1 - sum(stops_only(built, one))) * 0.5**cells)
        joint.append([math.log(term) for term in terms])
    return joint


def log_odds(built: LatentDepthSolver, state: Tensor, before: Tensor) -> Tensor:
    """Of a stop, for each cell, from states (width, cells)."""
    done = built.done
    if isinstance(done, StopAtRest):
        change = (state - before).abs().max(0).values
        return done.bias - (1 + done.weight.exp()).log() * change
    return (done.weight @ state)[0] + done.bias


def stops_only(built: LatentDepthSolver, one: Tensor) -> list[float]:
    """p(t | x) for t = 1..m of one example."""
    remaining, result, last = 1.0, [], built.network.initial_state(one)
    for state in built.network.states(one, ITERATIONS):
        remaining *= built.patience
        stop = built.stop_logits(state, last, one).sigmoid().item()
        last = state
        result.append(remaining * stop)
        remaining *= 1 - stop
    return result


@pytest.mark.fast
@pytest.mark.parametrize("on_change", [False, True])
@pytest.mark.parametrize("scored", [None, odd_cells])
def test_the_evidence_and_the_posterior_are_those_of_brute_force(
    scored: object, on_change: bool
) -> None:
    built, (x, y) = recurrent(scored, on_change=on_change), strings()
    evidence, posterior = built.posterior(x, y)
    for row, joint in enumerate(by_hand(built, x, y)):
        total = math.log(sum(math.exp(value) for value in joint))
        assert evidence[row].item() == pytest.approx(total, rel=1e-5)
        expected = torch.tensor([value - total for value in joint], dtype=torch.float64)
        torch.testing.assert_close(posterior[row].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("scored", [None, odd_cells])
def test_the_evidence_is_trace_enum_elbo_on_the_enumerated_program(scored: object) -> None:
    built, (x, y) = recurrent(scored), strings()
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    evidence, _ = built.posterior(x, y)
    loss = elbo.differentiable_loss(built.model, built.guide, x, y)
    torch.testing.assert_close(torch.as_tensor(loss), -evidence.sum(), rtol=1e-6, atol=0)
    parameters = list(built.parameters())
    mine = torch.autograd.grad(-evidence.sum(), parameters)
    enumerated = torch.autograd.grad(torch.as_tensor(loss), parameters)
    for a, b in zip(mine, enumerated, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.fast
def test_pyro_computes_the_same_posterior() -> None:
    built, (x, y) = recurrent(), strings()
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    marginals = elbo.compute_marginals(built.model, built.guide, x, y)
    _, posterior = built.posterior(x, y)
    found = marginals["depth"].probs.squeeze(1)
    torch.testing.assert_close(found, posterior.exp(), rtol=1e-5, atol=1e-8)


@pytest.mark.fast
@pytest.mark.parametrize(("before", "count"), [(0, 5), (2, 3), (4, 1)])
def test_training_adds_the_progressive_term(
    monkeypatch: pytest.MonkeyPatch, before: int, count: int
) -> None:
    monkeypatch.setattr(depth, "sample_progress", lambda *_: (before, count))
    built, (x, y) = recurrent(weight=0.3), strings()
    loss = LatentDepthTrainer(built).loss(x, y)
    evidence, _ = built.posterior(x, y, count, before)
    state = built.network.initial_state(x)
    if before:
        state = built.network.iterate_from(state, x, before).detach()
    logits = built.network.answer(built.network.iterate_from(state, x, count))
    late = functional.cross_entropy(logits, y, reduction="sum")
    expected = (0.7 * -evidence.sum() + 0.3 * late) / y.numel()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    parameters = list(built.parameters())
    mine = torch.autograd.grad(loss, parameters, allow_unused=True)
    by_hand = torch.autograd.grad(expected, parameters, allow_unused=True)
    for a, b in zip(mine, by_hand, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)


@pytest.mark.fast
def test_the_first_half_of_a_training_has_the_progressive_loss() -> None:
    solver, (x, y) = LatentDepthTrainer(recurrent(weight=0.3)), strings()
    plain = RecurrentSolver(solver.latent_depth.network, ITERATIONS, 0.3)
    for fraction, alone in ((0.0, True), (0.49, True), (0.5, False), (1.0, False)):
        solver.at(fraction, grown=True)
        random.seed(0)
        torch.manual_seed(0)
        found = solver.loss(x, y)
        random.seed(0)
        torch.manual_seed(0)
        expected = FixedDepthSolver(plain).loss(x, y)
        assert torch.equal(found, expected) == alone


@pytest.mark.fast
@pytest.mark.parametrize("patience", [0.5, 0.98, 1.0])
def test_the_prior_is_geometric_where_stopping_is_constant(patience: float) -> None:
    stop = 0.2
    logits = torch.full((1, 6), math.log(stop / (1 - stop)), dtype=torch.float64)
    prior = depth_prior(logits, patience).exp()[0]
    on = [patience**t * stop * (1 - stop) ** (t - 1) for t in range(1, 7)]
    expected = torch.tensor([*on, 1 - sum(on)], dtype=torch.float64)
    torch.testing.assert_close(prior, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.fast
def test_the_prior_is_a_distribution_however_extreme() -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0], [-80.0, -80.0, -80.0], [-900.0, 900.0, 3.0]])
    prior = depth_prior(logits, 0.9)
    assert prior.isfinite().all()
    torch.testing.assert_close(prior.exp().sum(1), torch.ones(3))


def test_drawing_without_targets() -> None:
    built, (x, _) = recurrent(), strings(count=2)
    torch.manual_seed(0)
    draws = Predictive(built.model, guide=built.guide, num_samples=1_000)(x)
    assert draws["answers"].shape == (1_000, 2, 9)
    states = [built.network.initial_state(x), *built.network.states(x, 5)]
    stops = [built.stop_logits(state, last, x) for last, state in itertools.pairwise(states)]
    probability = depth_prior(torch.stack(stops, 1), 0.98).exp()
    counts = torch.stack([(draws["depth"].squeeze(-1) == t).double().mean(0) for t in range(6)], 1)
    error = (probability * (1 - probability) / 1_000).sqrt()
    assert ((counts - probability).abs() < 6 * error + 1e-9).all()
    trace = poutine.trace(built.model).get_trace(x)
    assert trace.nodes["answers"]["value"].shape == (2, 9)


@pytest.mark.fast
def test_its_own_stopping_rule_in_a_sweep() -> None:
    """Stops at the first iteration with a probability of 1/2 or more, at the latest the last."""
    built, (x, y) = recurrent(), strings(count=20)
    task = tasks.load("prefix-sums")
    solver = LatentDepthTrainer(built)
    found = sweep(solver, task, Examples(x, y), 9, ITERATIONS)
    solved, after = 0, 0
    for row in range(20):
        one = x[row : row + 1]
        for number, answer in enumerate(solver.answers(one, ITERATIONS), start=1):
            assert answer.stop is not None
            if answer.stop.item() >= 0.5 or number == ITERATIONS:
                solved += int((answer.logits.argmax(1) == y[row]).all())
                after += number
                break
    assert found.stopped == solved / 20
    assert found.stopped_after == after / 20


def test_a_solver_that_looks_at_changes_goes_on_while_any_cell_changes() -> None:
    built, (x, _) = recurrent(on_change=True), strings()
    with torch.no_grad():
        # Ready at rest; a change of one channel by 0.1 or more in any cell is not.
        built.done.weight.fill_(100.0)
        built.done.bias.fill_(5.0)
    state = built.network.initial_state(x)
    changed = state.clone()
    changed[1, 0, 7] += 0.1
    assert (built.stop_logits(state, state, x) > 0).all()
    assert (built.stop_logits(changed, state, x) > 0).tolist() == [True, False, True, True]
    assert built.stop_logits(changed, state, x).shape == (4,)
