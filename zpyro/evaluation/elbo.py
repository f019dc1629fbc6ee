"""The evidence lower bound on held-out sequences and its parts, without any training weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zpyro.datasets.batching import Batch, similar_batches
from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.evaluation.information import FrameSample
from zpyro.likelihoods import Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.guides import model_inputs
from zpyro.nn.modes import evaluation_mode
from zpyro.objectives.sequence_terms import SequenceTerms, sequence_terms

ACTIVE_VARIANCE = 0.01

TRIMMED = 0.1
"""Share of the sequences that the trimmed mean leaves out at each end."""
WORST = 5
"""Sequences whose bounds are listed, lowest first."""

OnBatch = Callable[[int, int], None]
"""Receives, after each batch, the number of sequences that are done and of all."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The bound on a set of N sequences with F scored frames in all; nats.

    Attributes:
        elbo: mean over sequences of sum_t E_q log p(x_t | h_t) - KL(q_t || p_t).
        elbo_stderr: standard error of that mean over sequences, s / sqrt(N); NaN for one.
        elbo_median: median over sequences.
        elbo_trimmed: mean over sequences without the lowest and the highest 10 %, rounded down;
            few far values do not move it.
        elbo_trimmed_stderr: its standard error, see :func:`trimmed_mean_and_stderr`; NaN for one.
        elbo_per_frame: elbo N / F, the score of papers on polyphonic music.
        elbo_per_frame_stderr: its standard error over sequences, see :func:`per_frame`; NaN for
            one.
        kl: mean over sequences of sum_t KL(q_t || p_t).
        log_likelihood: mean over sequences of sum_t E_q log p(x_t | h_t).
        active_units: latents whose posterior mean has a variance above 0.01 over all frames
            (Burda et al., arXiv:1509.00519, section 5.2).
        mutual_information: between z_t and the frame it was inferred from, over all frames; see
            :class:`zpyro.evaluation.information.FrameSample`; NaN with a custom guide.
        sequences: N.
        frames: F.
        names: of the sequences, in the order of ``elbo_by_sequence``.
        elbo_by_sequence: (N,).
        bits_per_sample: minus the bound over the number of observed samples, in bits, with a
            discretized likelihood; None with any other. It does not depend on the frame size.
    """

    elbo: float
    elbo_stderr: float
    elbo_median: float
    elbo_trimmed: float
    elbo_trimmed_stderr: float
    elbo_per_frame: float
    elbo_per_frame_stderr: float
    kl: float
    log_likelihood: float
    active_units: int
    mutual_information: float
    sequences: int
    frames: int
    names: tuple[str, ...]
    elbo_by_sequence: np.ndarray
    bits_per_sample: float | None = None

    @property
    def worst(self) -> tuple[tuple[str, float], ...]:
        """Name and bound of the five sequences with the lowest bounds, lowest first."""
        order = np.argsort(self.elbo_by_sequence, kind="stable")[:WORST]
        return tuple((self.names[i], float(self.elbo_by_sequence[i])) for i in order)

    @property
    def perplexity(self) -> float:
        """exp(-elbo_per_frame): for tokens an upper bound of the perplexity per token."""
        return perplexity(self.elbo_per_frame, 1)


def perplexity(nats: float, tokens: int) -> float:
    """exp(-nats / tokens), infinity on overflow.

    Args:
        nats: log-probability of all tokens, or a lower bound of it.
        tokens: how many were scored, including the end of every sequence.
    """
    with np.errstate(over="ignore"):
        return float(np.exp(np.float64(-nats / tokens)))


def sorted_by_length(sequences: object) -> tuple[Sequences, np.ndarray]:
    """The sequences by length, so that batches have little padding, and indices that undo it.

    Raises:
        UserError: if there are no sequences.
        TypeError: for anything else than sequences.
    """
    if not isinstance(sequences, Sequences):
        kind = type(sequences).__name__
        hint = "one of its parts, such as data.test" if isinstance(sequences, Dataset) else "some"
        raise TypeError(f"sequences is a {kind}, not zpyro.datasets.Sequences; give {hint}")
    if len(sequences) == 0:
        raise UserError("there are no sequences to evaluate; choose another split")
    order = np.argsort(sequences.lengths, kind="stable")
    return sequences[order.tolist()], np.argsort(order)


def mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    """The mean over sequences, and its standard error; NaN for one sequence."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return float(values.mean()), spread / len(values) ** 0.5


def trimmed_mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    """The mean without the lowest and highest tenth of the values, and its standard error.

    The error is s_w / ((1 - 2 g / N) sqrt(N)), with g values left out at each end and s_w the
    standard deviation after those are set to the nearest value that is kept (Tukey and McLaughlin,
    Sankhya A 25, 1963). NaN for one value.

    Args:
        values: one a sequence, (N,).

    Example:
        >>> trimmed_mean_and_stderr(np.array([-1e9, *range(8), 1e9]))[0]
        3.5
    """
    ordered, count = np.sort(values), len(values)
    cut = int(TRIMMED * count)
    kept = ordered[cut : count - cut]
    error = mean_and_stderr(ordered.clip(kept[0], kept[-1]))[1]
    return float(kept.mean()), error * count / len(kept)


def per_frame(values: np.ndarray, lengths: np.ndarray) -> tuple[float, float]:
    """The sum over sequences per frame, and its standard error over sequences; NaN for one.

    Sequences differ in length, so the mean per frame r = sum_i b_i / sum_i T_i is a ratio of two
    means. Its standard error is that of the ratio estimator (Cochran, Sampling Techniques, 1977,
    section 6.4): sqrt(N / (N - 1) sum_i (b_i - r T_i)^2) / sum_i T_i.

    Args:
        values: b_i, one a sequence, (N,).
        lengths: T_i, frames of each, (N,).

    Example:
        >>> per_frame(np.array([-4.0, -10.0]), np.array([2, 5]))
        (-2.0, 0.0)
    """
    count, frames = len(values), float(lengths.sum())
    ratio = float(values.sum()) / frames
    if count < 2:
        return ratio, math.nan
    with np.errstate(invalid="ignore", over="ignore"):
        squares = float(((values - ratio * lengths) ** 2).sum())
    return ratio, (count / (count - 1) * squares) ** 0.5 / frames


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

    The noise of the latents depends only on ``seed`` and each sequence's name, so numbers of one
    model at different times, batch sizes and devices can be compared.

    Args:
        module: the model; it is evaluated without dropout, and its mode is restored.
        sequences: what to score.
        batch_size: sequences scored together; fewer where their lengths differ much.
        particles: paths sampled for each sequence; the bound is their mean.
        seed: of the noise.
        on_batch: receives (done, total) after each batch.
        process_group: the processes that share the batches; all get the whole result.

    Raises:
        UserError: if there are no sequences.
    """
    ordered, back = sorted_by_length(sequences)
    begins = np.cumsum(ordered.lengths) - ordered.lengths
    found = _Found(len(ordered), ordered.num_frames, module.latent_size)
    with evaluation_mode(module):
        batches = similar_batches(ordered.lengths, batch_size)
        for part in batches[process_group.rank :: process_group.world_size]:
            scores = _score(module, ordered[part], particles, seed)
            found.add(part, int(begins[part.start]), *scores)
            if on_batch is not None:
                on_batch(part.stop, len(sequences))
    found, *others = process_group.gather(found)
    for other in others:
        found.merge(other)
    elbo = found.log_likelihood[back] - found.kl[back]
    mean, stderr = mean_and_stderr(elbo)
    ratio, ratio_stderr = per_frame(elbo, sequences.lengths)
    trimmed, trimmed_stderr = trimmed_mean_and_stderr(elbo)
    return Evaluation(
        elbo=mean,
        elbo_stderr=stderr,
        elbo_median=float(np.median(elbo)),
        elbo_trimmed=trimmed,
        elbo_trimmed_stderr=trimmed_stderr,
        elbo_per_frame=ratio,
        elbo_per_frame_stderr=ratio_stderr,
        kl=float(found.kl[back].mean()),
        log_likelihood=float(found.log_likelihood[back].mean()),
        active_units=int((found.units.value() > ACTIVE_VARIANCE).sum()),
        mutual_information=found.sample.mutual_information(),
        sequences=len(elbo),
        frames=sequences.num_frames,
        names=tuple(sequences.names),
        elbo_by_sequence=elbo,
        bits_per_sample=_bits_per_sample(module.likelihood, elbo, sequences),
    )


def _bits_per_sample(
    likelihood: Likelihood, elbo: np.ndarray, sequences: Sequences
) -> float | None:
    if not likelihood.discretized:
        return None
    samples = sequences.num_frames * sequences.frame_size
    if sequences.observed is not None:
        samples = sum(int(mask.sum()) for mask in sequences.observed)
    return -float(elbo.sum()) / samples / math.log(2.0)


def check_finite(evaluation: Evaluation) -> None:
    """Check that every bound is finite.

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


def _score(
    module: SequenceModel, sequences: Sequences, particles: int, seed: int
) -> tuple[np.ndarray, ...]:
    """The scores of one batch of B sequences with F frames, in double precision on the host.

    Returns:
        Log-likelihood and KL summed over steps, (B,); the posterior means, averaged over paths,
        (F, Z); latents, posterior means and log variances of the first path, (F, Z). With a custom
        guide the KL and the means are those of the sampled latents, and the last three are empty.
    """
    batch = sequences.batch()
    if module.custom_guide is not None:
        paths = [path_log_probs(module, batch, seed, number) for number in range(particles)]
        likelihood, prior, posterior, z = map(_average, zip(*paths, strict=True))
        kl, means, of_first = posterior - prior, z, ()
    else:
        terms = [named_terms(module, batch, seed, number) for number in range(particles)]
        likelihood = _average([each.log_likelihood.cpu().double().sum(1) for each in terms])
        kl = _average([each.kl.cpu().double().sum(1) for each in terms])
        means = _average([each.posterior_mean for each in terms])
        first = terms[0]
        of_first = (first.z, first.posterior_mean, first.posterior_log_variance)
    valid = torch.arange(means.shape[1]) < batch.lengths.cpu().unsqueeze(-1)
    by_frame = [values.cpu().double()[valid].numpy() for values in (means, *of_first)]
    unknown = [np.zeros((0, 0))] * (3 - len(of_first))
    return likelihood.numpy(), kl.numpy(), *by_frame, *unknown


def _average(paths: Iterable[Tensor]) -> Tensor:
    """The mean over paths in double precision, on the host."""
    return torch.stack([path.cpu().double() for path in paths]).mean(0)


def named_terms(module: SequenceModel, batch: Batch, seed: int, draw: int) -> SequenceTerms:
    """The terms of one path per sequence, whose noise depends on seed, draw and names only."""
    noise = named_noise(batch.names, batch.x.shape[1], module.latent_size, seed, draw)
    x, lengths, start, *given = model_inputs(module, batch)
    observed, covariates = given or (None, None)
    return sequence_terms(
        module,
        x,
        lengths,
        start,
        noise=noise.to(next(module.parameters())),
        observed=observed,
        covariates=covariates,
    )


class _Found:
    """The scores of the batches of one process, and after merging those of all processes."""

    def __init__(self, sequences: int, frames: int, latents: int) -> None:
        # Zero for the sequences of other processes, so that sums combine them.
        self.log_likelihood = np.zeros(sequences)
        self.kl = np.zeros(sequences)
        self.units = _Variance(latents)
        self.sample = FrameSample(frames)

    def add(
        self,
        part: slice,
        first_frame: int,
        log_likelihood: np.ndarray,
        kl: np.ndarray,
        posterior_means: np.ndarray,
        *of_first_path: np.ndarray,
    ) -> None:
        self.log_likelihood[part], self.kl[part] = log_likelihood, kl
        self.units.add(posterior_means)
        self.sample.add(first_frame, *of_first_path)

    def merge(self, other: _Found) -> None:
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
