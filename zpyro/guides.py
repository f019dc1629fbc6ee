"""What is asked of a guide, the user's own too: its latents, under the names of either granularity.

A guide has the arguments (x, lengths, start) of a model and samples, within the plate
``sequences``, the site ``z`` of event shape (T, Z), or a site ``z_t`` of event shape (Z,) for every
step t from 1.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zpyro.distributions import TrajectoryNormal
from zpyro.errors import UserError
from zpyro.models.base import Program
from zpyro.sites import Site, sample_sites


class MeanLatents(Messenger):
    """Gives every latent site of a guide its mean, given the means of those before it."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        name, distribution = msg["name"], msg["fn"]
        if name != "z" and not name.startswith("z_"):
            return
        if isinstance(distribution, TrajectoryNormal):
            shape = distribution.batch_shape + distribution.event_shape
            like = next(distribution.process.model.parameters())
            msg["value"] = distribution.draw(like.new_zeros(shape))
        else:
            msg["value"] = _mean(name, distribution)
        msg["done"] = True


def latents_of(guide: Program, steps: int, use_mean: bool, *arguments: Any) -> Tensor:
    """The latents (B, T, Z) that one call of a guide gives.

    Args:
        guide: called with the arguments.
        steps: T.
        use_mean: take means in place of draws.
        arguments: x, lengths, start.

    Raises:
        UserError: if it has neither a site ``z`` nor sites ``z_1``.., or a mean is asked of a
            distribution that has none.
    """
    if use_mean:
        with MeanLatents():
            trace = poutine.trace(guide).get_trace(*arguments)
    else:
        trace = poutine.trace(guide).get_trace(*arguments)
    return latents_in(sample_sites(trace), steps)


def latents_in(sites: dict[str, Site], steps: int) -> Tensor:
    """The latents (B, T, Z) among the sites of a guide's trace.

    Raises:
        UserError: if they are not there.
    """
    if "z" in sites:
        return sites["z"]["value"]
    names = [f"z_{t}" for t in range(1, steps + 1)]
    missing = [name for name in names if name not in sites]
    if missing:
        found = ", ".join(sites) or "none"
        raise UserError(
            f"the guide samples no site z (nor {missing[0]}), its latent sites are {found}; "
            "sample z of event shape (T, Z)"
        )
    return torch.stack([sites[name]["value"] for name in names], dim=-2)


def _mean(name: str, distribution: Any) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError as error:
        raise UserError(
            f"the guide's site {name} has no mean ({type(distribution).__name__}); draw instead"
        ) from error
