"""New sequences from a trained model, on the scale of the raw data."""

from __future__ import annotations

import numpy as np
import torch

from zpyro.analysis.selection import check_frames, denormalize, normalize
from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError, pluralize
from zpyro.models.guides import to_model
from zpyro.training.checkpoint import Checkpoint


def sample(
    checkpoint: Checkpoint,
    count: int,
    steps: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    output_noise: float = 1.0,
    prefix: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
) -> np.ndarray:
    """Sample sequences from the prior, or continue a prefix.

    Sequences from the prior begin after a start frame of the training data, chosen at random among
    those that the checkpoint holds; audio therefore begins as a recording does.

    Args:
        checkpoint: the model, with the scale and vocabulary of its data.
        count: N, the number of sequences.
        steps: T, frames of each.
        seed: of the samples.
        temperature: factor on standard deviations; logits are divided by it.
        output_noise: see :meth:`zpyro.models.SequenceModel.generate`.
        prefix: raw frames (P, D), NaN where missing, or tokens (P,) that every sequence continues.
            If the data have start frames, its first frame is used as one.
        covariates: raw ones of every frame, of the prefix and the new ones, (P + T, C), for all
            sequences alike; for a model with covariates. A start frame has none.

    Returns:
        Raw frames (N, T, D) or tokens (N, T), without the prefix.

    Raises:
        UserError: if the prefix is empty or does not suit the model, if there are too few or no
            covariates for a model that reads them, or for an ``output_noise`` and
            a likelihood of bits or tokens.
    """
    module, start, given = checkpoint.model, checkpoint.start, None
    seed_everything(seed)
    if prefix is not None:
        check_frames(checkpoint, prefix, "the prefix")
        frames = torch.from_numpy(np.ascontiguousarray(normalize(checkpoint, prefix)))
        given = frames.unsqueeze(0).repeat(count, *(1,) * frames.dim())
        if start is not None:
            start, given = given[:, 0], given[:, 1:] if given.shape[1] > 1 else None
    elif start is not None:
        chosen = np.random.default_rng(seed).integers(len(start), size=count)
        start = start[torch.from_numpy(chosen)]
    observed = None
    if given is not None and bool(given.isnan().any()):
        observed = ~given.isnan()
        given = given.where(observed, 0.0)
    known = _covariates(checkpoint, covariates, steps + (0 if given is None else given.shape[1]))
    generated = module.generate(
        steps,
        num_sequences=count,
        start=None if start is None else to_model(module, start),
        prefix=None if given is None else to_model(module, given),
        temperature=temperature,
        output_noise=output_noise,
        observed=observed,
        covariates=None if known is None else to_model(module, known.repeat(count, 1, 1)),
    )
    return denormalize(checkpoint, generated.cpu().numpy())


def _covariates(
    checkpoint: Checkpoint, covariates: np.ndarray | None, steps: int
) -> torch.Tensor | None:
    """Covariates of so many frames on the scale of the model, (1, steps, C)."""
    size = checkpoint.model.covariate_size
    if covariates is None and not size:
        return None
    if covariates is None or covariates.shape != (steps, size):
        has = "none" if covariates is None else f"those of shape {covariates.shape}"
        raise UserError(
            f"the model reads {pluralize(size, 'covariate')} a frame, but has {has}; give those of"
            f" all {pluralize(steps, 'frame')}, prefix included, of shape {(steps, size)}"
            " (--covariates)"
        )
    known = checkpoint.data.normalization.apply_to_covariates(covariates)
    return torch.from_numpy(np.ascontiguousarray(known)).unsqueeze(0)
