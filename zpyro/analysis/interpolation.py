"""From the latents of one sequence to those of another, decoded on the way.

Bowman et al. (arXiv:1511.06349, section 5.3) do so with one latent a sentence; here a sequence has
one at every step, so the two paths of posterior means are brought to one length first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zpyro.analysis.decoding import Decoded, decode, reconstruct
from zpyro.datasets.batching import Batch
from zpyro.errors import UserError
from zpyro.models.base import Program, SequenceModel


@dataclass(frozen=True, eq=False)
class Interpolation:
    """What lies between two sequences.

    Attributes:
        positions: from 0, the first, to 1, the second, (S,).
        lengths: T_s of what lies there, (S,).
        decoded: its latents and frames, S sequences padded to the longest.
    """

    positions: Tensor
    lengths: Tensor
    decoded: Decoded


def interpolate(
    module: SequenceModel,
    first: Batch,
    second: Batch,
    steps: int,
    *,
    seed: int = 0,
    use_mean: bool = True,
    temperature: float = 1.0,
    guide: Program | None = None,
) -> Interpolation:
    """Walk in a straight line between the posterior means of two sequences, decoding freely.

    At position a there are T = round((1 - a) T_1 + a T_2) steps: both paths of means are stretched
    to T steps, linear in between, so that each one's first step stays its first and its last its
    last; then z = (1 - a) z_1 + a z_2. At the two ends the paths are untouched. Start frames, where
    the data have them, are mixed likewise, but for tokens: there those of the nearer one are taken.

    Args:
        module: a model with latents.
        first: one sequence.
        second: another.
        steps: S, ends counted, 2 or more.
        seed: of the frames, if drawn; all positions have the same noise.
        use_mean: feed back expected frames in place of drawn ones, see :func:`zpyro.decode`.
        temperature: of drawn frames.
        guide: the guide to take means from, by default the module's own.

    Raises:
        UserError: if the model has no latents, or steps is below 2.
    """
    if steps < 2:
        raise UserError(f"steps is {steps}; give 2 or more")
    ends = [
        reconstruct(module, each, use_mean=True, guide=guide).z[0, 0] for each in (first, second)
    ]
    positions = torch.linspace(0.0, 1.0, steps, dtype=ends[0].dtype)
    counts = [_between(float(a), len(ends[0]), len(ends[1])) for a in positions]
    paths = [
        torch.lerp(stretched(ends[0], count), stretched(ends[1], count), float(a))
        for a, count in zip(positions, counts, strict=True)
    ]
    starts = [_start(first, second, float(a)) for a in positions]
    decoded = [
        decode(
            module,
            path.unsqueeze(0),
            start=start,
            seed=seed,
            use_mean=use_mean,
            temperature=temperature,
        )
        for path, start in zip(paths, starts, strict=True)
    ]  # one by one: the noise at a position must not depend on how many others there are
    padded = [
        torch.nn.utils.rnn.pad_sequence([getattr(each, name)[0] for each in decoded], True)
        for name in ("z", "mean", "frames")
    ]
    return Interpolation(positions, torch.tensor(counts), Decoded(*padded))


def stretched(path: Tensor, steps: int) -> Tensor:
    """A path (T, Z) brought to another number of steps, linear between its own."""
    if len(path) == steps:
        return path
    if len(path) == 1 or steps == 1:
        return path[:1].expand(steps, -1)
    places = torch.linspace(0, len(path) - 1, steps, dtype=path.dtype, device=path.device)
    below = places.floor().long().clamp(max=len(path) - 2)
    return torch.lerp(path[below], path[below + 1], (places - below).unsqueeze(-1))


def _between(position: float, first: int, second: int) -> int:
    return max(1, round((1 - position) * first + position * second))


def _start(first: Batch, second: Batch, position: float) -> Tensor | None:
    if first.start is None or second.start is None:
        return None
    if not first.start.is_floating_point():
        return first.start if position < 0.5 else second.start
    return torch.lerp(first.start, second.start, position)
