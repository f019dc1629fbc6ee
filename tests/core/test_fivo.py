"""Training on the bound of a particle filter: other bounds, the Kalman filter, and gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

import zpyro
from tests.core.cases import Case, make
from tests.core.test_linear_gaussian import LinearGaussian, kalman_log_likelihood
from tests.core.test_missing_and_covariates import BUILT, given
from tests.core.test_multisample import flat_gradient
from zpyro import UserError, evaluation
from zpyro.datasets.sequences import Sequences
from zpyro.evaluation import particle_filter
from zpyro.models.particles import FilterRun, run_filter
from zpyro.nn.noise import NoiseSource
from zpyro.objectives import FIVO, MultiSampleELBO, Term

NAMES = ("gaussian", "nade", "layer_norm", "vrnn_tokens", "srnn", "dmm", "storn")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def same_loss_and_gradient(case: Case, *objectives: zpyro.ZForcingELBO) -> None:
    losses, gradients = [], []
    for objective in objectives:
        pyro.set_rng_seed(2)
        losses.append(objective.loss(case.module.model, case.module.guide, *case.batch))
        pyro.set_rng_seed(2)
        gradients.append(flat_gradient(case, objective))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_one_particle_is_the_evidence_lower_bound(name: str) -> None:
    case = make(name)
    weights = (0.3, 0.2, 0.1) if case.module.has_backward_network else (0.3,)
    same_loss_and_gradient(case, FIVO(1, *weights), zpyro.ZForcingELBO(*weights, analytic_kl=False))


@pytest.mark.fast
@pytest.mark.parametrize("name", NAMES)
def test_without_resampling_it_is_the_importance_weighted_bound(name: str) -> None:
    case = make(name)
    for kl_weight in (1.0, 0.4):
        same_loss_and_gradient(
            case,
            FIVO(5, kl_weight, threshold=0.0),
            MultiSampleELBO(5, kl_weight, doubly_reparameterized=False),
        )


@pytest.mark.fast
def test_terms_are_those_of_the_multi_sample_bound_without_resampling() -> None:
    case = make("gaussian")
    found = []
    for objective in (
        FIVO(3, 1.0, 0.1, 0.1, threshold=0.0),
        MultiSampleELBO(3, 1.0, 0.1, 0.1, doubly_reparameterized=False),
    ):
        pyro.set_rng_seed(3)
        terms = objective.terms(case.module.model, case.module.guide, *case.batch)
        found.append(torch.stack([*terms.values.values(), terms.loss]))
    torch.testing.assert_close(*found, **EXACT)


class Replayed(NoiseSource):
    """The noise of an evaluation, for a batch of named sequences."""

    def __init__(self, names: tuple[str, ...], particles: int, size: int, steps: int) -> None:
        noise = particle_filter._noise(names, particles, size, seed=0, run=0)
        both = [next(noise) for _ in range(steps)]
        self._normal, self._uniform = (torch.stack(part, -1) for part in zip(*both, strict=True))

    def normal(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        found = self._normal.movedim(-1, 2).to(like)
        assert found.shape == shape
        return found

    def uniform(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        assert self._uniform.shape == shape
        return self._uniform


@pytest.mark.parametrize("name", ["gaussian", "nade", "vrnn_tokens", "srnn"])
@pytest.mark.parametrize("built", [{}, BUILT])
def test_it_is_the_evaluated_bound_on_the_same_noise(name: str, built: dict[str, Any]) -> None:
    """Also with masks and covariates, and with padding, which an evaluation one by one has not."""
    case = make(name, lengths=(5, 2, 4), **built)
    more = given(case) if built else {}
    rows = [slice(None, int(n)) for n in case.lengths]
    x = case.x.where(more["observed"], 0) if built else case.x
    data = Sequences(
        [frame[n].numpy() for frame, n in zip(x, rows, strict=True)],
        ("a", "b", "c"),
        start=case.start.numpy(),
        **{
            name: [value[n].numpy() for value, n in zip(values, rows, strict=True)]
            for name, values in more.items()
        },
    )
    expected = evaluation.smc(case.module, data, particles=4, runs=1, threshold=0.99, batch_size=1)
    assert expected.resampled > 0
    case.module.set_noise_source(Replayed(("a", "b", "c"), 4, case.module.latent_size, 5))
    objective = FIVO(4, threshold=0.99)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            terms = objective.terms(
                case.module.model, case.module.guide, *case.batch, *more.values()
            )
        assert -terms.loss.item() == pytest.approx(expected.smc_by_sequence.sum(), rel=1e-9)


def filtered(
    model: LinearGaussian,
    x: Tensor,
    *,
    particles: int,
    threshold: float,
    multinomial: bool,
    seed: int = 5,
) -> FilterRun:
    torch.manual_seed(seed)
    bound = model.bind(x, None, None)
    shape = particles, len(x), x.shape[1]
    draws = torch.randn(*shape, 1, dtype=torch.float64)
    places = torch.rand(*(shape if multinomial else shape[1:]), dtype=torch.float64)
    noise = zip(draws.unbind(2), places.unbind(-1), strict=True)
    return run_filter(bound, noise, particles, threshold, multinomial=multinomial)  # pyright: ignore


@pytest.fixture
def frames() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(1, 5, 2, dtype=torch.float64) * 1.2


@pytest.mark.parametrize("multinomial", [False, True])
def test_the_likelihood_is_estimated_without_bias(frames: Tensor, multinomial: bool) -> None:
    model = LinearGaussian(slack=0.3)
    exact = float(kalman_log_likelihood(model, frames.numpy())[0])
    with torch.no_grad():
        run = filtered(
            model,
            frames.expand(20_000, -1, -1),
            particles=4,
            threshold=0.8,
            multinomial=multinomial,
        )
    assert 0.05 < run.resampled.double().mean() < 0.95
    ratios = (run.log_likelihood - exact).exp()
    error = ratios.std() / math.sqrt(len(ratios))
    assert error < 0.02
    assert abs(ratios.mean() - 1.0) < 4.0 * error


def exact_gradient(model: LinearGaussian, x: Tensor) -> Tensor:
    """Of log p(x) with respect to w and c, by differences of the Kalman filter."""
    found = []
    for parameter in (model.w, model.c):
        for i in range(2):
            sides = []
            for step in (1e-5, -1e-5):
                parameter.data[i] += step
                sides.append(float(kalman_log_likelihood(model, x.numpy())[0]))
                parameter.data[i] -= step
            found.append((sides[0] - sides[1]) / 2e-5)
    return torch.tensor(found, dtype=torch.float64)


def test_with_the_resampling_term_gradients_are_those_of_the_kalman_filter(frames: Tensor) -> None:
    """E p^ = p(x) whatever the parameters, so E[p^ (grad log p^ + grad log P(ancestors))] is its
    gradient; without the second part it is not."""
    model = LinearGaussian(slack=0.3)
    exact = float(kalman_log_likelihood(model, frames.numpy())[0])
    parameters, expected = [model.w, model.c], exact_gradient(model, frames)
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for seed in range(40):
        x = frames.expand(1000, -1, -1)
        run = filtered(model, x, particles=3, threshold=0.9, multinomial=True, seed=seed)
        shares = (run.log_likelihood.detach() - exact).exp()
        for is_whole, rows in found.items():
            scores = run.ancestor_scores.sum(0) if is_whole else 0.0
            total = (shares * (run.log_likelihood + scores)).mean()
            gradient = torch.autograd.grad(total, parameters, retain_graph=is_whole)
            rows.append(torch.cat(gradient))
    for is_whole, rows in found.items():
        gradients = torch.stack(rows)
        error = gradients.std(0) / math.sqrt(len(rows))
        close = (gradients.mean(0) - expected).abs() < 4.5 * error
        assert bool(close.all()) == is_whole


def test_the_resampling_term_makes_the_gradient_of_the_bound_unbiased(frames: Tensor) -> None:
    """Against differences of the bound itself, on the same noise on both sides."""
    model = LinearGaussian(slack=0.3)
    x = frames[:, :3].expand(40_000, -1, -1)
    settings = {"particles": 2, "threshold": 1.0, "multinomial": True}
    differences, step = [], 0.05
    for i in range(2):
        sides = []
        for sign in (1.0, -1.0):
            model.c.data[i] += sign * step
            with torch.no_grad():
                sides.append(filtered(model, x, **settings).log_likelihood)
            model.c.data[i] -= sign * step
        differences.append((sides[0] - sides[1]) / (2 * step))
    expected = torch.stack(differences, dim=-1).reshape(40, 1000, 2).mean(1)
    objective = FIVO(2, threshold=1.0, resampling_gradient=True)
    found = []
    for seed in range(40):
        torch.manual_seed(seed)
        model.zero_grad()
        loss = objective.differentiable_loss(model.model, model.guide, x[:1000])
        loss.backward()
        assert model.c.grad is not None
        found.append(-model.c.grad / 1000)
    gradient = torch.stack(found)
    difference = gradient.mean(0) - expected.mean(0)
    error = ((gradient.var(0) + expected.var(0)) / 40).sqrt()
    assert (difference.abs() < 4.5 * error).all()
    assert (error < 0.05 * gradient.mean(0).abs() + 0.05).all()


@pytest.mark.fast
def test_without_the_resampling_term_the_value_is_the_same() -> None:
    case = make("vrnn")
    pyro.set_rng_seed(4)
    objective = FIVO(4, threshold=0.9, resampling_gradient=True)
    loss = objective.loss(case.module.model, case.module.guide, *case.batch)
    assert math.isfinite(loss)
    assert flat_gradient(case, objective).isfinite().all()


@pytest.mark.fast
def test_it_trains_with_stock_svi() -> None:
    case = make("vrnn")
    svi = pyro.infer.SVI(
        case.module.model, case.module.guide, pyro.optim.Adam({"lr": 1e-2}), loss=FIVO(4)
    )
    pyro.set_rng_seed(0)
    losses = [svi.step(*case.batch) for _ in range(30)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.fast
def test_streams_continue_from_a_particle() -> None:
    case = make("gaussian", lengths=(5, 5))
    state = case.module.initial_state(2)
    with case.module.with_initial_state(state) as carried:
        FIVO(3, threshold=1.0).loss(case.module.model, case.module.guide, case.x)
    assert carried.final is not None
    assert [part.shape for part in carried.final] == [part.shape for part in state]
    assert not carried.final[0].requires_grad


@pytest.mark.fast
def test_what_it_cannot_filter() -> None:
    rnn, case = make("rnn"), make("gaussian")
    with pytest.raises(UserError, match="RNN has no latents"):
        FIVO(2)(rnn.module.model, rnn.module.guide)
    with pytest.raises(UserError, match="the model's own guide"):
        FIVO(2)(case.module.model, lambda *_: None)
    case.module.custom_guide = lambda *_: None
    with pytest.raises(UserError, match="the model's own guide"):
        FIVO(2)(case.module.model, case.module.active_guide)
    vrnn = make("vrnn")
    with pytest.raises(UserError, match="auxiliary_weight is not 0"):
        FIVO(2, 1.0, 0.1).loss(vrnn.module.model, vrnn.module.guide, *vrnn.batch)
    with pytest.raises(ValueError, match="threshold is 2"):
        FIVO(2, threshold=2.0)


@pytest.mark.fast
def test_terms_of_whole_paths_are_refused() -> None:
    from zpyro.objectives import TERMS, register
    from zpyro.training.building import build_objective
    from zpyro.training.config import objective_class

    @register
    class Loudness(Term):
        name = "loudness"

        def step_values(self, path: Any) -> Tensor:
            return path.z.sum(-1)

    try:
        config = objective_class()(bound="fivo", loudness_weight=0.1)  # pyright: ignore
        with pytest.raises(UserError, match=r"objective\.loudness_weight: the term needs whole"):
            build_objective(config, 10)
    finally:
        TERMS.unregister("loudness")
