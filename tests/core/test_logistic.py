"""Probabilities of samples of sound against sums over all values, scipy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import zpyro
from zpyro import UserError
from zpyro.likelihoods import LogisticMixture

pytestmark = pytest.mark.fast

CODINGS = pytest.mark.parametrize("mu_law", [False, True], ids=["linear", "mu-law"])


def few_bits(mu_law: bool, bits: int = 4, size: int = 2) -> LogisticMixture:
    return LogisticMixture(
        size, logistics=3, sample_bits=bits, mu_law=mu_law, sample_mean=0.02, sample_scale=0.3
    )


def parameters(likelihood: LogisticMixture, *shape: int, spread: float = 1.0) -> Tensor:
    torch.manual_seed(0)
    return spread * torch.randn(*shape, likelihood.parameter_size, dtype=torch.float64)


def all_values(likelihood: LogisticMixture, dtype: torch.dtype = torch.float64) -> Tensor:
    """Every frame of equal samples, (2^b, D), from low to high."""
    count = 2**likelihood.sample_bits
    low = -0.5 * (count - 1) if likelihood.mu_law else -0.5 * count
    values = likelihood.values(low + torch.arange(count, dtype=dtype))
    return values.unsqueeze(-1).expand(count, likelihood.size)


def by_loop(likelihood: LogisticMixture, numbers: Tensor, raw: float, d: int) -> float:
    """log P of sample d, from the equations, with the bins' edges in raw samples or in u."""
    top = 2**likelihood.sample_bits - 1
    logits, means, log_variances = (
        part[d].numpy() for part in numbers.reshape(3, likelihood.size, likelihood.logistics)
    )
    if likelihood.mu_law:
        u = np.sign(raw) * math.log1p(top * abs(raw)) / math.log1p(top)
        number = min(max(round((u + 1.0) / 2.0 * top), 0), top)
        edges = np.array([number - 0.5, number + 0.5]) / top * 2.0 - 1.0
    else:
        half = 2 ** (likelihood.sample_bits - 1)
        number = min(max(round(raw * half) + half, 0), top)
        edges = (np.array([number - 0.5, number + 0.5]) - half) / half
        edges = (edges - likelihood.sample_mean) / likelihood.sample_scale
    weights = scipy.special.softmax(logits)
    scales = np.exp(0.5 * log_variances) * math.sqrt(3.0) / math.pi
    below = scipy.stats.logistic.cdf(edges[:, None], means, scales)
    low = 0.0 if number == 0 else below[0]
    high = 1.0 if number == top else below[1]
    return math.log(float((weights * (high - low)).sum()))


@CODINGS
def test_log_masses_are_those_of_a_plain_loop(mu_law: bool) -> None:
    likelihood = few_bits(mu_law)
    numbers = parameters(likelihood)
    for raw in (-1.4, -1.0, -0.97, -0.3, -0.01, 0.0, 0.004, 0.11, 0.6, 0.93, 1.0, 2.0):
        x = torch.full((2,), (raw - 0.02) / 0.3, dtype=torch.float64)
        found = likelihood.log_masses(numbers, x)
        expected = [by_loop(likelihood, numbers, raw, d) for d in range(2)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert likelihood.log_prob(numbers, x) == found.sum()


@CODINGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.3, 6.0])
def test_all_values_of_16_bits_sum_to_one(mu_law: bool, dtype: torch.dtype, spread: float) -> None:
    likelihood = LogisticMixture(
        2,
        logistics=3,
        mu_law=mu_law,
        sample_mean=-2e-4,
        sample_scale=0.06,
        log_variance_bounds=(-14.0, 8.0),
    )
    numbers = parameters(likelihood, spread=spread).to(dtype)
    masses = likelihood.log_masses(numbers, all_values(likelihood, dtype)).double().exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


@CODINGS
def test_means_far_beyond_the_grid_keep_the_sum(mu_law: bool) -> None:
    likelihood = few_bits(mu_law)
    numbers = parameters(likelihood, 6)
    numbers[:, 6:12] += torch.tensor([-400.0, -40.0, -4.0, 4.0, 40.0, 400.0]).double()[:, None]
    masses = likelihood.log_masses(numbers[:, None], all_values(likelihood))
    torch.testing.assert_close(
        masses.logsumexp(1), torch.zeros(6, 2, dtype=torch.float64), rtol=0, atol=1e-10
    )
    assert masses.isfinite().all()


@CODINGS
@pytest.mark.parametrize("bits", [8, 16])
def test_every_value_is_the_center_of_its_bin_in_float32(mu_law: bool, bits: int) -> None:
    likelihood = LogisticMixture(
        1, sample_bits=bits, mu_law=mu_law, sample_mean=3e-4, sample_scale=0.05
    )
    values = all_values(likelihood, torch.float32)[:, 0]
    codes = likelihood.codes(values)
    assert (codes.diff() == 1.0).all()
    assert len(codes) == 2**bits
    torch.testing.assert_close(likelihood.values(codes), values, rtol=0, atol=0)


def test_samples_of_a_recording_are_grid_points() -> None:
    likelihood = LogisticMixture(1, sample_mean=-1e-4, sample_scale=0.07)
    stored = np.array([-32768, -20001, -3, -1, 0, 1, 2, 777, 32767], np.int16)
    normalization = zpyro.datasets.Normalization(-1e-4, 0.07)
    frames = torch.from_numpy(normalization.apply(stored / 32768.0))
    assert likelihood.codes(frames).tolist() == stored.tolist()


def test_wide_logistics_approach_a_density() -> None:
    likelihood = LogisticMixture(3, logistics=1, sample_mean=0.01, sample_scale=0.1)
    numbers, x = parameters(likelihood, 5), torch.rand(5, 3, dtype=torch.float64)
    x = likelihood.values(likelihood.codes(x))
    means, log_variances = (part.numpy() for part in numbers.chunk(3, -1)[1:])
    scales = np.exp(0.5 * log_variances) * math.sqrt(3.0) / math.pi
    density = scipy.stats.logistic.logpdf(x.numpy(), means, scales)
    widths = likelihood.log_bin_widths(x).numpy()
    np.testing.assert_allclose(widths, math.log(1.0 / 32768.0 / 0.1), rtol=1e-9)
    found = likelihood.log_masses(numbers, x)
    np.testing.assert_allclose(found, density + widths, atol=1e-6)


def test_bins_of_mu_law_fill_the_line() -> None:
    likelihood = few_bits(True, bits=6, size=1)
    values = all_values(likelihood)
    widths = likelihood.log_bin_widths(values).exp().sum()
    codes = torch.tensor([-32.0, 32.0], dtype=torch.float64)
    low, high = likelihood.values(codes)
    torch.testing.assert_close(widths, high - low)


@CODINGS
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_probabilities(mu_law: bool, temperature: float) -> None:
    likelihood, count = few_bits(mu_law), 40_000
    numbers, values = parameters(likelihood), all_values(likelihood)
    torch.manual_seed(1)
    samples = likelihood.sample(numbers.expand(count, -1), temperature)
    masses = likelihood.log_masses(numbers, values, temperature).exp()
    found = (samples.unsqueeze(0) == values.unsqueeze(1)).double().mean(1)
    torch.testing.assert_close(found.sum(0), torch.ones(2, dtype=torch.float64))
    assert ((found - masses).abs() < 5.0 * (masses / count).sqrt() + 1e-4).all()


@CODINGS
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_mean_is_the_sum_over_all_values(mu_law: bool, temperature: float) -> None:
    likelihood = few_bits(mu_law, bits=8, size=3)
    numbers, values = parameters(likelihood, 20, spread=1.5), all_values(likelihood)
    masses = likelihood.log_masses(numbers[:, None], values, temperature).exp()
    expected = (masses * values).sum(1)
    error = (likelihood.mean(numbers, temperature) - expected).abs() * likelihood.sample_scale
    # Raw samples: half a bin, and of mu-law the error of the quantiles.
    assert error.max() < (0.02 if mu_law else 0.5 / 128)


@CODINGS
def test_edges_and_far_tails_have_finite_gradients(mu_law: bool) -> None:
    likelihood = LogisticMixture(
        4, logistics=3, mu_law=mu_law, sample_scale=0.06, log_variance_bounds=(-14.0, 8.0)
    )
    for spread in (0.0, 1.0, 30.0, 1e3):
        numbers = (parameters(likelihood, 9, spread=spread)).float().requires_grad_()
        x = torch.tensor([-1e6, -1.0 / 0.06, 0.0, 1e6]).expand(9, 4)
        masses = likelihood.log_masses(numbers, x)
        masses.sum().backward()
        assert masses.isfinite().all()
        assert (masses <= 0.0).all()
        assert numbers.grad is not None
        assert numbers.grad.isfinite().all()


@CODINGS
def test_gradients_are_those_of_differences(mu_law: bool) -> None:
    likelihood = few_bits(mu_law)
    numbers = parameters(likelihood, 5).requires_grad_()
    x = all_values(likelihood)[[0, 3, 8, 14, 15]]
    assert torch.autograd.gradcheck(lambda given: likelihood.log_masses(given, x), numbers)


def test_missing_samples_are_left_out() -> None:
    likelihood = few_bits(False)
    numbers, x = parameters(likelihood, 3), torch.zeros(3, 2, dtype=torch.float64)
    observed = torch.tensor([[True, True], [False, True], [False, False]])
    masses = likelihood.log_masses(numbers, x)
    found = likelihood.observed_log_prob(numbers, x, observed)
    torch.testing.assert_close(found, (masses * observed).sum(-1))
    imputed = likelihood.impute(numbers, x, observed)
    assert (imputed[observed] == 0.0).all()
    grid = all_values(likelihood)[:, 0]
    assert torch.isin(imputed[~observed], grid).all()


def test_a_training_step_works_in_float32() -> None:
    torch.manual_seed(0)
    likelihood = LogisticMixture(8, logistics=4, sample_scale=0.1, log_variance_bounds=(-14.0, 8.0))
    model = zpyro.models.VRNN(likelihood, 16, 4, 8, 16)
    x = likelihood.sample(torch.zeros(6, 10, likelihood.parameter_size))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        terms = zpyro.sequence_terms(model, x)
        loss = (terms.kl - terms.log_likelihood).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # No better than the entropy of the samples allows, no worse than even odds.
    assert 0.0 < losses[-1] / 80 < 16.0 * math.log(2.0)


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match="logistics are 0"):
        LogisticMixture(2, logistics=0)
    for bits in (1, 17):
        with pytest.raises(UserError, match=f"sample_bits is {bits}"):
            LogisticMixture(2, sample_bits=bits)
    with pytest.raises(UserError, match="sample_scale is 0"):
        LogisticMixture(2, sample_scale=0.0)
    with pytest.raises(UserError, match="must rise"):
        LogisticMixture(2, log_variance_bounds=(1.0, -1.0))
