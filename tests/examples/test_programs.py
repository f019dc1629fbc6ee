"""The Pyro programs: likelihoods, the progressive loss and its gradient, weights as latents."""

from __future__ import annotations

from itertools import pairwise

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy import stats
from torch import Tensor
from torch.nn import functional

from tests.examples.small import ITERATIONS, network, strings
from zpyro_examples.easy_to_hard import programs
from zpyro_examples.easy_to_hard.programs import RecurrentSolver, random_weights, sample_progress


@pytest.fixture(autouse=True)
def _own_store() -> None:
    pyro.clear_param_store()


def first_half(inputs: Tensor) -> Tensor:
    """Scores only the first cells."""
    positions = torch.arange(inputs.shape[-1])
    return (positions < inputs.shape[-1] // 2).expand(len(inputs), -1)


@pytest.mark.fast
def test_the_likelihood_is_cross_entropy() -> None:
    recurrent, (x, y) = RecurrentSolver(network(), ITERATIONS, 1.0), strings()
    loss = Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y)
    logits = recurrent.network(x, ITERATIONS)
    expected = functional.cross_entropy(logits, y, reduction="sum").item()
    assert loss == pytest.approx(expected, rel=1e-6)
    longer = Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y, 2 * ITERATIONS)
    logits = recurrent.network(x, 2 * ITERATIONS)
    expected = functional.cross_entropy(logits, y, reduction="sum").item()
    assert longer == pytest.approx(expected, rel=1e-6)


@pytest.mark.fast
def test_cells_that_do_not_count() -> None:
    recurrent, (x, y) = RecurrentSolver(network(), ITERATIONS, 1.0, first_half), strings()
    loss = Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y)
    logits = recurrent.network(x, ITERATIONS)[:, :, :4]
    expected = functional.cross_entropy(logits, y[:, :4], reduction="sum").item()
    assert loss == pytest.approx(expected, rel=1e-6)
    assert recurrent.num_scored(x) == 4 * 4


@pytest.mark.fast
def test_images_have_a_site_for_every_pixel() -> None:
    recurrent = RecurrentSolver(network("recall", 2), ITERATIONS, 0.5)
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    trace = poutine.trace(recurrent.model).get_trace(x)
    assert trace.nodes["answers"]["value"].shape == (2, 20)
    assert recurrent.num_scored(x) == 40


@pytest.mark.fast
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("before", "count"), [(0, 2), (3, 2), (4, 1)])
def test_the_progressive_loss_and_its_gradient_are_a_hand_made_one(
    monkeypatch: pytest.MonkeyPatch, weight: float, before: int, count: int
) -> None:
    monkeypatch.setattr(programs, "sample_progress", lambda *_: (before, count))
    recurrent, (x, y) = RecurrentSolver(network(), ITERATIONS, weight), strings()
    loss = Trace_ELBO().differentiable_loss(recurrent.training_model, recurrent.guide, x, y)
    torch.as_tensor(loss).backward()
    other = network()
    late = functional.cross_entropy(other(x, ITERATIONS), y, reduction="sum")
    state = other.initial_state(x)
    if before:
        for _ in range(before):
            state = other.iterate_from(state, x, 1)
        state = state.detach()
    for _ in range(count):
        state = other.iterate_from(state, x, 1)
    early = functional.cross_entropy(other.answer(state), y, reduction="sum")
    expected = (1 - weight) * late + weight * early
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for (name, a), b in zip(recurrent.network.named_parameters(), other.parameters(), strict=True):
        zeros = torch.zeros_like(b)
        mine = zeros if a.grad is None else a.grad
        hand = zeros if b.grad is None else b.grad
        torch.testing.assert_close(mine, hand, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.fast
def test_iterations_with_and_without_gradient_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    draws = [sample_progress(4) for _ in range(8_000)]
    assert {n for n, _ in draws} == {0, 1, 2, 3}
    # n uniform, and given n, k uniform on 1..m - n.
    expected = {(n, k): 1 / 4 / (4 - n) for n in range(4) for k in range(1, 5 - n)}
    counts = [draws.count(pair) for pair in expected]
    assert sum(counts) == len(draws)
    result = stats.chisquare(counts, [8_000 * p for p in expected.values()])
    assert result.pvalue > 1e-6


@pytest.mark.fast
def test_extra_adds_iterations_every_other_time() -> None:
    torch.manual_seed(0)
    draws = [sample_progress(1, 3) for _ in range(8_000)]
    assert {k for _, k in draws} == {1}
    # n = 0 half of the time and, in the other half, uniform on 0..3.
    counts = [[n for n, _ in draws].count(n) for n in range(4)]
    result = stats.chisquare(counts, [8_000 * p for p in (0.625, 0.125, 0.125, 0.125)])
    assert result.pvalue > 1e-6


@pytest.mark.fast
def test_the_late_term_is_the_same_after_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = strings()
    losses = []
    for before in (2, 3 * ITERATIONS):
        monkeypatch.setattr(programs, "sample_progress", lambda *_, n=before: (n, 1))
        recurrent = RecurrentSolver(network(), ITERATIONS, 0.5, extra_iterations=20)
        trace = poutine.trace(recurrent.training_model).get_trace(x, y)
        trace.compute_log_prob()
        losses.append(trace.nodes["answers"]["log_prob_sum"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.fast
def test_two_thinkers_in_one_process_keep_their_weights() -> None:
    x, y = strings()
    one = RecurrentSolver(network(seed=1), ITERATIONS, 1.0)
    two = RecurrentSolver(network(seed=2), ITERATIONS, 1.0)
    before = two.network.projection.weight.detach().clone()
    for recurrent in (one, two):
        Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y)
    assert torch.equal(two.network.projection.weight, before)


def test_stock_svi_trains_it() -> None:
    """On a problem that a narrow network learns in a second: to say the bits again."""
    recurrent, (x, _) = RecurrentSolver(network(width=24).float(), 2, 0.5), strings(count=8)
    x, y = x.float(), x[:, 0].long()
    svi = SVI(
        recurrent.training_model,
        recurrent.guide,
        pyro.optim.Adam({"lr": 1e-2}),
        loss=Trace_ELBO(),
    )
    torch.manual_seed(0)
    before = Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y)
    for _ in range(100):
        svi.step(x, y)
    assert Trace_ELBO().loss(recurrent.model, recurrent.guide, x, y) < 0.85 * before


def test_predictive_draws_answers_from_the_logits() -> None:
    torch.manual_seed(0)
    recurrent, (x, _) = RecurrentSolver(network(), ITERATIONS, 1.0), strings(count=2)
    draws = Predictive(recurrent.model, guide=recurrent.guide, num_samples=2_000)(x)["answers"]
    assert draws.shape == (2_000, 2, 9)
    probability = recurrent.network(x, ITERATIONS).softmax(1)[:, 1].detach()
    error = (probability * (1 - probability) / 2_000).sqrt()
    assert ((draws.double().mean(0) - probability).abs() < 6 * error + 1e-12).all()


@pytest.mark.fast
def test_weights_as_latents_have_the_prior_that_was_asked_for() -> None:
    recurrent, (x, y) = (
        random_weights(RecurrentSolver(network(), ITERATIONS, 0.5), 40, 2.0),
        strings(),
    )
    trace = poutine.trace(recurrent.model).get_trace(x, y)
    trace.compute_log_prob()
    weights = {name: s for name, s in trace.nodes.items() if name.endswith(".weight")}
    assert len(weights) == 9
    for site in weights.values():
        value = site["value"]
        deviation = 2.0 / value[0].numel() ** 0.5
        prior = stats.norm(0, deviation).logpdf(value.numpy()).sum()
        assert site["log_prob_sum"].item() == pytest.approx(prior, rel=1e-6)
    # Four examples stand for forty.
    answers = trace.nodes["answers"]
    assert answers["log_prob_sum"].item() == pytest.approx(
        10 * answers["unscaled_log_prob"].sum().item(), rel=1e-6
    )


@pytest.mark.parametrize("kind", [AutoDelta, AutoNormal])
def test_weights_as_latents_train_and_predict(kind: type) -> None:
    torch.manual_seed(0)
    recurrent = random_weights(RecurrentSolver(network().float(), ITERATIONS, 0.5), 8)
    x, y = strings(count=8)
    x = x.float()
    guide = kind(recurrent.model)
    svi = SVI(recurrent.training_model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    draws = Predictive(recurrent.model, guide=guide, num_samples=3)(x)
    assert draws["answers"].shape == (3, 8, 9)
    weights = next(value for name, value in draws.items() if name.endswith("recall.weight"))
    different = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert all(different) if kind is AutoNormal else not any(different)
