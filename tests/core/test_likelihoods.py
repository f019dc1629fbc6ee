"""Densities against scipy and torch, shapes, sampling and bounds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import zpyro
from tests.core.cases import frames, gradients, make
from zpyro import UserError, likelihoods
from zpyro.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianMixture,
    Likelihood,
    LogisticMixture,
    StudentT,
)
from zpyro.nn.layers import TiedLinear

pytestmark = pytest.mark.fast

EXACT = {"rtol": 1e-10, "atol": 1e-10}

CASES = {
    "gaussian": Gaussian(3),
    "bounded": Gaussian(3, log_variance_bounds=(-5.0, 2.0)),
    "mixture": GaussianMixture(3, components=4),
    "bounded_mixture": GaussianMixture(3, components=4, log_variance_bounds=(-5.0, 2.0)),
    "bernoulli": Bernoulli(3),
    "logistic_mixture": LogisticMixture(3, logistics=4, sample_bits=12, sample_scale=0.1),
    "student_t": StudentT(3),
    "categorical": Categorical(4),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return request.param


def parameters(likelihood: Likelihood, *shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, likelihood.parameter_size, dtype=torch.float64)


def test_gaussian_density_is_scipys() -> None:
    numbers, x = parameters(Gaussian(3), 5), frames(Gaussian(3), 5)
    mean, log_variance = np.split(numbers.numpy(), 2, axis=-1)
    expected = scipy.stats.norm.logpdf(x.numpy(), mean, np.exp(0.5 * log_variance)).sum(-1)
    np.testing.assert_allclose(Gaussian(3).log_prob(numbers, x), expected, rtol=1e-12)


def test_mixture_density_is_scipys() -> None:
    likelihood = GaussianMixture(3, components=4)
    numbers, x = parameters(likelihood, 5), frames(likelihood, 5).numpy()
    logits, means, log_variances = np.split(numbers.numpy(), [4, 16], axis=-1)
    weights = scipy.special.log_softmax(logits, axis=-1)
    means, scales = means.reshape(5, 4, 3), np.exp(0.5 * log_variances).reshape(5, 4, 3)
    densities = scipy.stats.norm.logpdf(x[:, None], means, scales).sum(-1)
    expected = scipy.special.logsumexp(weights + densities, axis=-1)
    np.testing.assert_allclose(
        likelihood.log_prob(numbers, torch.from_numpy(x)), expected, rtol=1e-12
    )


def test_mixture_density_is_torchs() -> None:
    likelihood = GaussianMixture(3, components=4)
    numbers, x = parameters(likelihood, 5), frames(likelihood, 5)
    logits, means, log_variances = numbers.split([4, 12, 12], dim=-1)
    normal = torch.distributions.Normal(
        means.reshape(5, 4, 3), log_variances.reshape(5, 4, 3).div(2).exp()
    )
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Independent(normal, 1),
    )
    torch.testing.assert_close(likelihood.log_prob(numbers, x), oracle.log_prob(x), **EXACT)
    torch.testing.assert_close(likelihood.mean(numbers), oracle.mean, **EXACT)


@pytest.mark.parametrize("bounds", [None, (-5.0, 2.0)])
def test_one_component_is_the_gaussian(bounds: tuple[float, float] | None) -> None:
    mixture = GaussianMixture(3, components=1, log_variance_bounds=bounds)
    gaussian = Gaussian(3, log_variance_bounds=bounds)
    numbers, x = parameters(mixture, 5), frames(mixture, 5)
    alone = numbers[..., 1:]
    torch.testing.assert_close(mixture.log_prob(numbers, x), gaussian.log_prob(alone, x), **EXACT)
    torch.testing.assert_close(mixture.mean(numbers), gaussian.mean(alone), **EXACT)


def test_the_order_of_components_does_not_matter() -> None:
    likelihood = GaussianMixture(3, components=4)
    numbers, x = parameters(likelihood, 5), frames(likelihood, 5)
    order = torch.tensor([2, 0, 3, 1])
    blocks = [part[..., order, :] for part in likelihood.parts(numbers)[1:]]
    turned = [numbers[..., :4][..., order], *(block.flatten(-2) for block in blocks)]
    torch.testing.assert_close(
        likelihood.log_prob(torch.cat(turned, -1), x), likelihood.log_prob(numbers, x), **EXACT
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_mixture_samples_have_the_moments(temperature: float) -> None:
    likelihood, count = GaussianMixture(2, components=3), 40_000
    numbers = parameters(likelihood)
    torch.manual_seed(1)
    samples = likelihood.distribution(numbers.expand(count, -1), temperature).sample()
    logits, means, log_variances = likelihood.parts(numbers)
    weights = (logits / temperature).softmax(-1)[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (temperature**2 * log_variances.exp() + means**2)).sum(0) - mean**2
    assert ((samples.mean(0) - mean).abs() < 6 * samples.std(0) / count**0.5).all()
    squares = (samples - mean).square()
    assert ((squares.mean(0) - variance).abs() < 6 * squares.std(0) / count**0.5).all()


def test_far_frames_keep_a_finite_gradient() -> None:
    likelihood = GaussianMixture(3, components=4)
    numbers = parameters(likelihood, 5).requires_grad_()
    density = likelihood.log_prob(numbers, torch.full((5, 3), 1e4, dtype=torch.float64))
    density.sum().backward()
    assert torch.isfinite(density).all()
    assert numbers.grad is not None
    assert torch.isfinite(numbers.grad).all()


@pytest.mark.parametrize("hidden_size", [6, 4])
def test_a_tied_output_layer_scores_by_the_embedding(hidden_size: int) -> None:
    likelihood = Categorical(5, tied=True)
    table = likelihood.embedding(4)
    output = likelihood.output(hidden_size, table)
    assert isinstance(output, TiedLinear)
    assert isinstance(table, torch.nn.Embedding)
    hidden = torch.randn(2, 3, hidden_size)
    projected = hidden if hidden_size == 4 else hidden @ output.projection.weight.T
    expected = projected @ table.weight.T + output.bias
    torch.testing.assert_close(output(hidden), expected)
    names = {name for name, _ in output.named_parameters()}
    assert names == ({"bias"} if hidden_size == 4 else {"bias", "projection.weight"})
    output(hidden).sum().backward()
    assert table.weight.grad is not None


def test_the_reverse_network_keeps_an_output_layer_of_its_own() -> None:
    case = make("tied_projected")
    terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
    found = gradients(case.module, terms.log_reverse.sum())
    assert found["reverse_output.weight"].any()
    assert not found["output.bias"].any()
    assert not found["output.projection.weight"].any()
    assert isinstance(case.module.reverse_output, torch.nn.Linear)


def test_a_tied_output_layer_needs_the_vocabularys_table() -> None:
    with pytest.raises(UserError, match="needs an embedding table of 5 tokens"):
        Categorical(5, tied=True).output(4, torch.nn.Embedding(7, 4))
    with pytest.raises(UserError, match="tied_embedding to false"):
        Categorical(5, tied=True).output(4, torch.nn.Linear(5, 4))


def test_bernoulli_mass_is_scipys() -> None:
    numbers, x = parameters(Bernoulli(3), 5), frames(Bernoulli(3), 5)
    expected = scipy.stats.bernoulli.logpmf(x.numpy(), numbers.sigmoid().numpy()).sum(-1)
    np.testing.assert_allclose(Bernoulli(3).log_prob(numbers, x), expected, rtol=1e-10)


def test_categorical_mass_is_scipys() -> None:
    numbers = parameters(Categorical(4), 5)
    x = torch.tensor([0, 1, 2, 3, 3])
    expected = np.log(scipy.special.softmax(numbers.numpy(), axis=-1))[range(5), x]
    np.testing.assert_allclose(Categorical(4).log_prob(numbers, x), expected, rtol=1e-12)


def test_log_prob_is_that_of_the_distribution(likelihood: Likelihood) -> None:
    numbers, x = parameters(likelihood, 6, 5), frames(likelihood, 6, 5)
    stock = likelihood.distribution(numbers).log_prob(x)
    assert stock.shape == (6, 5)
    torch.testing.assert_close(likelihood.log_prob(numbers, x), stock, rtol=1e-12, atol=1e-12)


def test_one_value_is_scored_under_every_particle(likelihood: Likelihood) -> None:
    numbers, x = parameters(likelihood, 2, 4, 5), frames(likelihood, 1, 5)
    together = likelihood.log_prob(numbers, x)
    assert together.shape == (2, 4, 5)
    for i in range(2):
        for j in range(4):
            alone = likelihood.log_prob(numbers[i, j], x[0])
            torch.testing.assert_close(together[i, j], alone, rtol=1e-14, atol=1e-14)


def test_samples_have_the_mean(likelihood: Likelihood) -> None:
    numbers = parameters(likelihood)
    draws = likelihood.distribution(numbers.expand(20_000, -1)).sample()
    assert draws.shape == (20_000, *likelihood.event_shape)
    if isinstance(likelihood, Categorical):
        found = torch.bincount(draws, minlength=4) / len(draws)
        torch.testing.assert_close(found.double(), numbers.softmax(-1), rtol=0, atol=0.02)
        assert likelihood.mean(numbers) == numbers.argmax()
    else:
        error = draws.double().std(0) / len(draws) ** 0.5
        assert ((draws.mean(0) - likelihood.mean(numbers)).abs() < 5 * error).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_distribution(likelihood: Likelihood, temperature: float) -> None:
    numbers = parameters(likelihood, 1).expand(20_000, -1)
    samples = likelihood.sample(numbers, temperature)
    assert samples.shape == (20_000, *likelihood.event_shape)
    expected = likelihood.distribution(numbers, temperature).sample()
    assert samples.dtype == expected.dtype
    for power in (1, 2, 3):
        powers = samples.double() ** power - expected.double() ** power
        error = powers.std(0) / len(powers) ** 0.5
        assert ((powers.mean(0).abs()) < 6 * error + 1e-12).all()


def test_a_low_temperature_narrows_the_samples(likelihood: Likelihood) -> None:
    numbers = parameters(likelihood).expand(2000, -1)
    cold = likelihood.distribution(numbers, temperature=1e-3).sample().double()
    warm = likelihood.distribution(numbers).sample().double()
    assert cold.var(0).sum() < 1e-2 * warm.var(0).sum() + 1e-9


def test_bounds_hold_and_keep_a_gradient() -> None:
    bounded = Gaussian(1, log_variance_bounds=(-5.0, 2.0))
    raw = torch.tensor([[0.0, -30.0], [0.0, 0.0], [0.0, 30.0]], requires_grad=True)
    _, log_variance = bounded.mean_and_log_variance(raw)
    assert log_variance.min() >= -5.0
    assert log_variance.max() <= 2.0 + 1e-3
    log_variance[1].sum().backward()
    assert raw.grad is not None
    assert raw.grad[1, 1] > 0.8


def test_start_frames(likelihood: Likelihood) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    start = likelihood.start(4, like)
    assert start.shape == (4, *likelihood.event_shape)
    assert not start.any()
    assert (Categorical(4, start_token=3).start(2, like) == 3).all()


def test_registered_by_name() -> None:
    class Shifted(Gaussian):
        name = "shifted"

    assert likelihoods.register(Shifted) is Shifted
    try:
        assert isinstance(likelihoods.build("shifted", 3), Shifted)
        with pytest.raises(UserError, match="likelihood shifted exists already"):
            likelihoods.LIKELIHOODS.register("shifted", Gaussian)
    finally:
        likelihoods.LIKELIHOODS.unregister("shifted")


def test_build_by_name() -> None:
    for name in likelihoods.LIKELIHOODS:
        assert likelihoods.build(name, 5).name == name
    with pytest.raises(UserError, match="'poisson' is unknown; choose one of gaussian"):
        likelihoods.build("poisson", 5)
    with pytest.raises(UserError, match="likelihood size is 0"):
        likelihoods.build("gaussian", 0)
    with pytest.raises(UserError, match="must rise"):
        Gaussian(2, log_variance_bounds=(1.0, -1.0))
    with pytest.raises(UserError, match="components are 0"):
        GaussianMixture(2, components=0)
    with pytest.raises(UserError, match="must rise"):
        GaussianMixture(2, log_variance_bounds=(1.0, -1.0))
    with pytest.raises(UserError, match="start_token 9 is not in the vocabulary"):
        Categorical(4, start_token=9)
