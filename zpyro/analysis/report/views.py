"""The content of a report on one sequence: its frames, terms, latents and reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zpyro.analysis.decoding import decode, reconstruct
from zpyro.analysis.posteriors import posterior
from zpyro.analysis.selection import denormalize
from zpyro.analysis.sounds import has_sound
from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError
from zpyro.evaluation import named_terms
from zpyro.evaluation.custom_guides import sample_trace
from zpyro.models import SequenceModel
from zpyro.models.guides import latents_in, model_inputs
from zpyro.models.sites import sample_sites
from zpyro.training.checkpoint import Checkpoint, DataSpec

Array = NDArray[Any]

MAX_STEPS = 2_000
"""Longer sequences are cut, so that pictures stay readable and memory bounded."""
MAX_TOKENS = 480
"""The same for tokens, each of which is written out."""

GAUSSIANS = ("posterior_loc", "posterior_scale", "prior_loc", "prior_scale")
PATH_ARRAYS = ("z", *GAUSSIANS, "log_likelihood", "kl")

FROM_DISTRIBUTIONS = (
    "The posterior is that of the run's custom guide: means and standard deviations are those of "
    "its distributions, and the KL per step is that of Gaussians with them. The table of bounds "
    "uses the densities of the guide."
)
FROM_SAMPLES = (
    "The posterior is that of the run's custom guide, whose distributions have no known means: "
    "means and standard deviations are those of the samples, and the KL per step is that of "
    "Gaussians with them. The table of bounds uses the densities of the guide."
)


@dataclass(frozen=True, eq=False)
class SequenceView:
    """One sequence as the model sees it: T steps, S posterior samples, Z latents; nats.

    Attributes:
        name: of the sequence.
        number: its index in the split, from 0.
        data_type: "audio", "frames", "binary" or "tokens".
        frames: on the scale of the raw data, (T, D), or tokens (T,).
        reconstruction: the mean frame given a posterior sample of the latents and the frames
            before it, like ``frames``; of tokens the most probable one.
        from_latents: the mean frames when the model is fed its own mean frames along the first
            posterior sample; None without latents.
        log_likelihood: log p(x_t | h_t), mean over samples, (T,).
        kl: KL(q_t || p_t), mean over samples, (T,).
        z: posterior samples, (S, T, Z).
        prior_loc: prior mean along each sample, (S, T, Z).
        prior_scale: prior standard deviation, (S, T, Z).
        posterior_loc: posterior mean along each sample, (S, T, Z).
        posterior_scale: posterior standard deviation, (S, T, Z).
        whole_length: steps of the whole sequence; more than T if it was cut.
        vocabulary: the words behind the tokens, or None.
        sample_rate: samples per second of audio, else None.
        image_shape: rows and columns if the sequence is an image, else None.
        sound: what the frames are, where they can be heard, else None.
        note: further information for the reader, such as the source of a custom posterior.
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
    vocabulary: Vocabulary | None = None
    sample_rate: int | None = None
    image_shape: tuple[int, int] | None = None
    sound: DataSpec | None = None
    note: str = ""

    @property
    def is_roll(self) -> bool:
        """Whether the frames are the 88 keys of a piano."""
        return self.sound is not None and self.sound.steps_per_quarter is not None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def has_latents(self) -> bool:
        """Whether the model has latents."""
        return self.z.shape[-1] > 0

    @property
    def output_name(self) -> str:
        """The name of ``reconstruction``; without latents it is a prediction."""
        return "reconstruction" if self.has_latents else "prediction"

    @property
    def outputs(self) -> list[tuple[str, Array]]:
        """The outputs of the model by name, each like ``frames``."""
        found = [(self.output_name, self.reconstruction)]
        return (
            found if self.from_latents is None else [*found, ("latents alone", self.from_latents)]
        )

    @property
    def unit(self) -> str:
        """The name of a token: "word", "character", or "token" without a vocabulary."""
        return "token" if self.vocabulary is None else self.vocabulary.unit

    def words(self, tokens: Array) -> tuple[str, ...]:
        """Tokens (T,) as texts."""
        if self.vocabulary is None:
            return tuple(str(int(token)) for token in tokens)
        return tuple(self.vocabulary.words[int(token)] for token in tokens)

    @property
    def step_name(self) -> str:
        """The name of one step: frame, row, pixel, word, character or token."""
        if self.data_type == "tokens":
            return self.unit
        if self.image_shape is None:
            return "frame"
        return "pixel" if self.frames.shape[1] == 1 else "row"

    @property
    def edges(self) -> Array:
        """The borders of the steps, (T + 1,): seconds of audio, else 0.5, 1.5, ..."""
        if self.sample_rate is None:
            return np.arange(self.steps + 1) + 0.5
        return np.arange(self.steps + 1) * self.frames.shape[1] / self.sample_rate

    @property
    def time_label(self) -> str:
        """The label of an axis of :attr:`edges`."""
        return "time, s" if self.sample_rate is not None else self.step_name

    @property
    def kl_by_latent(self) -> Array:
        """KL of each latent at each step, mean over samples, (T, Z); its sum over Z is ``kl``."""
        return gaussian_kl(*(getattr(self, name) for name in GAUSSIANS)).mean(0)

    @property
    def order(self) -> Array:
        """Indices of the latents by falling KL, (Z,)."""
        return np.argsort(-self.kl_by_latent.sum(0), kind="stable")


def view_sequence(
    checkpoint: Checkpoint, sequences: Sequences, number: int, *, num_samples: int = 8,
    seed: int = 0,
) -> SequenceView:  # fmt: skip
    """Compute everything that a report shows of one sequence.

    Args:
        checkpoint: the model, with the scale and vocabulary of its data.
        sequences: on the scale of the model.
        number: index of the sequence.
        num_samples: S, posterior samples.
        seed: of the samples.
    """
    model = checkpoint.model
    one = sequences[[number]]
    batch = one.batch()
    whole = batch.x.shape[1]
    steps = min(whole, MAX_TOKENS if one.data_type == "tokens" else MAX_STEPS)
    observed, covariates = (
        None if part is None else part[:, :steps] for part in (batch.observed, batch.covariates)
    )
    batch = replace(
        batch,
        x=batch.x[:, :steps],
        lengths=batch.lengths.clamp(max=steps),
        observed=observed,
        covariates=covariates,
    )
    paths, note = _paths(model, batch, num_samples, seed)
    from_latents = None
    if model.latent_size:
        mean = reconstruct(model, batch, seed=seed).mean[0, 0]
        z = torch.from_numpy(paths["z"][:1])
        decoded = decode(
            model, z, start=batch.start, seed=seed, use_mean=True, covariates=covariates
        )
        from_latents = denormalize(checkpoint, decoded.mean[0].cpu().numpy())
    else:
        with torch.no_grad():
            bound = model.bind(*model_inputs(model, batch))
            hidden = bound.trajectory(bound.empty_latents()).features
            mean = model.likelihood.mean(model.emission(hidden))[:, 0, 0]
    return SequenceView(
        name=str(one.names[0]),
        number=number,
        data_type=one.data_type,
        frames=denormalize(checkpoint, batch.x[0].numpy()),
        reconstruction=denormalize(checkpoint, mean.cpu().numpy()),
        from_latents=from_latents,
        log_likelihood=paths.pop("log_likelihood").mean(0),
        kl=paths.pop("kl").mean(0),
        **paths,
        whole_length=whole,
        vocabulary=checkpoint.vocabulary,
        sample_rate=one.sample_rate,
        image_shape=one.image_shape if steps == whole else None,
        sound=checkpoint.data if has_sound(checkpoint.data) else None,
        note=note,
    )


def _paths(
    model: SequenceModel, batch: Batch, num_samples: int, seed: int
) -> tuple[dict[str, Array], str]:
    """Latents (S, T, Z) and terms (S, T) of S posterior samples by name, and a note."""
    if model.custom_guide is not None:
        return custom_guide_paths(model, batch, num_samples, seed)
    if model.latent_size:
        arrays = posterior(model, batch, num_samples, seed=seed).arrays
        return {name: arrays[name][0] for name in PATH_ARRAYS}, ""
    with torch.no_grad():
        terms = named_terms(model, batch, seed, 0)
    arrays = dict.fromkeys(PATH_ARRAYS, terms.z.cpu().numpy())
    arrays["log_likelihood"] = terms.log_likelihood.cpu().numpy()
    return arrays | {"kl": terms.kl.cpu().numpy()}, ""


def gaussian_kl(loc: Array, scale: Array, prior_loc: Array, prior_scale: Array) -> Array:
    """KL of Gaussians from Gaussians, elementwise, nats."""
    ratio, shift = scale / prior_scale, (loc - prior_loc) / prior_scale
    with np.errstate(divide="ignore"):
        return 0.5 * (ratio**2 + shift**2 - 1.0) - np.log(ratio)


def custom_guide_paths(
    model: SequenceModel, batch: Batch, num_samples: int, seed: int
) -> tuple[dict[str, Array], str]:
    """Latents and terms of S samples from a model's custom guide for a batch of one sequence.

    Returns:
        The arrays :data:`PATH_ARRAYS`, latents (S, T, Z) and terms (S, T), nats; and a note on the
        source of the posterior's means and standard deviations.

    Raises:
        UserError: for a single sample of a guide whose distributions have no known means.
    """
    paths = [_custom_guide_path(model, batch, number, seed) for number in range(num_samples)]
    known = all("posterior_loc" in path for path in paths)
    arrays = {
        name: torch.cat([path[name] for path in paths]).cpu().double().numpy()
        for name in paths[0]
        if known or not name.startswith("posterior_")
    }
    if not known:
        if num_samples == 1:
            raise UserError(
                "one sample cannot describe a guide whose distributions have no known means; "
                "give more --draws"
            )
        z = arrays["z"]
        arrays["posterior_loc"] = np.broadcast_to(z.mean(0), z.shape)
        arrays["posterior_scale"] = np.broadcast_to(z.std(0, ddof=1), z.shape)
    arrays["kl"] = gaussian_kl(*(arrays[name] for name in GAUSSIANS)).sum(-1)
    return arrays, FROM_DISTRIBUTIONS if known else FROM_SAMPLES


@torch.no_grad()
def _custom_guide_path(
    model: SequenceModel, batch: Batch, number: int, seed: int
) -> dict[str, Tensor]:
    trace, arguments = sample_trace(model, batch, seed, number)
    z = latents_in(sample_sites(trace), torch.Size((*batch.x.shape[:2], model.latent_size)))
    program, _ = model.program("sequence")
    conditioned = poutine.condition(program, data={"z": z})  # pyright: ignore[reportArgumentType]
    sites = sample_sites(poutine.trace(conditioned).get_trace(*arguments))
    prior, observed = sites["z"]["fn"], sites["x"]
    mean, log_variance = (prior.bound.batch_major(each) for each in prior.parameters(z))
    return {
        "z": z,
        "prior_loc": mean,
        "prior_scale": (0.5 * log_variance).exp(),
        "log_likelihood": observed["fn"].step_log_prob(observed["value"]),
        **_moments(trace, z),
    }


def _moments(trace: Trace, z: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation (1, T, Z) of the guide's distributions, if they are known."""
    sites = sample_sites(trace)
    stepwise = "z" not in sites
    named = [sites[f"z_{t}"] for t in range(1, z.shape[1] + 1)] if stepwise else [sites["z"]]
    try:
        found = [(site["fn"].mean, site["fn"].variance.sqrt()) for site in named]
    except NotImplementedError:
        return {}
    loc, scale = (
        torch.stack(parts, dim=1) if stepwise else parts[0] for parts in zip(*found, strict=True)
    )
    return {"posterior_loc": loc.expand_as(z), "posterior_scale": scale.expand_as(z)}
