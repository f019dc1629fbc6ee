"""ZForcingELBO: schedules, named parts, weights, modules."""

from __future__ import annotations

import pyro
import pytest
import torch

import zpyro
from tests.core.cases import FAMILY, gradients, make
from zpyro.objectives import schedules
from zpyro.objectives.elbo import ObjectiveTerms
from zpyro.objectives.sequence_terms import FixedNoise


@pytest.mark.fast
def test_schedules() -> None:
    rise = schedules.linear(0.2, 1.0, steps=4)
    assert [rise(step) for step in (0, 2, 4, 99)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    published = schedules.at_rate(0.2, 1.0, rate=5e-5)
    assert published(0) == 0.2
    assert published(8000) == pytest.approx(0.6)
    assert published(16_001) == 1.0
    fall = schedules.at_rate(1.0, 0.0, rate=0.25)
    assert [fall(step) for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert schedules.constant(3.0)(7) == 3.0
    with pytest.raises(ValueError, match="steps is 0"):
        schedules.linear(0.0, 1.0, steps=0)
    with pytest.raises(ValueError, match="rate is -1"):
        schedules.at_rate(0.0, 1.0, rate=-1)


@pytest.mark.fast
def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    case = make("gaussian")
    objective = zpyro.ZForcingELBO(kl_weight=0.3, auxiliary_weight=0.05, reverse_weight=0.2)
    with FixedNoise(case.noise):
        parts = objective.terms(case.module.model, case.module.guide, *case.batch)
    terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
    for name in ("log_likelihood", "kl", "log_auxiliary", "log_reverse"):
        expected = getattr(terms, name).sum()
        torch.testing.assert_close(getattr(parts, name), expected, rtol=1e-12, atol=1e-12)
    total = parts.log_likelihood - 0.3 * parts.kl
    total = total + 0.05 * parts.log_auxiliary + 0.2 * parts.log_reverse
    torch.testing.assert_close(parts.loss, -total)
    torch.testing.assert_close(parts.bound, parts.log_likelihood - parts.kl)


@pytest.mark.fast
def test_raw_terms_are_told_even_where_their_weight_is_zero() -> None:
    case = make("gaussian")
    parts = zpyro.ZForcingELBO().terms(case.module.model, case.module.guide, *case.batch)
    assert parts.log_auxiliary < 0
    assert parts.log_reverse < 0
    found = gradients(case.module, parts.log_auxiliary + parts.log_reverse)
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.fast
def test_schedules_move_on_with_training_steps_only() -> None:
    case = make("gaussian")
    elbo = zpyro.ZForcingELBO(kl_weight=schedules.linear(0.0, 1.0, steps=10))
    objective = elbo(case.module.model, case.module.guide)
    for expected in (0.0, 0.1, 0.2):
        objective(*case.batch)
        assert isinstance(objective.terms, ObjectiveTerms)
        assert objective.terms.kl_weight == pytest.approx(expected)
    with torch.no_grad():
        objective(*case.batch)
    objective.eval()
    objective(*case.batch)
    elbo.loss(case.module.model, case.module.guide, *case.batch)
    assert elbo.step == 3
    elbo.loss_and_grads(case.module.model, case.module.guide, *case.batch)
    assert elbo.step == 4


def test_particles_average_every_part() -> None:
    case = make("gaussian")
    parts = []
    for vectorized in (False, True):
        objective = zpyro.ZForcingELBO(
            auxiliary_weight=0.1,
            reverse_weight=0.1,
            num_particles=400,
            vectorize_particles=vectorized,
            max_plate_nesting=1,
        )
        pyro.set_rng_seed(0)
        with torch.no_grad():
            parts.append(objective.terms(case.module.model, case.module.guide, *case.batch))
    # The reverse term draws nothing, so it must be the same whatever the number of particles.
    torch.testing.assert_close(parts[0].log_reverse, parts[1].log_reverse)
    torch.testing.assert_close(parts[0].loss, parts[1].loss, rtol=0.02, atol=0.0)
    torch.testing.assert_close(parts[0].log_auxiliary, parts[1].log_auxiliary, rtol=0.02, atol=0.0)


@pytest.mark.fast
def test_a_scaled_program_scales_every_part() -> None:
    case = make("gaussian")
    losses = []
    for scale in (1.0, 0.25):
        programs = [pyro.poutine.scale(p, scale) for p in (case.module.model, case.module.guide)]
        objective = zpyro.ZForcingELBO(0.5, 0.1, 0.2)
        with FixedNoise(case.noise):
            losses.append(objective.differentiable_loss(*programs, *case.batch))
    torch.testing.assert_close(losses[1], 0.25 * losses[0])


@pytest.mark.fast
def test_the_module_owns_the_parameters() -> None:
    case = make("gaussian")
    objective = zpyro.ZForcingELBO()(case.module.model, case.module.guide)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in case.module.parameters()}


@pytest.mark.fast
def test_guides_must_be_reparameterized() -> None:
    case = make("gaussian")

    def guide(*batch: object) -> None:
        with pyro.plate("sequences", 3):
            counts = pyro.distributions.Poisson(torch.ones(3, 5, 2).double()).to_event(2)
            pyro.sample("z", counts)

    with pytest.raises(zpyro.UserError, match="not reparameterized"):
        zpyro.ZForcingELBO()(case.module.model, guide)(*case.batch)


@pytest.mark.parametrize("name", ["gaussian", "layer_norm", "categorical", *FAMILY])
def test_single_precision_and_autocast(name: str) -> None:
    case = make(name)
    exact = zpyro.sequence_terms(case.module, *case.batch, case.noise)
    case.module.float()
    x, start, noise = (
        value.float() if value.is_floating_point() else value
        for value in (case.x, case.start, case.noise)
    )
    single = zpyro.sequence_terms(case.module, x, case.lengths, start, noise)
    assert single.z.dtype == torch.float32
    torch.testing.assert_close(single.kl.double(), exact.kl, rtol=1e-3, atol=1e-4)
    costs = (0.1, 0.1) if case.module.has_backward_network else ()
    objective = zpyro.ZForcingELBO(0.5, *costs)(case.module.model, case.module.guide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(x, case.lengths, start)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in case.module.parameters() if p.grad is not None)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["gaussian", "rnn", "storn", "vrnn", "srnn"])
def test_dropout_acts_on_training_only(name: str) -> None:
    case = make(name, embedding_dropout=0.5)
    case.module.eval()
    first, second = (zpyro.sequence_terms(case.module, *case.batch, case.noise) for _ in range(2))
    torch.testing.assert_close(first.log_likelihood, second.log_likelihood, rtol=0, atol=0)
    case.module.train()
    first, second = (zpyro.sequence_terms(case.module, *case.batch, case.noise) for _ in range(2))
    assert not torch.allclose(first.log_likelihood, second.log_likelihood)
