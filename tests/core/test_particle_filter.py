"""The particle-filter bound against the Kalman filter, IWAE and a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.cases import MODELS, make
from tests.core.test_linear_gaussian import LinearGaussian, kalman_log_likelihood
from zpyro import UserError, evaluation
from zpyro.datasets import from_arrays
from zpyro.datasets.sequences import Sequences


def frames(count: int, steps: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(count, steps, 2, dtype=torch.float64) * 1.2


def copies(x: Tensor, times: int = 1) -> Sequences:
    """Every sequence several times, under names of their own and so with noise of their own."""
    values = [each.numpy() for each in x.repeat(times, 1, 1)]
    return Sequences(values, tuple(f"{index}" for index in range(len(values))))


def test_elbo_iwae_and_exact_are_in_order() -> None:
    x = frames(1, 6)
    model = LinearGaussian(slack=0.3)
    exact = float(kalman_log_likelihood(model, x.numpy())[0])
    elbo = evaluation.evaluate(model, copies(x, 2000), batch_size=2000)
    bounds = [
        evaluation.iwae(model, copies(x, times), particles=particles, batch_size=500)
        for particles, times in ((2, 1000), (20, 500), (400, 500))
    ]
    values = [elbo.elbo, *(bound.iwae for bound in bounds), exact]
    errors = [elbo.elbo_stderr, *(bound.stderr for bound in bounds)]
    assert all(error < 0.1 for error in errors)
    for (low, high), error in zip(pairwise(values), errors, strict=True):
        assert low < high + 3.0 * error
    assert values[1] > values[0] + 0.1
    assert values[2] > values[1] + 0.05
    assert values[3] == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("bound", [evaluation.evaluate, evaluation.iwae, evaluation.smc])
def test_a_whole_data_set_is_refused(bound: Callable[..., Any]) -> None:
    data = from_arrays([np.eye(2)] * 20)
    with pytest.raises(TypeError, match=r"is a Dataset, .*; give one of its parts, such as data"):
        bound(LinearGaussian(slack=0.3), data)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_estimate_of_the_likelihood_is_unbiased(threshold: float) -> None:
    x = frames(1, 6)
    model = LinearGaussian(slack=0.2)
    exact = float(kalman_log_likelihood(model, x.numpy())[0])
    found = evaluation.smc(
        model, copies(x, 4000), particles=8, runs=1, threshold=threshold, batch_size=1000
    )
    assert (found.resampled > 0) == (threshold > 0)
    ratios = np.exp(found.smc_by_sequence - exact)
    error = ratios.std() / math.sqrt(len(ratios))
    assert error < 0.02
    assert abs(ratios.mean() - 1.0) < 3.0 * error


def test_it_is_tighter_than_iwae_on_a_long_sequence() -> None:
    x = frames(1, 200)
    model = LinearGaussian(slack=0.3)
    exact = float(kalman_log_likelihood(model, x.numpy())[0])
    many = copies(x, 40)
    iwae = evaluation.iwae(model, many, particles=16)
    smc = evaluation.smc(model, many, particles=16)
    assert iwae.iwae < smc.smc - 3.0 * (iwae.stderr + smc.stderr)
    assert smc.smc < exact + 3.0 * smc.stderr
    assert smc.effective_paths > 2.0 * iwae.effective_paths


def test_without_resampling_it_is_the_importance_weighted_bound() -> None:
    """One path: the weight is p(x, z) / q(z | x), step by step as for the whole sequence."""
    x = frames(3, 7)
    model = LinearGaussian(slack=0.3)
    found = evaluation.smc(model, copies(x, 500), particles=1, runs=1)
    elbo = evaluation.evaluate(model, copies(x, 500))
    assert found.smc == pytest.approx(elbo.elbo, abs=4.0 * elbo.elbo_stderr)
    wide = evaluation.smc(model, copies(x, 100), particles=50, threshold=0.0)
    iwae = evaluation.iwae(model, copies(x, 100), particles=50)
    assert wide.smc == pytest.approx(iwae.iwae, abs=4.0 * (iwae.stderr + wide.stderr))


@pytest.mark.fast
def test_the_optimal_guide_leaves_nothing_to_chance() -> None:
    x = frames(2, 6)
    model = LinearGaussian()
    exact = kalman_log_likelihood(model, x.numpy())
    found = evaluation.smc(model, copies(x), particles=4, threshold=0.0)
    np.testing.assert_allclose(found.smc_by_sequence, exact, rtol=1e-10)
    assert found.monte_carlo_stderr < 1e-8


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_filtered(name: str) -> None:
    """One path's weight is that of the sequence programs on the same noise, whatever the batch."""
    case = make(name, lengths=(5, 2, 4))
    values = [x[:n].numpy() for x, n in zip(case.x, case.lengths, strict=True)]
    data = Sequences(values, ("a", "b", "c"), start=case.start.numpy())
    iwae = evaluation.iwae(case.module, data, particles=3)
    paths = evaluation.smc(case.module, data, particles=1, runs=3).smc_by_run
    together = np.logaddexp.reduce(paths, axis=0) - math.log(len(paths))
    np.testing.assert_allclose(together, iwae.iwae_by_sequence, rtol=1e-9)
    small = evaluation.smc(case.module, data, particles=4, batch_size=1, threshold=0.9)
    whole = evaluation.smc(case.module, data, particles=4, batch_size=3, threshold=0.9)
    np.testing.assert_allclose(small.smc_by_run, whole.smc_by_run, rtol=1e-9)


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (evaluation.evaluate, "elbo_by_sequence"),
        (evaluation.iwae, "iwae_by_sequence"),
        (evaluation.smc, "smc_by_sequence"),
    ],
)
def test_lengths_in_a_batch_do_not_matter(score: Callable[..., Any], name: str) -> None:
    """Batches of similar lengths, with the longest on their own, score as single sequences do."""
    case = make("gaussian", lengths=(2, 40, 3, 3, 2, 3, 12, 2, 2))
    values = [x[:n].numpy() for x, n in zip(case.x, case.lengths, strict=True)]
    data = Sequences(values, tuple("abcdefghi"), start=case.start.numpy())
    done: list[int] = []
    whole = score(case.module, data, particles=3, on_batch=lambda at, _: done.append(at))
    single = score(case.module, data, particles=3, batch_size=1)
    np.testing.assert_allclose(getattr(whole, name), getattr(single, name), rtol=1e-9)
    assert done == [4, 8, 9]


@pytest.mark.fast
def test_nothing_to_evaluate() -> None:
    with pytest.raises(UserError, match="no sequences"):
        evaluation.smc(LinearGaussian(), copies(frames(1, 3))[[]])
