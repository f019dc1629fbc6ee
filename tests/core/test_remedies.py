"""Remedies against collapse: schedules, free bits, word dropout, skipped gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import zpyro
from tests.core.cases import Case, frames, gradients, make
from zpyro.models import model_config
from zpyro.objectives import KL, schedules
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.sequence_terms import FixedNoise
from zpyro.training.building import build_objective
from zpyro.training.config import Config, ObjectiveConfig

LATENT = ("dmm", "storn", "vrnn", "srnn", "gaussian")


@pytest.mark.fast
def test_sigmoid_schedule_meets_both_ends_and_is_symmetric() -> None:
    rise = schedules.sigmoid(0.2, 1.0, steps=100)
    assert rise(0) == 0.2
    assert rise(50) == pytest.approx(0.6)
    assert rise(100) == rise(10_000) == 1.0
    values = [rise(step) for step in range(101)]
    assert values == sorted(values)
    assert all(a + b == pytest.approx(1.2) for a, b in zip(values, values[::-1], strict=True))
    slopes = [b - a for a, b in itertools.pairwise(values)]
    assert max(slopes) == pytest.approx(slopes[50], rel=0.02)
    with pytest.raises(ValueError, match="steps is 0"):
        schedules.sigmoid(0.0, 1.0, steps=0)


@pytest.mark.fast
def test_cyclical_schedule_starts_anew() -> None:
    weight = schedules.cyclical(0.0, 1.0, period=10, rise=0.5, cycles=2)
    assert [weight(step) for step in (0, 1, 5, 9)] == pytest.approx([0.0, 0.2, 1.0, 1.0])
    assert [weight(step) for step in (10, 12, 19)] == pytest.approx([0.0, 0.4, 1.0])
    assert [weight(step) for step in (20, 21, 35)] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="rise 0"):
        schedules.cyclical(0.0, 1.0, period=10, rise=0)


@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("granularity", ["sequence", "step"])
@pytest.mark.parametrize("name", LATENT)
def test_free_bits_are_a_floor_under_the_trained_kl(
    name: str, granularity: str, analytic: bool
) -> None:
    case = make(name)
    terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
    kl = terms.kl if analytic else terms.log_posterior - terms.log_prior
    valid = torch.arange(kl.shape[1]) < case.lengths[:, None]
    floor = float(kl[valid].detach().median())
    expected = {
        "step": kl[valid].clamp(min=floor).sum(),
        "sequence": kl.sum(1).clamp(min=2.0 * floor).sum(),
    }
    assert expected["step"].item() > kl.sum().item() + 1e-3
    for group, free in (("step", floor), ("sequence", 2.0 * floor)):
        objective = zpyro.ZForcingELBO(
            0.7, analytic_kl=analytic, free_bits=free, free_bits_per=group
        )
        with FixedNoise(case.noise):
            parts = objective.terms(*case.module.program(granularity), *case.batch)
        torch.testing.assert_close(parts.loss, 0.7 * expected[group] - parts.log_likelihood)
        torch.testing.assert_close(parts.kl, kl.sum())
        torch.testing.assert_close(parts.bound, terms.log_likelihood.sum() - kl.sum())


@pytest.mark.fast
def test_free_bits_stop_the_pull_of_a_small_kl() -> None:
    case = make("gaussian")
    losses = []
    for free in (0.0, 1e3):
        with FixedNoise(case.noise):
            parts = zpyro.ZForcingELBO(free_bits=free).terms(
                case.module.model, case.module.guide, *case.batch
            )
        losses.append(gradients(case.module, parts.loss + parts.log_likelihood))
    assert losses[0]["prior_network.output.weight"].any()
    assert not any(gradient.any() for gradient in losses[1].values())


def test_free_bits_of_vectorized_particles_average() -> None:
    case = make("gaussian")
    found = []
    for vectorized in (False, True):
        torch.manual_seed(0)
        objective = zpyro.ZForcingELBO(
            free_bits=0.4, num_particles=300, vectorize_particles=vectorized, max_plate_nesting=1
        )
        with torch.no_grad():
            parts = objective.terms(case.module.model, case.module.guide, *case.batch)
        found.append(parts.loss + parts.log_likelihood)
    torch.testing.assert_close(*found, rtol=0.02, atol=0.0)


@pytest.mark.fast
def test_free_bits_per_step_need_steps() -> None:
    import pyro

    case = make("gaussian")

    def guide(x: Tensor, *_: object) -> None:
        with pyro.plate("sequences", len(x)):
            zero = torch.zeros(3, 5, 2, dtype=torch.float64)
            pyro.sample("z", pyro.distributions.Normal(zero, 1.0).to_event(2))

    with pytest.raises(zpyro.UserError, match="has no value per step"):
        zpyro.ZForcingELBO(free_bits=1.0)(case.module.model, guide)(*case.batch)
    loss = zpyro.ZForcingELBO(free_bits=1.0, free_bits_per="sequence")(case.module.model, guide)
    assert torch.isfinite(loss(*case.batch))


@pytest.mark.fast
@pytest.mark.parametrize(
    "name", ["rnn_tokens", "storn_tokens", "vrnn_tokens", "srnn_tokens", "categorical"]
)
@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_dropped_words_are_not_told_to_the_recurrence(name: str, granularity: str) -> None:
    """With every word dropped, a prediction depends on earlier words through the latents alone."""
    case = make(name, lengths=(5, 5, 5))
    case.module.word_dropout = 1.0 - 1e-12
    other = frames(case.module.likelihood, 3, 5)
    changed = case.x.clone()
    changed[:, :3] = other[:, :3]
    model = case.module.program(granularity)[0]
    latents = {"z": case.noise} | {f"z_{t + 1}": case.noise[:, t] for t in range(5)}

    def last(x: Tensor) -> Tensor:
        from pyro import poutine

        trace = poutine.trace(poutine.condition(model, data=latents)).get_trace(
            x, case.lengths, case.start
        )
        if granularity == "sequence":
            site = trace.nodes["x"]
            return site["fn"].step_log_prob(site["value"])[:, 3:]
        return torch.stack([trace.nodes[f"x_{t}"]["fn"].log_prob(x[:, t - 1]) for t in (4, 5)], 1)

    case.module.train()
    torch.testing.assert_close(last(case.x), last(changed), rtol=0, atol=0)
    case.module.eval()
    assert not torch.allclose(last(case.x), last(changed))


@pytest.mark.fast
def test_the_posterior_sees_every_word() -> None:
    case = make("categorical")
    whole = case.module.bind(*case.batch).backward_states
    case.module.word_dropout = 0.9
    torch.testing.assert_close(case.module.bind(*case.batch).backward_states, whole)


def skipped(name: str, chance: float) -> tuple[Case, dict[str, Tensor], Tensor]:
    """Gradients of the log-likelihood with some of z's gradients skipped."""
    case = make(name, recurrence="plain") if name not in ("storn",) else make(name)
    case.module.skip_gradient = chance
    terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
    return case, gradients(case.module, terms.log_likelihood.sum()), terms.log_likelihood


@pytest.mark.fast
@pytest.mark.parametrize("name", LATENT)
def test_skipped_gradients_change_no_value(name: str) -> None:
    assert torch.equal(skipped(name, 0.0)[2], skipped(name, 0.6)[2])


@pytest.mark.fast
@pytest.mark.parametrize("name", ["storn", "gaussian"])
def test_all_gradients_skipped_leave_the_posterior_none(name: str) -> None:
    """There the latents reach the likelihood through the recurrence alone."""
    _, free, _ = skipped(name, 0.0)
    _, cut, _ = skipped(name, 1.0)
    assert free["posterior_network.hidden.weight"].any()
    assert not cut["posterior_network.hidden.weight"].any()
    assert cut["output.weight"].any()


@pytest.mark.fast
@pytest.mark.parametrize("name", ["dmm", "vrnn", "srnn"])
def test_direct_uses_of_z_keep_their_gradient(name: str) -> None:
    """The emission of x_t reads z_t itself: with one step nothing is lost, with more something."""
    for lengths, same in (((1, 1), True), ((4, 4), False)):
        found = []
        for chance in (0.0, 1.0):
            case = make(name, lengths=lengths, recurrence="plain")
            case.module.skip_gradient = chance
            terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
            grads = gradients(case.module, terms.log_likelihood.sum())
            found.append(grads["posterior_network.output.weight"])
        assert found[1].any()
        assert torch.allclose(*found) is same


@pytest.mark.fast
@pytest.mark.parametrize("name", LATENT)
def test_skipping_draws_by_sequence_and_step(name: str) -> None:
    """Each run of the same batch skips others; nothing is skipped outside of training."""
    case = make(name)
    case.module.skip_gradient = 0.5
    draws = []
    for _ in range(2):
        terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
        found = gradients(case.module, terms.log_likelihood.sum())
        draws.append(found["posterior_network.output.bias"])
    assert not torch.allclose(*draws)
    case.module.eval()
    assert not case.module.skips_gradients


@pytest.mark.fast
def test_objectives_from_settings() -> None:
    def objective(**values: Any) -> zpyro.ZForcingELBO:
        return build_objective(ObjectiveConfig(**values), 10)

    assert objective(kl_schedule="sigmoid", kl_weight_rate=0.01).kl_weight(40) == pytest.approx(0.6)
    cycles = objective(kl_schedule="cyclical", kl_weight_rate=0.01, kl_cycles=2).kl_weight
    assert [cycles(step) for step in (0, 80, 160, 320)] == pytest.approx([0.2, 1.0, 0.2, 1.0])
    free = objective(free_bits=0.5, free_bits_per="sequence").components[1]
    assert isinstance(free, KL)
    assert (free.free_bits, free.free_bits_per) == (0.5, "sequence")
    for bound, doubly in (("iwae", False), ("dreg", True)):
        many = objective(bound=bound, particles=7)
        assert isinstance(many, MultiSampleELBO)
        assert (many.num_particles, many.doubly_reparameterized) == (7, doubly)
    with pytest.raises(zpyro.UserError, match="free_bits is for the bound elbo"):
        objective(bound="dreg", free_bits=1.0)
    with pytest.raises(zpyro.UserError, match=r"set model\.word_dropout to 0"):
        Config(
            "npz",
            None,
            None,
            model=model_config(word_dropout=0.1),
            objective=ObjectiveConfig(bound="dreg", particles=3),
        )
    with pytest.raises(ValueError, match="free_bits_per is 'word'"):
        zpyro.ZForcingELBO(free_bits_per="word")
