"""What the networks read in place of missing numbers, and known numbers hidden in training."""

from __future__ import annotations

import torch
from torch import Tensor

from zpyro.nn.noise import NoiseSource

FILLS = ("zeros", "interpolate")
"""What the posterior reads in place of missing numbers."""


def sample_hidden(source: NoiseSource, x: Tensor, rate: float, longest: int) -> Tensor:
    """Which numbers of frames are hidden in one training step, shaped as x.

    Of each sequence a share is hidden that is uniform on 0 to 2 ``rate`` (to 1 at most): in half
    of the sequences single numbers, in the others runs of up to ``longest`` steps of one dimension.
    Runs overlap, begin with one probability at every step, and their lengths are uniform.

    Args:
        source: of the random numbers.
        x: frames (B, T, D) or tokens (B, T).
        rate: mean share of hidden numbers, in [0, 1).
        longest: the longest run.
    """
    ones = (x.shape[0], *(1,) * (x.dim() - 1))
    like = x.new_zeros((), dtype=torch.get_default_dtype())
    share = (2.0 * rate * source.uniform(torch.Size(ones), like)).clamp(max=1.0 - 1e-6)
    runs = source.uniform(torch.Size(ones), like) < 0.5
    lengths = 1 + (source.uniform(x.shape, like) * longest).floor().clamp(max=longest - 1)
    lengths = lengths.where(runs, 1.0)
    # A number stays visible if none of the runs that reach it begin: (1 - p)^length on average.
    mean = torch.full_like(share, 0.5 * (1 + longest)).where(runs, 1.0)
    begins = source.uniform(x.shape, like) < 1.0 - (1.0 - share) ** (1.0 / mean)
    steps = torch.arange(x.shape[1], device=x.device).view(1, -1, *(1,) * (x.dim() - 2))
    ends = (steps + lengths).where(begins, 0.0).cummax(dim=1).values
    return steps < ends


def interpolate(x: Tensor, observed: Tensor) -> Tensor:
    """Frames (B, T, D) with missing numbers on the line between the observed ones around them.

    Before the first and after the last observed number of a dimension that number is taken, and
    zero where there is none.

    Args:
        x: frames.
        observed: True where a number is known, shaped as x.
    """
    size = x.shape[1]
    steps = torch.arange(size, device=x.device).view(1, -1, 1).expand(x.shape)
    before = steps.where(observed, -1).cummax(dim=1).values
    after = steps.where(observed, size).flip(1).cummin(dim=1).values.flip(1)
    left = before.where(before >= 0, after).clamp(max=size - 1)
    right = after.where(after < size, before).clamp(min=0)
    weight = (steps - left).to(x.dtype) / (right - left).clamp(min=1)
    first, last = x.gather(1, left), x.gather(1, right)
    line = first + weight * (last - first)
    # A dimension without any observed number points at its ends, whose values do not count.
    line = line.where((before >= 0) | (after < size), line.new_zeros(()))
    return x.where(observed, line)
