"""How good a model is on held-out sequences: the pure evidence lower bound and its parts.

No weight of the training objective enters here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences
from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.evaluation.information import FrameSample
from zpyro.models.base import SequenceModel
from zpyro.models.guides import model_inputs
from zpyro.nn.modes import evaluation_mode
from zpyro.objectives.sequence_terms import SequenceTerms, sequence_terms

ACTIVE_VARIANCE = 0.01

OnBatch = Callable[[int, int], None]
"""Told after each batch how many sequences are done, and how many there are."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The bound on a set of N sequences with F scored frames in all; nats.

    Attributes:
        elbo: mean over sequences of sum_t E_q log p(x_t | h_t) - KL(q_t || p_t).
        elbo_stderr: standard error of that mean over sequences, s / sqrt(N).
        elbo_per_frame: elbo N / F.
        kl: mean over sequences of sum_t KL(q_t || p_t).
        log_likelihood: mean over sequences of sum_t E_q log p(x_t | h_t).
        active_units: latents whose posterior mean has a variance above 0.01 over all frames
            (Burda et al., arXiv:1509.00519, section 5.2).
        mutual_information: between z_t and the frame it was inferred from, over all frames; see
            :class:`zpyro.evaluation.information.FrameSample`; NaN with a guide of the user's own.
        sequences: N.
        frames: F.
        names: of the sequences, in the order of ``elbo_by_sequence``.
        elbo_by_sequence: (N,).
    """

    elbo: float
    elbo_stderr: float
    elbo_per_frame: float
    kl: float
    log_likelihood: float
    active_units: int
    mutual_information: float
    sequences: int
    frames: int
    names: tuple[str, ...]
    elbo_by_sequence: np.ndarray

    @property
    def perplexity(self) -> float:
        """exp(-elbo_per_frame): for tokens an upper bound of the perplexity per token."""
        return perplexity(self.elbo_per_frame, 1)


def perplexity(nats: float, tokens: int) -> float:
    """exp(-nats / tokens), infinity where that is beyond all numbers.

    Args:
        nats: log-probability of all tokens, or a lower bound of it.
        tokens: how many were scored, the end of every sequence among them.
    """
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(-nats / tokens)))


def evaluate(
    module: SequenceModel,
    sequences: Sequences,
    *,
    batch_size: int = 64,
    particles: int = 1,
    seed: int = 0,
    on_batch: OnBatch | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Evaluation:
    """The pure evidence lower bound of a model on a set of sequences.

    The noise behind the latents depends on ``seed`` and each sequence's name alone, so numbers of
    one model at different times, batch sizes and devices can be compared.

    Args:
        module: the model; it is evaluated without dropout and left in the mode it was in.
        sequences: what to score.
        batch_size: sequences scored together.
        particles: paths drawn for each sequence; the bound is their mean.
        seed: of the noise.
        on_batch: receives (done, total) after each batch.
        process_group: the processes that score batches in turn; all get the whole result.

    Raises:
        UserError: if there are no sequences.
    """
    if len(sequences) == 0:
        raise UserError("there are no sequences to evaluate; choose another split")
    # Sequences of like length together, so that little is padded; the result is put back in order.
    order = np.argsort(sequences.lengths, kind="stable")
    ordered = sequences[order.tolist()]
    begins = np.cumsum(ordered.lengths) - ordered.lengths
    found = _Found(len(ordered), ordered.num_frames, module.latent_size)
    with evaluation_mode(module):
        for first in range(
            process_group.rank * batch_size, len(ordered), process_group.world_size * batch_size
        ):
            part = slice(first, min(first + batch_size, len(ordered)))
            score = _score(module, ordered[part].batch(), particles, seed)
            found.add(part, int(begins[first]), score)
            if on_batch is not None:
                on_batch(part.stop, len(sequences))
    found, *others = process_group.gather(found)
    for other in others:
        found.merge(other)
    back = np.argsort(order)
    return _summary(
        tuple(sequences.names),
        found.log_likelihood[back],
        found.kl[back],
        sequences.num_frames,
        int((found.units.value() > ACTIVE_VARIANCE).sum()),
        found.sample.mutual_information(),
    )


def check_finite(evaluation: Evaluation) -> None:
    """Make sure that every bound is a number.

    Raises:
        UserError: naming the first sequence whose bound is not finite.
    """
    finite = np.isfinite(evaluation.elbo_by_sequence)
    bad = [name for name, good in zip(evaluation.names, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"the bound of sequence {bad[0]}{more} is not finite; look for extreme values in the "
            "data, or train with a lower train.learning_rate"
        )


@dataclass(frozen=True, eq=False)
class _Score:
    """What one batch gives, in double precision on the host.

    Attributes:
        log_likelihood: summed over steps, (B,).
        kl: likewise, (B,).
        posterior_means: of every scored frame, mean over draws, (frames, Z).
        z: latents of the first draw, (frames, Z).
        means_of_draw: posterior means along the first draw, (frames, Z).
        log_variances_of_draw: likewise, (frames, Z).
    """

    log_likelihood: np.ndarray
    kl: np.ndarray
    posterior_means: np.ndarray
    z: np.ndarray
    means_of_draw: np.ndarray
    log_variances_of_draw: np.ndarray


def _score(module: SequenceModel, batch: Batch, particles: int, seed: int) -> _Score:
    if module.custom_guide is not None:
        return _score_with_custom_guide(module, batch, particles, seed)
    draws = [named_terms(module, batch, seed, draw) for draw in range(particles)]
    log_likelihood = torch.stack([terms.log_likelihood.double().sum(1) for terms in draws]).mean(0)
    kl = torch.stack([terms.kl.double().sum(1) for terms in draws]).mean(0)
    means = torch.stack([terms.posterior_mean.double() for terms in draws]).mean(0)
    steps = torch.arange(means.shape[1])
    valid = steps < batch.lengths.cpu().unsqueeze(-1)
    first = draws[0]
    return _Score(
        log_likelihood.cpu().numpy(),
        kl.cpu().numpy(),
        *(
            values.double().cpu()[valid].numpy()
            for values in (means, first.z, first.posterior_mean, first.posterior_log_variance)
        ),
    )


def _score_with_custom_guide(
    module: SequenceModel, batch: Batch, particles: int, seed: int
) -> _Score:
    """The same from densities at drawn latents; means are over the draws."""
    draws = [path_log_probs(module, batch, seed, draw) for draw in range(particles)]
    average = [torch.stack([draw[n].double() for draw in draws]).mean(0).cpu() for n in range(4)]
    valid = torch.arange(average[3].shape[1]) < batch.lengths.cpu().unsqueeze(-1)
    kl = average[2] - average[1]
    unknown = np.zeros((0, 0))
    means = average[3][valid].numpy()
    return _Score(average[0].numpy(), kl.numpy(), means, unknown, unknown, unknown)


def named_terms(module: SequenceModel, batch: Batch, seed: int, draw: int) -> SequenceTerms:
    """The terms of one path per sequence, whose noise depends on seed, draw and names only."""
    noise = named_noise(batch.names, batch.x.shape[1], module.latent_size, seed, draw)
    x, lengths, start = model_inputs(module, batch)
    return sequence_terms(module, x, lengths, start, noise=noise.to(next(module.parameters())))


def _summary(
    names: tuple[str, ...],
    log_likelihood: np.ndarray,
    kl: np.ndarray,
    frames: int,
    active_units: int,
    mutual_information: float,
) -> Evaluation:
    elbo = log_likelihood - kl
    count = len(elbo)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = float(elbo.std(ddof=1)) if count > 1 else 0.0
    return Evaluation(
        elbo=float(elbo.mean()),
        elbo_stderr=spread / count**0.5,
        elbo_per_frame=float(elbo.sum()) / frames,
        kl=float(kl.mean()),
        log_likelihood=float(log_likelihood.mean()),
        active_units=active_units,
        mutual_information=mutual_information,
        sequences=count,
        frames=frames,
        names=names,
        elbo_by_sequence=elbo,
    )


class _Found:
    """What the batches of one process, and then of all, gave.

    Args:
        sequences: how many there are in all.
        frames: of all of them.
        latents: Z.
    """

    def __init__(self, sequences: int, frames: int, latents: int) -> None:
        # Zero where another process scores, so that sums put the parts together.
        self.log_likelihood = np.zeros(sequences)
        self.kl = np.zeros(sequences)
        self.units = _Variance(latents)
        self.sample = FrameSample(frames)

    def add(self, part: slice, first_frame: int, score: _Score) -> None:
        """Take in the sequences of one batch."""
        self.log_likelihood[part], self.kl[part] = score.log_likelihood, score.kl
        self.units.add(score.posterior_means)
        self.sample.add(first_frame, score.z, score.means_of_draw, score.log_variances_of_draw)

    def merge(self, other: _Found) -> None:
        """Take in what another process found."""
        self.log_likelihood += other.log_likelihood
        self.kl += other.kl
        self.units.merge(other.units)
        self.sample.merge(other.sample)


class _Variance:
    """Variance of each column over rows that come in parts (Chan, Golub, LeVeque 1979)."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self.squares = np.zeros(size)

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        part = _Variance(rows.shape[1])
        part.count, part.mean = len(rows), rows.mean(0)
        part.squares = ((rows - part.mean) ** 2).sum(0)
        self.merge(part)

    def merge(self, other: _Variance) -> None:
        total = self.count + other.count
        if not total:
            return
        shift = other.mean - self.mean
        self.squares = self.squares + other.squares + shift**2 * self.count * other.count / total
        self.mean = self.mean + shift * other.count / total
        self.count = total

    def value(self) -> np.ndarray:
        return self.squares / max(self.count, 1)
