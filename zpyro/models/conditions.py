"""The checked arguments of one call of a model or guide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zpyro.likelihoods import Likelihood


@dataclass(frozen=True, eq=False)
class Conditions:
    """The checked arguments of one call of a model or guide.

    Attributes:
        x: frames (B, T, D) or tokens (B, T), zeros beyond the lengths and where they are missing;
            None to generate.
        mask: (B, T), True up to each length; None where every sequence has T steps.
        start: x_0, (B, D) or (B,).
        steps: T.
        source: the caller's own arguments, which identify the batch.
        observed: True where a number of x is known, shaped as x; None where all are.
        covariates: u_1..u_T, (B, T, C), zeros beyond the lengths; None for a model without.
    """

    x: Tensor | None
    mask: Tensor | None
    start: Tensor
    steps: int
    source: tuple[Any, ...]
    observed: Tensor | None = None
    covariates: Tensor | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The caller's own arguments; without mask and covariates where there are neither."""
        plain = self.observed is None and self.covariates is None
        return self.source[:3] if plain else self.source

    def without_unknown(self, frames: Tensor) -> Tensor:
        """Frames (..., B, T) + event shape, exactly zero in padding and where x is missing."""
        event_dims = self.start.dim() - 1
        if self.observed is not None:
            frames = frames.where(self.observed, frames.new_zeros(()))
        return zero_padding(frames, self.mask, event_dims)


def conditions_of(
    likelihood: Likelihood,
    like: Tensor,
    x: Tensor | None,
    lengths: Tensor | int | None,
    start: Tensor | None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> Conditions:
    """Check the arguments of a model or guide; set padding and missing values to zero.

    Args:
        likelihood: gives the shape of a frame.
        like: a parameter, for the type and device of default start frames.
        x: frames (B, T, D) or tokens (B, T), or None to generate.
        lengths: (B,), or an int for all, or None for T.
        start: x_0, (B, D) or (B,), or None for the likelihood's default.
        observed: (B, T), or (B, T, D), False where x is missing, or None where all of it is known.
        covariates: u_1..u_T, (B, T, C), or None for a model without.

    Raises:
        ValueError: if shapes do not fit each other or the likelihood, a length lies outside 0..T,
            neither x nor lengths is given, or a mask comes without x.
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
    steps, mask = _steps_and_mask(x, lengths, count, first.device)
    source = (x, lengths, start, observed, covariates)
    if observed is not None:
        if x is None:
            raise ValueError("observed marks the known values of x; give x too")
        observed = _shaped_as_frames(observed, x)
    if covariates is not None:
        if covariates.dim() != 3 or covariates.shape[:2] != (count, steps):
            raise ValueError(
                f"covariates have shape {tuple(covariates.shape)}; they must be "
                f"({count}, {steps}, C)"
            )
        covariates = zero_padding(covariates.to(like), mask, 1)
    found = Conditions(x, mask, first, steps, source, observed, covariates)
    return found if x is None else replace(found, x=found.without_unknown(x))


def _shaped_as_frames(observed: Tensor, x: Tensor) -> Tensor:
    """A mask (B, T), or (B, T, D), as a boolean tensor of the shape of x."""
    shape = tuple(observed.shape)
    if shape not in (tuple(x.shape), tuple(x.shape[:2])):
        raise ValueError(
            f"observed has shape {shape}; it must be {tuple(x.shape[:2])} or {tuple(x.shape)}"
        )
    observed = observed.to(x.device, torch.bool)
    return observed if observed.dim() == x.dim() else observed.unsqueeze(-1).expand(x.shape)


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
    x: Tensor | None, lengths: Tensor | int | None, count: int, device: torch.device
) -> tuple[int, Tensor | None]:
    if isinstance(lengths, int):
        lengths = torch.full((count,), lengths, device=device)
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
    positions = torch.arange(steps, device=device)
    return steps, positions < lengths.to(device).unsqueeze(-1)
