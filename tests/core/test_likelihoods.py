"""Densities against scipy and torch, shapes, sampling and bounds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from tests.core.cases import frames
from zpyro import UserError, likelihoods
from zpyro.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood

pytestmark = pytest.mark.fast

KINDS = [Gaussian(3), Gaussian(3, log_variance_bounds=(-5.0, 2.0)), Bernoulli(3), Categorical(4)]


@pytest.fixture(params=KINDS, ids=["gaussian", "bounded", "bernoulli", "categorical"])
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


def test_build_by_name() -> None:
    for name in likelihoods.names():
        assert likelihoods.build(name, 5).name == name
    with pytest.raises(UserError, match="'poisson' is unknown; choose one of gaussian"):
        likelihoods.build("poisson", 5)
    with pytest.raises(UserError, match="likelihood size is 0"):
        likelihoods.build("gaussian", 0)
    with pytest.raises(UserError, match="must rise"):
        Gaussian(2, log_variance_bounds=(1.0, -1.0))
    with pytest.raises(UserError, match="start_token 9 is not in the vocabulary"):
        Categorical(4, start_token=9)
