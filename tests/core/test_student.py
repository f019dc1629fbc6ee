"""The Student-t density against scipy, its Gaussian limit, tails, samples and masks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import zpyro
from zpyro import UserError
from zpyro.likelihoods import Gaussian, StudentT

pytestmark = pytest.mark.fast


def parameters(*shape: int, freedom: float = 0.0) -> Tensor:
    """Of frames of 3 numbers, ``freedom`` added to the numbers behind the degrees of freedom."""
    torch.manual_seed(0)
    numbers = torch.randn(*shape, 9, dtype=torch.float64)
    numbers[..., 6:] += freedom
    return numbers


@pytest.mark.parametrize("freedom", [-6.0, -1.0, 0.0, 1.0, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_density_is_scipys(freedom: float, temperature: float) -> None:
    likelihood, numbers = StudentT(3), parameters(50, freedom=freedom)
    x = 5.0 * torch.randn(50, 3, dtype=torch.float64)
    mean, log_square, degrees = (part.numpy() for part in likelihood.parts(numbers))
    scale = temperature * np.exp(0.5 * log_square)
    expected = scipy.stats.t.logpdf(x.numpy(), degrees, mean, scale)
    found = likelihood.log_densities(numbers, x, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(
        likelihood.log_prob(numbers, x), likelihood.log_densities(numbers, x).sum(-1)
    )


def test_degrees_of_freedom_are_above_two_and_bounded() -> None:
    numbers = parameters(1)
    numbers[..., 6:] = torch.tensor([-1e3, 0.0, 1e3])
    degrees = StudentT(3).parts(numbers)[2][0]
    assert degrees[0] > 2.0
    assert 6.0 < degrees[1] < 7.0
    assert 1e5 < degrees[2] < 2e5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_degrees_of_freedom_are_a_gaussian(dtype: torch.dtype) -> None:
    numbers = parameters(200, freedom=100.0).to(dtype)
    x = (2.0 * torch.randn(200, 3)).to(dtype)
    expected = Gaussian(3).log_prob(numbers[:, :6], x)
    torch.testing.assert_close(StudentT(3).log_prob(numbers, x), expected, rtol=1e-3, atol=1e-3)


def test_float32_is_as_exact_as_its_terms() -> None:
    for freedom in (-6.0, 0.0, 3.0, 6.0, 9.0, 100.0):
        numbers, x = parameters(100, freedom=freedom), torch.randn(100, 3, dtype=torch.float64)
        exact = StudentT(3).log_densities(numbers, x)
        found = StudentT(3).log_densities(numbers.float(), x.float()).double()
        torch.testing.assert_close(found, exact, rtol=2e-5, atol=2e-5)


def test_far_values_cost_little_and_keep_a_finite_gradient() -> None:
    likelihood = StudentT(3, log_variance_bounds=(-14.0, 8.0))
    for freedom in (-100.0, 0.0, 100.0):
        numbers = parameters(4, freedom=freedom).float().requires_grad_()
        x = torch.tensor([-1e6, 0.0, 1e6]).expand(4, 3)
        densities = likelihood.log_densities(numbers, x)
        densities.sum().backward()
        assert densities.isfinite().all()
        assert numbers.grad is not None
        assert numbers.grad.isfinite().all()
    far = torch.full((4, 3), 100.0, dtype=torch.float64)
    heavy = likelihood.log_prob(parameters(4), far)
    assert (heavy > 5.0 + Gaussian(3).log_prob(parameters(4)[:, :6], far)).all()


def test_the_gradient_is_that_of_differences() -> None:
    # One number of degrees on either side of the point where the series begins.
    for freedom in (0.0, 2.6, 6.0):
        numbers = parameters(4, freedom=freedom).requires_grad_()
        x = torch.randn(4, 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda given, x=x: StudentT(3).log_prob(given, x), numbers)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_agree_with_the_cumulative_distribution(temperature: float) -> None:
    likelihood, numbers = StudentT(3), parameters(freedom=-1.0)
    torch.manual_seed(1)
    samples = likelihood.sample(numbers.expand(20_000, -1), temperature).numpy()
    mean, log_square, degrees = (part.numpy() for part in likelihood.parts(numbers))
    scale = temperature * np.exp(0.5 * log_square)
    for d in range(3):
        law = scipy.stats.t(degrees[d], mean[d], scale[d])
        assert scipy.stats.kstest(samples[:, d], law.cdf).pvalue > 1e-3


def test_missing_numbers_are_left_out() -> None:
    likelihood, numbers = StudentT(3), parameters(2)
    x = torch.randn(2, 3, dtype=torch.float64)
    observed = torch.tensor([[True, False, True], [False, False, False]])
    found = likelihood.observed_log_prob(numbers, x, observed)
    expected = (likelihood.log_densities(numbers, x) * observed).sum(-1)
    torch.testing.assert_close(found, expected)
    imputed = likelihood.impute(numbers, x, observed)
    assert torch.equal(imputed[observed], x[observed])
    assert (imputed != x)[~observed].all()


def test_training_finds_the_tails() -> None:
    torch.manual_seed(0)
    x = 0.5 + 2.0 * torch.distributions.StudentT(4.0).sample((2000, 1))
    likelihood = StudentT(1)
    numbers = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([numbers], lr=0.1)
    for _ in range(100):
        loss = -likelihood.log_prob(numbers, x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, log_square, degrees = (part.item() for part in likelihood.parts(numbers.detach()))
    fitted = scipy.stats.t.fit(x.numpy()[:, 0])
    np.testing.assert_allclose([degrees, mean], fitted[:2], rtol=0.05)
    np.testing.assert_allclose(np.exp(0.5 * log_square), fitted[2], rtol=0.02)


def test_a_training_step_works_in_float32() -> None:
    torch.manual_seed(0)
    model = zpyro.models.VRNN(StudentT(3, log_variance_bounds=(-14.0, 8.0)), 8, 2, 4, 6)
    terms = zpyro.sequence_terms(model, torch.randn(4, 6, 3))
    (terms.kl - terms.log_likelihood).sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert found
    assert all(gradient.isfinite().all() for gradient in found)


def test_bounds_must_rise() -> None:
    with pytest.raises(UserError, match="must rise"):
        StudentT(2, log_variance_bounds=(1.0, -1.0))
