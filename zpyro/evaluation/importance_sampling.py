"""The importance-weighted bound: several paths a sequence, weighted as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences
from zpyro.errors import UserError
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.evaluation.elbo import OnBatch, named_terms
from zpyro.models.base import SequenceModel
from zpyro.nn.modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class ImportanceEvaluation:
    """The importance-weighted bound on a set of N sequences; nats.

    Attributes:
        iwae: mean over sequences of log (1 / K) sum_k p(x, z_k) / q(z_k | x).
        stderr: standard error of that mean over sequences.
        monte_carlo_stderr: its standard error over draws of the paths, by the delta method.
        effective_paths: mean over sequences of (sum_k w_k)^2 / sum_k w_k^2.
        particles: K.
        names: of the sequences, in the order of ``iwae_by_sequence``.
        iwae_by_sequence: (N,).
    """

    iwae: float
    stderr: float
    monte_carlo_stderr: float
    effective_paths: float
    particles: int
    names: tuple[str, ...]
    iwae_by_sequence: np.ndarray


def iwae(
    module: SequenceModel,
    sequences: Sequences,
    *,
    particles: int = 25,
    batch_size: int = 64,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> ImportanceEvaluation:
    """The importance-weighted bound of a model on a set of sequences (arXiv:1509.00519).

    Paths are drawn one after the other, so that memory does not grow with their number. Their noise
    depends on ``seed`` and each sequence's name alone, as in :func:`evaluate`.

    Args:
        module: the model; it is evaluated without dropout and left in the mode it was in.
        sequences: what to score.
        particles: K; a model without latents has the same number for every K.
        batch_size: sequences scored together.
        seed: of the noise.
        on_batch: receives (done, total) after each batch.

    Raises:
        UserError: if there are no sequences.
    """
    if len(sequences) == 0:
        raise UserError("there are no sequences to evaluate; choose another split")
    order = np.argsort(sequences.lengths, kind="stable")
    draws = particles if module.latent_size else 1
    parts: list[np.ndarray] = []
    with evaluation_mode(module):
        for batch in sequences[order.tolist()].batches(batch_size):
            parts.append(
                np.stack([_log_weights(module, batch, seed, draw) for draw in range(draws)])
            )
            if on_batch is not None:
                on_batch(sum(part.shape[1] for part in parts), len(sequences))
    log_weights = np.concatenate(parts, axis=1)[:, np.argsort(order)]
    return _importance(tuple(sequences.names), log_weights, particles)


def _log_weights(module: SequenceModel, batch: Batch, seed: int, draw: int) -> np.ndarray:
    """log p(x, z) / q(z | x) of one path a sequence, (B,)."""
    if module.custom_guide is not None:
        likelihood, prior, posterior, _ = path_log_probs(module, batch, seed, draw)
        return (likelihood + prior - posterior).double().cpu().numpy()
    terms = named_terms(module, batch, seed, draw)
    steps = terms.log_likelihood + terms.log_prior - terms.log_posterior
    return steps.double().sum(1).cpu().numpy()


def _importance(
    names: tuple[str, ...], log_weights: np.ndarray, particles: int
) -> ImportanceEvaluation:
    """The bound from log weights (K, N)."""
    largest = log_weights.max(0)
    weights = np.exp(log_weights - largest)
    bounds = largest + np.log(weights.mean(0))
    shares = weights / weights.sum(0)
    # Of the log of a mean of K draws: variance of the weights over K times their squared mean.
    paths = len(weights)
    variance = (shares**2).sum(0) - 1.0 / paths
    correction = paths / (paths - 1) if paths > 1 else 1.0
    count = len(bounds)
    spread = float(bounds.std(ddof=1)) if count > 1 else 0.0
    return ImportanceEvaluation(
        iwae=float(bounds.mean()),
        stderr=spread / count**0.5,
        monte_carlo_stderr=float(np.sqrt(np.maximum(variance, 0.0).sum() * correction)) / count,
        effective_paths=float((1.0 / (shares**2).sum(0)).mean()),
        particles=particles,
        names=names,
        iwae_by_sequence=bounds,
    )
