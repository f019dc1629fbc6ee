"""What there is to see of one sequence: its frames, terms, latents and reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zpyro.analysis.decoding import decode, reconstruct
from zpyro.analysis.posteriors import posterior
from zpyro.analysis.report.own_guide_paths import GAUSSIANS, gaussian_kl, own_guide_paths
from zpyro.analysis.sampling import raw
from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.evaluation import in_type_of, named_terms
from zpyro.models import SequenceModel
from zpyro.training.checkpoint import Checkpoint

Array = NDArray[Any]

LATENTS_ALONE = "latents alone"

LATENT_ARRAYS = ("z", "prior_loc", "prior_scale", "posterior_loc", "posterior_scale")

MOST_STEPS = 2_000
"""Longer sequences are cut: a picture shows no more, and memory stays bounded."""

MOST_TOKENS = 480
"""The same for tokens, each of which is written out."""


@dataclass(frozen=True, eq=False)
class SequenceView:
    """One sequence as the model sees it. T steps, S draws from the posterior, Z latents; nats.

    Attributes:
        name: of the sequence.
        number: its place in the split, from 0.
        data_type: "audio", "frames", "binary" or "tokens".
        frames: on the scale of the raw data, (T, D), or tokens (T,).
        reconstruction: the expected frame given a path of latents drawn from the posterior and the
            frames before it, like ``frames``; of tokens the most probable one.
        from_latents: the expected frames when the model runs freely along the first draw of the
            latents, fed its own expected frames in place of the true ones; None without latents.
        log_likelihood: log p(x_t | h_t), mean over draws, (T,).
        kl: KL(q_t || p_t), mean over draws, (T,).
        z: draws from the posterior, (S, T, Z).
        prior_loc: prior mean along each draw, (S, T, Z).
        prior_scale: prior standard deviation, (S, T, Z).
        posterior_loc: posterior mean along each draw, (S, T, Z).
        posterior_scale: posterior standard deviation, (S, T, Z).
        whole_length: steps of the whole sequence; more than T where it was cut.
        words: of the tokens, or None.
        reconstructed_words: of the reconstruction, or None.
        words_from_latents: of ``from_latents``, or None.
        sample_rate: samples a second of audio, else None.
        image_shape: rows and columns where the sequence is a picture, else None.
        unit: what a token is: "word", "character", or "token" where there is no vocabulary.
        note: what else to say of it, such as where a user's own posterior was read.
    """

    name: str
    number: int
    data_type: str
    frames: Array
    reconstruction: Array
    from_latents: Array | None
    log_likelihood: Array
    kl: Array
    z: Array
    prior_loc: Array
    prior_scale: Array
    posterior_loc: Array
    posterior_scale: Array
    whole_length: int
    words: tuple[str, ...] | None = None
    reconstructed_words: tuple[str, ...] | None = None
    words_from_latents: tuple[str, ...] | None = None
    sample_rate: int | None = None
    image_shape: tuple[int, int] | None = None
    unit: str = "token"
    note: str = ""

    @property
    def steps(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def has_latents(self) -> bool:
        """Whether the model has latents at all."""
        return self.z.shape[-1] > 0

    @property
    def answer_name(self) -> str:
        """What ``reconstruction`` is: without latents it is but a prediction."""
        return "reconstruction" if self.has_latents else "prediction"

    @property
    def answers(self) -> list[tuple[str, Array]]:
        """What the model makes of the sequence, by name, each like ``frames``."""
        found = [(self.answer_name, self.reconstruction)]
        return found if self.from_latents is None else [*found, (LATENTS_ALONE, self.from_latents)]

    @property
    def step_name(self) -> str:
        """What one step is: frame, row, pixel, word, character or token."""
        if self.data_type == "tokens":
            return self.unit
        if self.image_shape is None:
            return "frame"
        return "pixel" if self.frames.shape[1] == 1 else "row"

    @property
    def edges(self) -> Array:
        """Where steps begin and the last one ends, (T + 1,): seconds of audio, else 0.5, 1.5, .."""
        if self.sample_rate is None:
            return np.arange(self.steps + 1) + 0.5
        return np.arange(self.steps + 1) * self.frames.shape[1] / self.sample_rate

    @property
    def time_label(self) -> str:
        """What :attr:`edges` are, with their unit."""
        return "time, s" if self.sample_rate is not None else self.step_name

    @property
    def kl_by_latent(self) -> Array:
        """KL of each latent at each step, mean over draws, nats, (T, Z); its sum over Z is kl."""
        given = (getattr(self, name) for name in GAUSSIANS)
        return gaussian_kl(*given).mean(0)

    @property
    def order(self) -> Array:
        """Latents, those with the most KL first, (Z,)."""
        return np.argsort(-self.kl_by_latent.sum(0), kind="stable")


def view(
    checkpoint: Checkpoint, sequences: Sequences, number: int, *, draws: int = 8, seed: int = 0
) -> SequenceView:
    """Everything to see of one sequence.

    Args:
        checkpoint: the model and what it knows of its data.
        sequences: on the scale that the model was trained on.
        number: which of them.
        draws: S, paths of latents drawn from the posterior.
        seed: of the draws.
    """
    one = sequences[[number]]
    batch = one.batch()
    whole = batch.x.shape[1]
    steps = min(whole, MOST_TOKENS if one.data_type == "tokens" else MOST_STEPS)
    batch = replace(batch, x=batch.x[:, :steps], lengths=batch.lengths.clamp(max=steps))
    paths, note = _paths(checkpoint.module, batch, draws, seed)
    frames = raw(checkpoint, batch.x[0].numpy())
    reconstruction = _expected(checkpoint, batch, seed)
    from_latents = _from_latents(checkpoint, batch, paths["z"][0], seed)
    return SequenceView(
        name=str(one.names[0]),
        number=number,
        data_type=one.data_type,
        frames=frames,
        reconstruction=reconstruction,
        from_latents=from_latents,
        log_likelihood=paths["log_likelihood"].mean(0),
        kl=paths["kl"].mean(0),
        **{name: paths[name] for name in LATENT_ARRAYS},
        whole_length=whole,
        words=_words(checkpoint.vocabulary, frames),
        reconstructed_words=_words(checkpoint.vocabulary, reconstruction),
        words_from_latents=_words(checkpoint.vocabulary, from_latents),
        sample_rate=one.sample_rate,
        image_shape=one.image_shape if steps == whole else None,
        unit="token" if checkpoint.vocabulary is None else checkpoint.vocabulary.unit,
        note=note,
    )


def _paths(
    module: SequenceModel, batch: Batch, draws: int, seed: int
) -> tuple[dict[str, Array], str]:
    """Latents and terms of S paths drawn from the posterior, (S, T, Z) and (S, T), and a note."""
    if module.custom_guide is not None:
        return own_guide_paths(module, batch, draws, seed)
    names = (*LATENT_ARRAYS, "log_likelihood", "kl")
    if module.latent_size:
        arrays = posterior(module, batch, draws, seed=seed).arrays
        return {name: arrays[name][0] for name in names}, ""
    with torch.no_grad():
        terms = named_terms(module, batch, seed, 0)
    none = terms.z.cpu().numpy()
    found = {"log_likelihood": terms.log_likelihood, "kl": terms.kl}
    arrays = {name: values.cpu().numpy() for name, values in found.items()}
    return dict.fromkeys(LATENT_ARRAYS, none) | arrays, ""


def _expected(checkpoint: Checkpoint, batch: Batch, seed: int) -> Array:
    """The expected frames (T, D), each given the first draw of the latents and those before it."""
    module = checkpoint.module
    if module.latent_size:
        mean = reconstruct(module, batch, seed=seed).mean[0, 0]
    else:
        like = next(module.parameters())
        moved = batch.to(like.device)
        start = None if moved.start is None else in_type_of(moved.start, like)
        with torch.no_grad():
            process = module.bind(in_type_of(moved.x, like), moved.lengths, start)
            hidden = process.trajectory(process.empty_latents()).features
            mean = module.likelihood.mean(module.emission(hidden))[:, 0, 0]
    return raw(checkpoint, mean.cpu().numpy())


def _from_latents(checkpoint: Checkpoint, batch: Batch, z: Array, seed: int) -> Array | None:
    """The expected frames (T, D) of a model that runs freely along latents (T, Z)."""
    if z.shape[-1] == 0:
        return None
    latents = torch.from_numpy(z).unsqueeze(0)
    decoded = decode(checkpoint.module, latents, start=batch.start, seed=seed, use_mean=True)
    return raw(checkpoint, decoded.mean[0].cpu().numpy())


def _words(vocabulary: Vocabulary | None, tokens: Array | None) -> tuple[str, ...] | None:
    if vocabulary is None or tokens is None:
        return None
    return tuple(vocabulary.words[int(token)] for token in tokens)
