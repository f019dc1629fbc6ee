"""Evaluation: the numbers of a set are those of its sequences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

import zpyro
from tests.run.small import model, sequences
from zpyro import evaluation
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.evaluation.elbo import mean_and_stderr, per_frame, trimmed_mean_and_stderr
from zpyro.likelihoods import LogisticMixture
from zpyro.models import VRNN


def test_the_bound_is_the_sum_of_the_terms() -> None:
    module, walks = model(), sequences(7, 3)
    result = evaluation.evaluate(module, walks, seed=5)
    batch = walks.batch()
    noise = named_noise(batch.names, batch.x.shape[1], 3, seed=5)
    terms = zpyro.sequence_terms(module, batch.x, batch.lengths, batch.start, noise=noise)
    bounds = (terms.log_likelihood - terms.kl).sum(1).detach().numpy()
    np.testing.assert_allclose(result.elbo_by_sequence, bounds, rtol=1e-5)
    assert result.names == walks.names
    assert result.elbo == pytest.approx(bounds.mean(), rel=1e-5)
    assert result.elbo_stderr == pytest.approx(bounds.std(ddof=1) / 7**0.5, rel=1e-5)
    assert result.elbo_per_frame == pytest.approx(bounds.sum() / batch.num_frames, rel=1e-5)
    assert result.kl == pytest.approx(terms.kl.sum(1).mean().item(), rel=1e-5)
    assert result.elbo == pytest.approx(result.log_likelihood - result.kl)
    assert (result.sequences, result.frames) == (7, batch.num_frames)


def test_numbers_do_not_depend_on_batches_or_order() -> None:
    module, walks = model(), sequences(11, 4)
    whole = evaluation.evaluate(module, walks)
    for batch_size in (1, 4):
        parts = evaluation.evaluate(module, walks, batch_size=batch_size)
        np.testing.assert_allclose(parts.elbo_by_sequence, whole.elbo_by_sequence, rtol=1e-5)
        assert parts.active_units == whole.active_units
    turned = evaluation.evaluate(module, walks[::-1])
    np.testing.assert_allclose(turned.elbo_by_sequence[::-1], whole.elbo_by_sequence, rtol=1e-5)


def test_seeds_and_particles() -> None:
    module, walks = model(), sequences(5, 4)
    one, same, other, many = (
        evaluation.evaluate(module, walks, seed=seed, particles=particles).elbo
        for seed, particles in ((0, 1), (0, 1), (1, 1), (0, 64))
    )
    assert one == same
    assert one != other
    singles = [evaluation.evaluate(module, walks, seed=seed).elbo for seed in range(40)]
    assert many == pytest.approx(np.mean(singles), abs=6 * np.std(singles) / 40**0.5)


def test_active_units_are_counted_over_all_frames() -> None:
    module, walks = model(), sequences(6, 5)
    output = module.get_submodule("posterior_network.output")
    assert isinstance(output, torch.nn.Linear)
    torch.nn.init.zeros_(output.weight)
    assert evaluation.evaluate(module, walks).active_units == 0
    output.weight.data[1] = 5.0
    assert evaluation.evaluate(module, walks).active_units == 1


def test_the_state_of_the_world_is_left_alone() -> None:
    module, walks = model().train(), sequences(3, 5)
    before = torch.get_rng_state()
    told: list[tuple[int, int]] = []
    evaluation.evaluate(module, walks, batch_size=2, on_batch=lambda *counts: told.append(counts))
    assert torch.equal(before, torch.get_rng_state())
    assert module.training
    assert told == [(2, 3), (3, 3)]


def test_what_cannot_be_scored_is_named() -> None:
    module = model()
    with pytest.raises(UserError, match="no sequences"):
        evaluation.evaluate(module, sequences(2, 0)[:0])
    huge = Sequences((np.full((2, 5), 1e30, "f4"), np.zeros((2, 5), "f4")), ("loud", "calm"))
    with pytest.raises(UserError, match="the bound of sequence loud is not finite"):
        evaluation.check_finite(evaluation.evaluate(module, huge))


def test_a_double_precision_model_is_scored() -> None:
    walks = sequences(4, 5)
    single = evaluation.evaluate(model(), walks)
    double = evaluation.evaluate(model().double(), walks)
    assert double.elbo == pytest.approx(single.elbo, rel=1e-4)


def test_one_sequence_has_no_standard_error() -> None:
    module, walk = model(), sequences(1, 3)
    results = (
        evaluation.evaluate(module, walk).elbo_stderr,
        evaluation.iwae(module, walk, particles=2).stderr,
        evaluation.smc(module, walk, particles=2).stderr,
    )
    assert all(np.isnan(stderr) for stderr in results)
    assert np.isfinite(evaluation.evaluate(module, sequences(2, 3)).elbo_stderr)


def test_the_error_per_frame_is_that_of_resampled_sequences() -> None:
    """Against the spread of the ratio over bootstrap samples of the sequences."""
    random = np.random.default_rng(0)
    lengths = random.integers(20, 200, 400)
    values = -7.0 * lengths + random.normal(0.0, 3.0, 400) * lengths**0.5
    ratio, stderr = per_frame(values, lengths)
    assert ratio == pytest.approx(values.sum() / lengths.sum(), rel=1e-12)
    drawn = random.integers(0, 400, (2000, 400))
    assert stderr == pytest.approx((values[drawn].sum(1) / lengths[drawn].sum(1)).std(), rel=0.06)
    # Of equal lengths it is that of the mean.
    same = np.full(400, 5)
    assert per_frame(values, same)[1] == pytest.approx(mean_and_stderr(values)[1] / 5, rel=1e-12)
    assert np.isnan(per_frame(values[:1], lengths[:1])[1])


def test_the_largest_bound_per_frame() -> None:
    model = zpyro.models.VRNN(zpyro.likelihoods.Bernoulli(3), 4, 2, 3, 3)
    values = tuple((np.random.default_rng(i).random((4 + i, 3)) < 0.5) * 1.0 for i in range(3))
    split = Sequences(tuple(v.astype("f4") for v in values), ("a", "b", "c"), data_type="binary")
    results = (
        evaluation.evaluate(model, split),
        evaluation.iwae(model, split, particles=5),
        evaluation.smc(model, split, particles=5),
    )
    found = evaluation.largest_per_frame(*results)
    nats = [results[0].elbo_per_frame, results[1].iwae_per_frame, results[2].smc_per_frame]
    assert found.nats == max(nats)
    assert found.bound == ("elbo", "iwae", "smc")[int(np.argmax(nats))]
    assert results[1].iwae_per_frame == pytest.approx(results[1].iwae_by_sequence.sum() / 15)
    assert results[2].smc_per_frame == pytest.approx(results[2].smc_by_sequence.sum() / 15)
    with pytest.raises(UserError, match="different sequences"):
        evaluation.largest_per_frame(results[0], evaluation.evaluate(model, split[:2]))


def test_robust_means_are_scipys() -> None:
    values = np.random.default_rng(0).standard_cauchy(60) * 100.0 - 40.0
    mean, stderr = trimmed_mean_and_stderr(values)
    assert mean == pytest.approx(scipy.stats.trim_mean(values, 0.1))
    limits = {"limits": (0.1, 0.1), "inclusive": (True, True)}
    assert stderr == pytest.approx(scipy.stats.mstats.trimmed_stde(values, **limits))
    few = values[:9]
    assert trimmed_mean_and_stderr(few) == pytest.approx(mean_and_stderr(few))
    assert np.isnan(trimmed_mean_and_stderr(values[:1])[1])


def test_few_far_sequences_move_the_mean_only() -> None:
    module, walks = model(), sequences(30, 3)
    calm = evaluation.evaluate(module, walks)
    far = [np.full_like(value, 1e3) if i < 2 else value for i, value in enumerate(walks.values)]
    found = evaluation.evaluate(module, replace(walks, values=tuple(far)))
    assert found.elbo < calm.elbo - 1e3
    assert abs(found.elbo_trimmed - calm.elbo_trimmed) < 3.0 * calm.elbo_trimmed_stderr
    assert found.elbo_median == np.median(found.elbo_by_sequence)
    names = [name for name, _ in found.worst]
    assert len(names) == 5
    assert set(names[:2]) == set(walks.names[:2])
    bounds = [bound for _, bound in found.worst]
    assert bounds == sorted(found.elbo_by_sequence)[:5]


def test_bits_per_sample_do_not_depend_on_the_frame_size() -> None:
    """One density for every sample, with noise cut into frames of three sizes."""
    scale = 0.1
    noise = np.random.default_rng(0).normal(size=(6, 48)).astype(np.float32)
    bits: list[float | None] = []
    for size in (4, 8, 16):
        likelihood = LogisticMixture(size, logistics=2, sample_scale=scale)
        module = VRNN(likelihood, 6, 2, 4, 5)
        for parameter in module.output.parameters():
            torch.nn.init.zeros_(parameter)
        for parameter in module.get_submodule("posterior_network.output").parameters():
            torch.nn.init.zeros_(parameter)
        for parameter in module.get_submodule("prior_network.output").parameters():
            torch.nn.init.zeros_(parameter)
        values = tuple(row.reshape(-1, size) for row in noise)
        frames = Sequences(values, tuple("abcdef"), normalization=Normalization(0.0, scale))
        bits.append(evaluation.evaluate(module, frames).bits_per_sample)
    samples = np.rint(noise.astype(np.float64) * scale * 32768.0)
    edges = [(samples + half) / (32768.0 * scale) for half in (-0.5, 0.5)]
    low, high = (scipy.stats.logistic.cdf(each, scale=3.0**0.5 / np.pi) for each in edges)
    assert bits == pytest.approx([-float(np.log2(high - low).mean())] * 3, rel=1e-5)
    assert evaluation.evaluate(model(), sequences(2, 3)).bits_per_sample is None
