"""The checked arguments of one call of a model or guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zpyro.likelihoods import Likelihood


@dataclass(frozen=True, eq=False)
class Conditions:
    """The checked arguments of one call of a model or guide.

    Attributes:
        x: frames (B, T, D) or tokens (B, T), zeros beyond the lengths; None to generate.
        mask: (B, T), True up to each length; None where every sequence has T steps.
        start: x_0, (B, D) or (B,).
        steps: T.
        source: the caller's own x, lengths and start, which identify the batch.
    """

    x: Tensor | None
    mask: Tensor | None
    start: Tensor
    steps: int
    source: tuple[Any, ...]


def conditions_of(
    likelihood: Likelihood,
    like: Tensor,
    x: Tensor | None,
    lengths: Tensor | int | None,
    start: Tensor | None,
) -> Conditions:
    """Check the arguments of a model or guide and set padding to zero.

    Args:
        likelihood: gives the shape of a frame.
        like: a parameter, for the type and device of default start frames.
        x: frames (B, T, D) or tokens (B, T), or None to generate.
        lengths: (B,), or an int for all, or None for T.
        start: x_0, (B, D) or (B,), or None for the likelihood's default.

    Raises:
        ValueError: if shapes do not fit each other or the likelihood, a length lies outside 0..T,
            or neither x nor lengths is given.
    """
    event = tuple(likelihood.event_shape)
    if x is not None and (x.dim() != 2 + len(event) or tuple(x.shape[2:]) != event):
        wanted = ", ".join(["B", "T", *map(str, event)])
        raise ValueError(f"x has shape {tuple(x.shape)}; this likelihood needs ({wanted})")
    if x is None and lengths is None:
        raise ValueError("give x, or lengths to generate")
    count = _count(x, lengths, start)
    first = likelihood.start(count, like) if start is None else start
    if tuple(first.shape) != (count, *event):
        raise ValueError(f"start has shape {tuple(first.shape)}; it must be {(count, *event)}")
    steps, mask = _steps_and_mask(x, lengths, count)
    frames = None if x is None else zero_padding(x, mask, len(event))
    return Conditions(frames, mask, first, steps, (x, lengths, start))


def zero_padding(values: Tensor, mask: Tensor | None, event_dims: int) -> Tensor:
    """(..., B, T) + event shape, exactly zero (also for NaN) where ``mask`` (B, T) is False."""
    if mask is None:
        return values
    mask = mask.reshape(*mask.shape, *(1,) * event_dims)
    return values.where(mask, values.new_zeros(()))


def cast_floats(values: Tensor, like: Tensor) -> Tensor:
    """Values in the dtype of ``like`` if they are floating point; whole numbers as they are."""
    return values.to(like.dtype) if values.is_floating_point() else values


def _count(x: Tensor | None, lengths: Tensor | int | None, start: Tensor | None) -> int:
    if x is not None:
        return x.shape[0]
    if isinstance(lengths, Tensor):
        return lengths.shape[0]
    return 1 if start is None else start.shape[0]


def _steps_and_mask(
    x: Tensor | None, lengths: Tensor | int | None, count: int
) -> tuple[int, Tensor | None]:
    if isinstance(lengths, int):
        lengths = torch.full((count,), lengths, device=None if x is None else x.device)
    if lengths is None:
        assert x is not None
        return x.shape[1], None
    if lengths.shape != (count,):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; it must be ({count},)")
    steps = int(lengths.max()) if x is None else x.shape[1]
    # Reading a length from an accelerator would synchronize with it in every step.
    on_host = lengths.device.type == "cpu"
    if on_host and not bool(((lengths >= 0) & (lengths <= steps)).all()):
        raise ValueError(f"lengths must lie within 0..{steps}; got {lengths.tolist()}")
    device = lengths.device if x is None else x.device
    positions = torch.arange(steps, device=device)
    return steps, positions < lengths.to(device).unsqueeze(-1)
