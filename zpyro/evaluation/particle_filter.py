"""The particle-filter bound: paths with low weights are replaced by ones with high weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zpyro.datasets.batching import Batch, similar_batches
from zpyro.datasets.sequences import Sequences
from zpyro.errors import UserError
from zpyro.evaluation.elbo import OnBatch, mean_and_stderr, per_frame, sorted_by_length
from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.guides import model_inputs
from zpyro.models.particles import FilterRun, at_places, run_filter, select_particles
from zpyro.nn.layers import State
from zpyro.nn.modes import evaluation_mode

ROWS = 8192
"""Particles of all sequences in a batch, at most, so that memory stays bounded."""


@dataclass(frozen=True, eq=False)
class FilterEvaluation:
    """The particle-filter bound on a set of N sequences; nats.

    Attributes:
        smc: mean over sequences of log p^(x), where p^ is an unbiased estimate of p(x).
        stderr: standard error of that mean over sequences.
        smc_per_frame: smc N / F, with F frames in all.
        smc_per_frame_stderr: its standard error over sequences, of a ratio estimator.
        monte_carlo_stderr: its standard error over runs of the filter.
        effective_paths: (sum_k w_k)^2 / sum_k w_k^2, mean over steps and sequences.
        resampled: in how many of the steps paths were replaced, 0 to 1.
        particles: K.
        names: of the sequences, in the order of ``smc_by_sequence``.
        smc_by_sequence: (N,), mean over the runs.
        smc_by_run: (runs, N).
    """

    smc: float
    stderr: float
    smc_per_frame: float
    smc_per_frame_stderr: float
    monte_carlo_stderr: float
    effective_paths: float
    resampled: float
    particles: int
    names: tuple[str, ...]
    smc_by_sequence: np.ndarray
    smc_by_run: np.ndarray


def smc(
    module: SequenceModel,
    sequences: Sequences,
    *,
    particles: int = 25,
    runs: int = 2,
    threshold: float = 0.5,
    batch_size: int = 64,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> FilterEvaluation:
    """Sequential importance resampling with the guide as proposal (FIVO, arXiv:1705.09279).

    Each step multiplies the weight of each of K paths by p(x_t | h_t) p(z_t) / q(z_t). Where the
    effective number of paths falls below ``threshold`` K, paths are resampled in proportion to
    their weights (systematic resampling), and the mean weight is a factor of the estimate of p(x).
    That estimate is unbiased, so its logarithm is in expectation a lower bound. The auxiliary costs
    are not part of it. The noise depends only on ``seed`` and each sequence's name.

    Args:
        module: the model; it is evaluated without dropout, and its mode is restored.
        sequences: what to score.
        particles: K; a model without latents has the same number for every K.
        runs: how often every sequence is filtered; two or more give ``monte_carlo_stderr``.
        threshold: 0 never resamples (then the bound is IWAE's), 1 almost always does.
        batch_size: sequences scored together; fewer where K is large or lengths differ much.
        seed: of the noise.
        on_batch: receives (done, total) after each batch.

    Raises:
        UserError: if there are no sequences, or the model has a custom guide, which samples whole
            paths.
    """
    ordered, back = sorted_by_length(sequences)
    check_can_filter(module)
    if not module.latent_size:
        particles, runs = 1, 1
    together = max(1, min(batch_size, ROWS // particles))
    parts: list[list[_Filtered]] = []
    steps = int(sequences.lengths.sum()) * runs
    with evaluation_mode(module):
        for part in similar_batches(ordered.lengths, together):
            batch = ordered[part].batch()
            # What depends on the frames alone is computed once for all runs.
            bound = module.bind(*model_inputs(module, batch))
            found = [_filter(bound, batch, particles, threshold, seed, run) for run in range(runs)]
            parts.append([_Filtered.of(each) for each in found])
            if on_batch is not None:
                on_batch(part.stop, len(sequences))
    by_run = np.stack(
        [np.concatenate([part[run].bounds for part in parts])[back] for run in range(runs)]
    )
    bounds = by_run.mean(0)
    mean, stderr = mean_and_stderr(bounds)
    ratio, ratio_stderr = per_frame(bounds, sequences.lengths)
    noise = by_run.var(0, ddof=1).sum() / runs if runs > 1 else 0.0
    every = [part for scored in parts for part in scored]
    return FilterEvaluation(
        smc=mean,
        stderr=stderr,
        smc_per_frame=ratio,
        smc_per_frame_stderr=ratio_stderr,
        monte_carlo_stderr=float(noise) ** 0.5 / len(bounds),
        effective_paths=sum(part.effective for part in every) / steps,
        resampled=sum(part.resampled for part in every) / steps,
        particles=particles,
        names=tuple(sequences.names),
        smc_by_sequence=bounds,
        smc_by_run=by_run,
    )


def check_can_filter(module: SequenceModel) -> None:
    """Raise UserError for a model with a custom guide, which samples whole paths."""
    if module.custom_guide is not None:
        raise UserError(
            "the particle filter moves with the model's own guide, this run has another; "
            "take --bound iwae"
        )


class _Filtered(NamedTuple):
    """One batch: bounds (B,), and sums over its steps."""

    bounds: np.ndarray
    effective: float
    resampled: float

    @classmethod
    def of(cls, run: FilterRun) -> _Filtered:
        bounds = run.log_likelihood.cpu().numpy()
        return cls(bounds, float(run.effective.sum()), float(run.resampled.sum()))


def final_states(
    bound: BoundModel, batch: Batch, num_samples: int, *, num_particles: int, seed: int
) -> State:
    """States after the last frame of each sequence, from a particle filter.

    Args:
        bound: a model in evaluation mode, bound to the batch; it moves with its own guide.
        batch: B sequences.
        num_samples: S, states for each sequence, drawn in proportion to their weights.
        num_particles: K.
        seed: of the filter.

    Returns:
        Each part (S B, ...), samples outermost.
    """
    found = _filter(bound, batch, num_particles, 0.5, seed, 0)
    weights = found.log_weights
    points = torch.arange(num_samples, device=weights.device).to(weights).unsqueeze(1) + 0.5
    chosen = at_places(weights, points.expand(-1, len(batch)) / num_samples)
    return select_particles(found.state, chosen)


def _filter(
    bound: BoundModel, batch: Batch, particles: int, threshold: float, seed: int, run: int
) -> FilterRun:
    noise = _noise(batch.names, particles, bound.model.latent_size, seed, run)
    return run_filter(bound, noise, particles, threshold)


def _noise(
    names: Sequence[str], particles: int, size: int, seed: int, run: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For every step: standard normal noise (K, B, Z), and offsets for resampling (B,).

    The noise of a single path is that of :func:`zpyro.distributed.seeding.named_noise`.
    """
    keys = [zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names]
    paths = [np.random.default_rng([seed, run, key]) for key in keys]
    offsets = [np.random.default_rng([seed, run, key, 1]) for key in keys]
    while True:
        draws = [each.standard_normal((particles, size), dtype=np.float32) for each in paths]
        places = [each.random() for each in offsets]
        yield torch.from_numpy(np.stack(draws, axis=1)), torch.tensor(places, dtype=torch.float64)
