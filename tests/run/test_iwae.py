"""The importance-weighted bound of zpyro.evaluation."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.cases import make
from tests.processes import LIMIT
from tests.run import small
from zpyro import evaluation
from zpyro.datasets import Sequences
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.likelihoods import Gaussian
from zpyro.models import SRNN, ZForcing
from zpyro.objectives.sequence_terms import sequence_terms


def log_weights(draw: int) -> Tensor:
    """By sequence, straight from the terms, one sequence at a time."""
    module, data = small.model().eval(), small.dataset().test
    found = []
    for i in range(len(data)):
        batch = next(iter(data[[i]].batches(1)))
        noise = named_noise(batch.names, batch.x.shape[1], module.latent_size, 0, draw)
        with torch.no_grad():
            terms = sequence_terms(module, batch.x, batch.lengths, batch.start, noise)
        parts = terms.log_likelihood + terms.log_prior - terms.log_posterior
        found.append(parts.double().sum())
    return torch.stack(found)


def test_it_is_the_log_mean_weight_of_each_sequence() -> None:
    result = evaluation.iwae(small.model(), small.dataset().test, particles=6, batch_size=5)
    weights = torch.stack([log_weights(draw) for draw in range(6)])
    expected = weights.logsumexp(0) - math.log(6)
    np.testing.assert_allclose(result.iwae_by_sequence, expected, rtol=1e-5)
    assert result.iwae == pytest.approx(expected.mean().item(), rel=1e-5)
    shares = weights.softmax(0)
    assert result.effective_paths == pytest.approx((1 / (shares**2).sum(0)).mean().item(), rel=1e-3)
    assert result.names == small.dataset().test.names


def test_it_rises_with_the_number_of_paths_from_the_plain_bound() -> None:
    module, data = small.model(), small.dataset().test
    bounds = [evaluation.iwae(module, data, particles=k).iwae for k in (1, 10, 100)]
    assert bounds[0] < bounds[1] < bounds[2]
    plain = evaluation.evaluate(module, data, particles=200)
    ones = [evaluation.iwae(module, data, particles=1, seed=s).iwae for s in range(60)]
    error = np.std(ones, ddof=1) / math.sqrt(len(ones))
    assert abs(np.mean(ones) - plain.elbo) < 4.5 * error + 0.02


def test_monte_carlo_error_is_the_spread_of_repetitions() -> None:
    module, data = small.model(), small.dataset().test
    runs = [evaluation.iwae(module, data, particles=40, seed=seed) for seed in range(40)]
    spread = np.std([run.iwae for run in runs], ddof=1)
    told = np.mean([run.monte_carlo_stderr for run in runs])
    assert told == pytest.approx(spread, rel=0.35)


@pytest.mark.fast
def test_mode_is_kept_and_nothing_to_score_is_told() -> None:
    module, data = small.model().train(), small.dataset().test
    evaluation.iwae(module, data, particles=2)
    assert module.training
    with pytest.raises(UserError, match="no sequences"):
        evaluation.iwae(module, data[[]], particles=2)


@pytest.mark.fast
@pytest.mark.parametrize(
    "name", ["gaussian", "layer_norm", "categorical", "srnn", "vrnn_mixture", "dmm", "storn", "rnn"]
)
def test_the_memory_decides_how_many_paths_are_sampled_together_not_the_result(name: str) -> None:
    case = make(name, lengths=(5, 2, 1, 5))
    values = tuple(x[:n].numpy() for x, n in zip(case.x, case.lengths, strict=True))
    data = Sequences(values, ("a", "b", "c", "d"), case.start.numpy())
    results = [
        evaluation.iwae(case.module, data, particles=7, memory=memory, batch_size=3)
        for memory in (0, 60_000, 1 << 40)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result.iwae_by_sequence, results[0].iwae_by_sequence, rtol=1e-12)
        assert result.effective_paths == pytest.approx(results[0].effective_paths, rel=1e-9)


@pytest.mark.fast
@pytest.mark.parametrize("cls", [ZForcing, SRNN])
def test_missing_values_and_covariates(cls: type[ZForcing | SRNN]) -> None:
    random = np.random.default_rng(0)
    lengths = (5, 3, 4, 6)
    observed = tuple(random.random((n, 3)) > 0.3 for n in lengths)
    data = Sequences(
        tuple(random.standard_normal((n, 3)) * o for n, o in zip(lengths, observed, strict=True)),
        ("a", "b", "c", "d"),
        observed=observed,
        covariates=tuple(random.standard_normal((n, 2)) for n in lengths),
    )
    torch.manual_seed(0)
    module = cls(Gaussian(3), 12, 4, 6, 8, missing=True, covariate_size=2).double()
    parts: list[Tensor] = []
    for draw in range(3):
        with torch.no_grad():
            terms = evaluation.named_terms(module, data.batch(), 0, draw)
        parts.append((terms.log_likelihood + terms.log_prior - terms.log_posterior).sum(1))
    expected = torch.stack(parts).logsumexp(0) - math.log(3)
    found = evaluation.iwae(module, data, particles=3).iwae_by_sequence
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_paths_take_no_more_memory_than_they_may() -> None:
    # The peak that getrusage gives includes that of the process that started this one.
    code = """
import torch, zpyro
from pathlib import Path
from zpyro.datasets import Sequences
torch.set_num_threads(1)
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
model = zpyro.ZForcing(zpyro.likelihoods.Gaussian(4), 64, 16, 32, 32)
data = Sequences(tuple(torch.randn(32, 50, 4).numpy()), tuple(map(str, range(32))), None)
for particles, memory in ((2, 1), (40, 24), (40, 1000)):
    zpyro.iwae(model, data, particles=particles, memory=memory << 20)
    print(peak())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    one_at_a_time, some, all_together = map(float, result.stdout.split())
    # The allocator of the system rounds up.
    assert some < one_at_a_time + 2 * 24
    assert all_together > some + 60
