"""Missing values and covariates: what is hidden has no influence, and all forms agree."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor

import zpyro
from tests.core.cases import MIXTURE, MODELS, Case, frames, gradients, make
from tests.core.test_contract import EXACT, GRANULARITIES, assert_same, assert_same_gradients, total
from zpyro.errors import UserError
from zpyro.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from zpyro.models import ZForcing
from zpyro.objectives.sequence_terms import SequenceTerms

NAMES = (
    *("gaussian", "bernoulli", "nade", "mixture", "categorical", "layer_norm", "forced"),
    "latent_emission",
    *("rnn", "rnn_tokens", "dmm", "dmm_tokens", "storn", "vrnn", "vrnn_mixture", "vrnn_layer_norm"),
    *("srnn", "srnn_no_residual", "srnn_tokens"),
)
QUICK = ("gaussian", "categorical", "dmm", "vrnn_mixture", "srnn_tokens", "rnn")
CASES = [pytest.param(name, marks=pytest.mark.fast if name in QUICK else ()) for name in NAMES]
BUILT = {"missing": True, "covariate_size": 2}


def given(case: Case, seed: int = 1) -> dict[str, Tensor]:
    """A mask with single numbers and a whole frame missing, and covariates."""
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(case.x.shape, generator=generator) < 0.6
    observed[0, 2] = False
    covariates = torch.randn(*case.x.shape[:2], 2, generator=generator, dtype=torch.float64)
    return {"observed": observed, "covariates": covariates}


def terms_of(case: Case, granularity: str = "sequence", **changes: Any) -> SequenceTerms:
    batch = {"x": case.x, "lengths": case.lengths, "start": case.start, "noise": case.noise}
    return zpyro.sequence_terms(
        case.module, **{**batch, **given(case), **changes}, granularity=granularity
    )


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param, **BUILT)


def test_step_equals_sequence(case: Case) -> None:
    sequence, step = terms_of(case), terms_of(case, "step")
    assert_same(sequence, step)
    assert_same_gradients(
        gradients(case.module, total(sequence)), gradients(case.module, total(step))
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_hidden_values_change_nothing(case: Case, granularity: str) -> None:
    clean = terms_of(case, granularity)
    expected = gradients(case.module, total(clean))
    observed = given(case)["observed"]
    covariates = given(case)["covariates"]
    beyond = torch.arange(case.x.shape[1]) >= case.lengths[:, None]
    covariates[beyond] = torch.nan
    for garbage in (torch.nan, 1e30) if case.x.is_floating_point() else (5,):
        x = case.x.clone()
        x[~observed] = garbage
        x[beyond] = garbage
        dirty = terms_of(case, granularity, x=x, covariates=covariates)
        assert_same(clean, dirty)
        assert_same_gradients(expected, gradients(case.module, total(dirty)))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_full_mask_equals_none(case: Case, granularity: str) -> None:
    whole = torch.ones_like(given(case)["observed"])
    assert_same(
        terms_of(case, granularity, observed=None), terms_of(case, granularity, observed=whole)
    )


def test_batch_equals_loop_over_sequences(case: Case) -> None:
    batch = terms_of(case)
    for i, length in enumerate(case.lengths.tolist()):
        row = slice(i, i + 1)
        alone = zpyro.sequence_terms(
            case.module,
            case.x[row, :length],
            start=case.start[row],
            noise=case.noise[row, :length],
            **{name: values[row, :length] for name, values in given(case).items()},
        )
        for field in fields(SequenceTerms):
            together = getattr(batch, field.name)[row]
            torch.testing.assert_close(together[:, :length], getattr(alone, field.name), **EXACT)


@pytest.mark.parametrize("name", ["gaussian", "layer_norm", "dmm", "srnn", "vrnn_mixture"])
@pytest.mark.parametrize("recurrence", ["fused", "compiled"])
def test_fast_equals_plain(name: str, recurrence: str) -> None:
    plain = make(name, **BUILT, recurrence="plain")
    fast = make(name, **BUILT, recurrence=recurrence)
    first, second = terms_of(plain), terms_of(fast)
    assert_same(first, second)
    assert_same_gradients(
        gradients(plain.module, total(first)), gradients(fast.module, total(second))
    )


def test_the_networks_read_mask_and_covariates(case: Case) -> None:
    """The first frame of a sequence, hidden, and its covariates change the terms that follow."""
    before = terms_of(case)
    observed = given(case)["observed"].clone()
    observed[0, 0] = ~observed[0, 0]
    covariates = given(case)["covariates"].clone()
    covariates[0, 0] += 1.0
    for change in ({"observed": observed}, {"covariates": covariates}):
        after = terms_of(case, **change)
        changed = (after.log_likelihood != before.log_likelihood)[0]
        assert changed[[1, 3, 4]].any() or isinstance(case.module, zpyro.models.DMM)
        if case.module.latent_size:
            assert (after.posterior_mean != before.posterior_mean)[0].any()
        prior_is_fixed = not case.module.latent_size or isinstance(case.module, zpyro.models.STORN)
        if not prior_is_fixed:
            assert (after.prior_mean != before.prior_mean)[0, 1:].any()


@pytest.mark.parametrize("name", ["gaussian", "dmm", "srnn", "vrnn"])
def test_present_covariates_enter_the_prior(name: str) -> None:
    case = make(name, **BUILT)
    covariates = given(case)["covariates"].clone()
    covariates[0, 4] += 1.0

    def prior_means(known: Tensor) -> Tensor:
        bound = case.module.bind(*case.batch, given(case)["observed"], known)
        return bound.prior(bound.trajectory(case.noise))[0][:, 0, 0]

    changed = (prior_means(given(case)["covariates"]) != prior_means(covariates)).any(-1)
    assert changed.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("name", ["gaussian", "vrnn_mixture", "srnn_tokens"])
def test_stock_bound_counts_observed_values_only(name: str) -> None:
    case = make(name, **BUILT)
    torch.manual_seed(3)
    loss = Trace_ELBO().loss(
        case.module.model, case.module.guide, *case.batch, *given(case).values()
    )
    torch.manual_seed(3)
    terms = terms_of(case, noise=None)
    exact = (terms.log_likelihood + terms.log_prior - terms.log_posterior).sum().item()
    assert -loss == pytest.approx(exact, rel=1e-12)


LIKELIHOODS: list[Likelihood] = [
    Gaussian(3, log_variance_bounds=(-4.0, 4.0)),
    Bernoulli(3),
    MIXTURE,
    Categorical(6),
]


@pytest.mark.fast
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda each: each.name)
def test_missing_values_are_integrated_out(likelihood: Likelihood) -> None:
    """Against the density of the observed numbers, from a grid or a smaller likelihood."""
    torch.manual_seed(0)
    parameters = torch.randn(7, likelihood.parameter_size, dtype=torch.float64)
    value = frames(likelihood, 7)
    if isinstance(likelihood, Categorical):
        observed = torch.tensor([True, False, True, True, False, True, True])
        exact = likelihood.log_prob(parameters, value) * observed
    elif isinstance(likelihood, Bernoulli):
        observed = torch.tensor([True, False, True])
        both = [value.clone() for _ in range(2)]
        both[0][:, 1], both[1][:, 1] = 0.0, 1.0
        exact = torch.logaddexp(*(likelihood.log_prob(parameters, each) for each in both))
        observed = observed.expand(7, 3)
    else:
        observed = torch.tensor([True, False, True])
        grid = torch.linspace(-60.0, 60.0, 24_001, dtype=torch.float64)
        points = value.repeat(len(grid), 1, 1)
        points[..., 1] = grid[:, None]
        density = likelihood.log_prob(parameters.expand(len(grid), -1, -1), points).exp()
        exact = torch.trapezoid(density, grid, dim=0).log()
        observed = observed.expand(7, 3)
    found = likelihood.observed_log_prob(parameters, value.where(observed, 0), observed)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)
    nothing = torch.zeros_like(observed)
    assert not likelihood.observed_log_prob(parameters, value, nothing).any()
    everything = torch.ones_like(observed)
    torch.testing.assert_close(
        likelihood.observed_log_prob(parameters, value, everything),
        likelihood.log_prob(parameters, value),
        **EXACT,
    )


@pytest.mark.fast
def test_a_mixture_imputes_from_the_component_that_was_seen() -> None:
    mixture = zpyro.likelihoods.GaussianMixture(2, components=2)
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    parameters = torch.cat([torch.zeros(2), means.flatten(), torch.full((4,), -6.0)])
    value = torch.tensor([5.0, 0.0]).expand(200, 2)
    observed = torch.tensor([True, False]).expand(200, 2)
    filled = mixture.impute(parameters.expand(200, -1), value, observed)
    assert (filled[:, 0] == 5.0).all()
    assert (filled[:, 1] - 5.0).abs().max() < 1.0


@pytest.mark.fast
def test_another_likelihood_leaves_out_whole_frames_only() -> None:
    class Other(Gaussian):
        name = "other"
        observed_log_prob = Likelihood.observed_log_prob

    likelihood = Other(2)
    parameters, value = torch.randn(3, 4), torch.randn(3, 2)
    whole = torch.tensor([[True, True], [False, False], [True, True]])
    found = likelihood.observed_log_prob(parameters, value, whole)
    expected = likelihood.log_prob(parameters, value)
    assert found.tolist() == [expected[0], 0.0, expected[2]]
    with pytest.raises(UserError, match="single numbers of a frame"):
        likelihood.observed_log_prob(parameters, value, torch.tensor([True, False]).expand(3, 2))


@pytest.mark.fast
def test_a_model_built_without_them_refuses_both() -> None:
    case = make("gaussian")
    with pytest.raises(UserError, match="observed: this ZForcing was built for data without miss"):
        case.module.model(*case.batch, observed=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="covariates: this ZForcing was built for 0 covariates"):
        case.module.guide(*case.batch, covariates=torch.zeros(3, 5, 2))
    built = make("gaussian", **BUILT)
    with pytest.raises(UserError, match="built for 2 covariates a step, the data have 0"):
        built.module.model(*built.batch)
    with pytest.raises(ValueError, match=r"covariates have shape \(3, 4, 2\)"):
        built.module.model(*built.batch, covariates=torch.zeros(3, 4, 2))
    with pytest.raises(ValueError, match=r"observed has shape \(3, 4\)"):
        built.module.model(
            *built.batch,
            observed=torch.ones(3, 4, dtype=torch.bool),
            covariates=torch.zeros(3, 5, 2),
        )


@pytest.mark.fast
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_generation_reads_covariates(granularity: str) -> None:
    """With all noise fixed, frames differ from the first step whose covariates differ."""
    for name in ("rnn", "dmm", "storn", "vrnn", "srnn", "gaussian"):
        case = make(name, **BUILT, granularity=granularity)
        covariates = torch.zeros(2, 6, 2, dtype=torch.float64)
        changed = covariates.clone()
        changed[:, 3] = 4.0
        start = case.start[:2]

        def run(known: Tensor, case: Case = case, start: Tensor = start) -> Tensor:
            torch.manual_seed(5)
            return case.module.model(None, 6, start, None, known)

        first, second = run(covariates), run(changed)
        torch.testing.assert_close(first[:, :3], second[:, :3], **EXACT)
        assert (first[:, 3] != second[:, 3]).all(), name

        torch.manual_seed(5)
        found = case.module.generate(6, start=start, covariates=covariates)
        torch.manual_seed(5)
        other = case.module.generate(6, start=start, covariates=changed)
        torch.testing.assert_close(found[:, :3], other[:, :3], **EXACT)
        assert (found[:, 3] != other[:, 3]).all(), name


@pytest.mark.fast
def test_a_prefix_may_have_missing_values() -> None:
    case = make("vrnn", **BUILT, lengths=(5, 5, 5))
    more = torch.randn(3, 8, 2, dtype=torch.float64)
    observed = given(case)["observed"]
    observed[:, -1, 0] = False
    x = case.x.clone()
    results: list[Tensor] = []
    for garbage in (torch.nan, 1e30):
        x[~observed] = garbage
        torch.manual_seed(2)
        results.append(
            case.module.generate(3, start=case.start, prefix=x, observed=observed, covariates=more)
        )
    torch.testing.assert_close(*results, **EXACT)
    assert results[0].isfinite().all()
    torch.manual_seed(2)
    known = torch.ones_like(observed)
    clean = case.module.generate(
        3, start=case.start, prefix=case.x, observed=known, covariates=more
    )
    assert (clean != results[0]).any()


@pytest.mark.fast
def test_predictive_and_conditioned_frames() -> None:
    case = make("gaussian", **BUILT)
    arguments = (*case.batch, *given(case).values())
    samples = Predictive(case.module.model, guide=case.module.guide, num_samples=3)(*arguments)
    assert samples["z"].shape == (3, 3, 5, 2)
    # Frames that a handler gives count where the mask says so.
    model = case.module.model
    trace = poutine.trace(case.module.guide).get_trace(*arguments)
    whole = poutine.trace(poutine.replay(model, trace)).get_trace(*arguments)
    noisy = case.x.clone()
    noisy[~given(case)["observed"]] = torch.nan
    replayed = poutine.replay(poutine.condition(model, data={"x": noisy}), trace)
    conditioned = poutine.trace(replayed).get_trace(*arguments)
    torch.testing.assert_close(conditioned.log_prob_sum(), whole.log_prob_sum(), **EXACT)


def test_word_dropout_and_skipped_gradients_run_with_both() -> None:
    case = make("gaussian", **BUILT)
    case.module.word_dropout, case.module.skip_gradient = 0.5, 0.5
    assert all(
        grad.isfinite().all() for grad in gradients(case.module, total(terms_of(case))).values()
    )


def test_every_model_takes_both() -> None:
    classes = {MODELS[name][0] for name in NAMES}
    assert classes == set(zpyro.models.MODELS.values()) | {ZForcing}
