"""New sequences from a checkpoint, on the scale of the raw data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zpyro.analysis import selection as choosing
from zpyro.distributed.seeding import seed_everything
from zpyro.evaluation import in_type_of
from zpyro.training.checkpoint import Checkpoint


def draw(
    checkpoint: Checkpoint,
    count: int,
    steps: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    prefix: np.ndarray | None = None,
) -> np.ndarray:
    """Sequences from the prior, or such as continue a prefix.

    Prior samples begin after a start frame of the training data, each a random one of those that
    the checkpoint holds; audio so begins as a recording does.

    Args:
        checkpoint: the model and what it knows of its data.
        count: N, how many.
        steps: T, how many frames each.
        seed: of the draws.
        temperature: factor on the standard deviations (logits are divided by it).
        prefix: raw frames (P, D) or tokens (P,) that all of them continue. Where the data have
            start frames, the first one of the prefix is it.

    Returns:
        Raw frames (N, T, D), or tokens (N, T); the prefix is not among them.

    Raises:
        UserError: if the prefix is empty or of another kind or shape.
    """
    module = checkpoint.module
    like = next(module.parameters())
    seed_everything(seed)
    if prefix is None:
        start, given = _training_starts(checkpoint, count, seed), None
    else:
        start, given = _split_prefix(checkpoint, prefix, count)
    frames = module.generate(
        steps,
        num_sequences=count,
        start=None if start is None else in_type_of(start.to(like.device), like),
        prefix=None if given is None else in_type_of(given.to(like.device), like),
        temperature=temperature,
    )
    return raw(checkpoint, frames.cpu().numpy())


def raw(checkpoint: Checkpoint, frames: np.ndarray) -> np.ndarray:
    """Normalized frames on the scale of the raw data; tokens and bits stay as they are."""
    if checkpoint.data.data_type in ("tokens", "binary"):
        return frames
    return frames * checkpoint.data.scale + checkpoint.data.mean


def _training_starts(checkpoint: Checkpoint, count: int, seed: int) -> Tensor | None:
    if checkpoint.start is None:
        return None
    chosen = np.random.default_rng(seed).integers(len(checkpoint.start), size=count)
    return checkpoint.start[torch.from_numpy(chosen)]


def _split_prefix(
    checkpoint: Checkpoint, prefix: np.ndarray, count: int
) -> tuple[Tensor | None, Tensor | None]:
    """Start frames and further frames, both normalized and the same for every sequence."""
    choosing.check_frames(checkpoint, prefix, "the prefix")
    data = checkpoint.data
    plain = data.data_type in ("tokens", "binary")
    values = prefix if plain else (prefix - data.mean) / data.scale
    frames = torch.from_numpy(
        np.ascontiguousarray(values, np.int64 if data.data_type == "tokens" else np.float32)
    )
    frames = frames.unsqueeze(0).repeat(count, *(1,) * frames.dim())
    if checkpoint.start is None:
        return None, frames
    return frames[:, 0], frames[:, 1:] if frames.shape[1] > 1 else None
