"""Scores of a model on held-out sequences by name, as commands and reports show them."""

from __future__ import annotations

import math

import numpy as np
import torch

from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.evaluation import (
    Evaluation,
    FilterEvaluation,
    ImportanceEvaluation,
    largest_per_frame,
    perplexity,
)
from zpyro.evaluation.baselines.files import NAMES, fit
from zpyro.evaluation.elbo import TRIMMED
from zpyro.likelihoods import Likelihood
from zpyro.training.runs import Run

Scores = dict[str, float | int | None]
"""Numbers by name; None for what does not apply to the data or is not finite."""

LABELS = {
    "elbo": ("evidence lower bound (ELBO)", "nats/sequence"),
    "elbo_stderr": ("  its standard error", "nats/sequence"),
    "elbo_median": ("  median", "nats/sequence"),
    "elbo_trimmed": (
        f"  mean without the lowest and highest {TRIMMED:.0%}",
        "nats/sequence",
    ),
    "elbo_trimmed_stderr": ("  its standard error", "nats/sequence"),
    "elbo_per_frame": ("  per frame", "nats/frame"),
    "elbo_per_frame_stderr": ("  its standard error", "nats/frame"),
    "log_likelihood": ("log-likelihood", "nats/sequence"),
    "kl": ("KL of posterior from prior", "nats/sequence"),
    "bits_per_sample": ("bits per sample", "bits, from the bound"),
    "perplexity": ("perplexity", "a token, from the bound, ends included"),
    "iwae": ("importance-weighted bound", "nats/sequence"),
    "iwae_stderr": ("  its standard error", "nats/sequence"),
    "iwae_per_frame": ("  per frame", "nats/frame"),
    "iwae_per_frame_stderr": ("  its standard error", "nats/frame"),
    "smc": ("particle-filter bound", "nats/sequence"),
    "smc_stderr": ("  its standard error", "nats/sequence"),
    "smc_per_frame": ("  per frame", "nats/frame"),
    "smc_per_frame_stderr": ("  its standard error", "nats/frame"),
    "stderr": ("  of it from sampling", "nats/sequence"),
    "bound_perplexity": ("  its perplexity", "a token"),
    "particles": ("  paths a sequence", ""),
    "ess": ("  effective paths", ""),
    "best_per_frame": ("largest of the three bounds, per frame", "nats/frame"),
    "best_per_frame_stderr": ("  its standard error", "nats/frame"),
    "active_units": ("latents in use", ""),
    "mutual_information": ("information between latents and frames", "nats/frame"),
    "sequences": ("sequences", ""),
    "frames": ("frames", ""),
    "baseline_gaussian": ("baseline: diagonal Gaussian", "nats/sequence"),
    "baseline_gaussian_per_frame": ("  per frame", "nats/frame"),
    "baseline_linear": ("baseline: linear predictor", "nats/sequence"),
    "baseline_linear_per_frame": ("  per frame", "nats/frame"),
    "baseline_trigram": ("baseline: Kneser-Ney trigram", "nats/sequence"),
    "baseline_trigram_per_frame": ("  per frame", "nats/frame"),
    "baseline_trigram_perplexity": ("  its perplexity", "a token, on the same tokens"),
    "baseline_bernoulli": ("baseline: independent pixels or notes", "nats/sequence"),
    "baseline_bernoulli_per_frame": ("  per frame", "nats/frame"),
    "baseline_markov": (
        "baseline: each given the pixel above, or the same note a frame before",
        "nats/sequence",
    ),
    "baseline_markov_per_frame": ("  per frame", "nats/frame"),
    "baseline_neighbors": (
        "baseline: each given the pixels left and above, or that note and the next lower one",
        "nats/sequence",
    ),
    "baseline_neighbors_per_frame": ("  per frame", "nats/frame"),
}
"""Label and unit of each score of any data; an indented label belongs to the score above it.
:func:`labels_for` has the words of one kind of data."""

_BINARY_WORDS = {
    "image": (
        "independent pixels",
        "each pixel given the one above",
        "each pixel given those left and above",
    ),
    "music": (
        "independent notes",
        "each note given the same one a frame before",
        "each note given the same one a frame before and the next lower one",
    ),
    "other": (
        "independent dimensions",
        "each dimension given its value a frame before",
        "each dimension given its value a frame before and the dimension before it",
    ),
}
"""What the baselines ``bernoulli``, ``markov`` and ``neighbors`` are, in words of the data."""

ELBO_KEYS = (
    "elbo",
    "elbo_stderr",
    "elbo_median",
    "elbo_trimmed",
    "elbo_trimmed_stderr",
    "elbo_per_frame",
    "elbo_per_frame_stderr",
    "kl",
    "log_likelihood",
    "active_units",
    "mutual_information",
    "sequences",
    "frames",
)


def labels_for(sequences: Sequences) -> dict[str, tuple[str, str]]:
    """Label and unit of each score, as in :data:`LABELS`, in words of the data.

    Example:
        >>> roll = np.zeros((4, 88), np.uint8)
        >>> pieces = Sequences((roll,), ("waltz",), data_type="binary", steps_per_quarter=4)
        >>> labels_for(pieces)["baseline_markov"]
        ('baseline: each note given the same one a frame before', 'nats/sequence')
    """
    kind = "image" if sequences.image_shape is not None else "other"
    kind = "music" if sequences.steps_per_quarter is not None else kind
    names = ("bernoulli", "markov", "neighbors")
    words = zip(names, _BINARY_WORDS[kind], strict=True)
    changed = {f"baseline_{name}": (f"baseline: {each}", "nats/sequence") for name, each in words}
    return {**LABELS, **changed}


def elbo_scores(result: Evaluation, sequences: Sequences) -> Scores:
    """The evidence lower bound and its parts."""
    values: Scores = {key: getattr(result, key) for key in ELBO_KEYS}
    values["bits_per_sample"] = result.bits_per_sample
    values["perplexity"] = result.perplexity if sequences.data_type == "tokens" else None
    return _finite(values)


def bound_scores(
    bound: str, result: ImportanceEvaluation | FilterEvaluation, sequences: Sequences
) -> Scores:
    """A bound of several paths, "iwae" or "smc"."""
    nats = float(getattr(result, bound))
    tokens = sequences.num_frames if sequences.data_type == "tokens" else 0
    values: Scores = {
        bound: nats,
        f"{bound}_stderr": result.stderr,
        f"{bound}_per_frame": getattr(result, f"{bound}_per_frame"),
        f"{bound}_per_frame_stderr": getattr(result, f"{bound}_per_frame_stderr"),
        "particles": result.particles,
        "stderr": result.monte_carlo_stderr,
        "ess": result.effective_paths,
        "bound_perplexity": perplexity(nats * len(sequences), tokens) if tokens else None,
    }
    return _finite(values)


def largest_scores(
    elbo: Evaluation, iwae: ImportanceEvaluation, smc: FilterEvaluation, sequences: Sequences
) -> Scores:
    """Both bounds of several paths, and the largest of three bounds per frame."""
    values = bound_scores("iwae", iwae, sequences) | bound_scores("smc", smc, sequences)
    # These are of one bound.
    del values["stderr"], values["ess"]
    largest = largest_per_frame(elbo, iwae, smc)
    tokens = sequences.data_type == "tokens"
    values["best_per_frame"] = largest.nats
    values["best_per_frame_stderr"] = largest.stderr
    values["bound_perplexity"] = perplexity(largest.nats, 1) if tokens else None
    return _finite(values)


def _finite(values: Scores) -> Scores:
    return {k: v if v is None or math.isfinite(v) else None for k, v in values.items()}


def baseline_scores(values: dict[str, np.ndarray], sequences: Sequences) -> Scores:
    """The mean score of each baseline, a sequence and a frame; see :func:`score_baselines`."""
    scores: Scores = {}
    for name in NAMES:
        nats = values.get(name)
        scores[f"baseline_{name}"] = None if nats is None else float(nats.mean())
        scores[f"baseline_{name}_per_frame"] = (
            None if nats is None else float(nats.sum()) / sequences.num_frames
        )
    trigram = values.get("trigram")
    scores["baseline_trigram_perplexity"] = (
        None if trigram is None else perplexity(float(trigram.sum()), sequences.num_frames)
    )
    return scores


def describe_baselines(dataset: Dataset) -> list[tuple[str, str]]:
    """What baselines fitted to train score per frame on valid and test, as (property, value) rows.

    Only of piano rolls, whose papers report them.
    """
    if dataset.train.steps_per_quarter is None:
        return []
    fitted = fit(dataset.train, dataset.frame_size)
    rows: list[tuple[str, str]] = []
    for name, label in (("bernoulli", "independent notes"), ("markov", "a Markov chain a note")):
        nats = {
            split: float(fitted[name].score(dataset.split(split)).sum())
            / dataset.split(split).num_frames
            for split in ("valid", "test")
        }
        shown = ", ".join(f"{split} {value:.2f}" for split, value in nats.items())
        rows.append((f"baseline: {label}", f"{shown} nats/frame"))
    return rows


def score_baselines(
    run: Run, likelihood: Likelihood, sequences: Sequences
) -> dict[str, np.ndarray]:
    """The score of each sequence, (N,) nats, by simple models fitted to the training data of a run.

    Beside a discretized likelihood, densities are multiplied by the widths of the bins, so that
    all scores are log-probabilities of samples.

    Args:
        run: the run, which holds the fitted baselines.
        likelihood: of the run's model.
        sequences: on the scale of the run's model.
    """
    baselines = run.baselines(sequences, likelihood.size)
    widths = _log_bin_widths(likelihood, sequences) if likelihood.discretized else 0.0
    return {
        name: np.asarray(baseline.score(sequences)) + widths for name, baseline in baselines.items()
    }


def _log_bin_widths(likelihood: Likelihood, sequences: Sequences) -> np.ndarray:
    """Logarithms of the bins' widths, summed over the observed samples of each sequence, (N,)."""
    sums: list[float] = []
    for number, value in enumerate(sequences.values):
        widths = likelihood.log_bin_widths(torch.from_numpy(np.asarray(value, np.float64)))
        known = 1.0 if sequences.observed is None else sequences.observed[number]
        sums.append(float((widths.numpy() * known).sum()))
    return np.array(sums)
