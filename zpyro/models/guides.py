"""What is asked of a guide, the user's own too: its latents, under the names of either granularity.

A guide has the arguments (x, lengths, start) of a model and samples, within the plate
``sequences``, the site ``z`` of event shape (T, Z), or a site ``z_t`` of event shape (Z,) for every
step t from 1.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, cast

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.errors import UserError
from zpyro.models.distributions import TrajectoryNormal
from zpyro.models.sites import Site, sample_sites

if TYPE_CHECKING:
    from zpyro.models.base import Program, SequenceModel


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


def latents_of(guide: Program, shape: torch.Size, use_mean: bool, *arguments: Any) -> Tensor:
    """The latents (B, T, Z) that one call of a guide gives.

    Args:
        guide: called with the arguments.
        shape: (B, T, Z).
        use_mean: take means in place of draws.
        arguments: x, lengths, start.

    Raises:
        UserError: if it has neither a site ``z`` nor sites ``z_1``.., they have another shape, or a
            mean is asked of a distribution that has none.
    """
    if use_mean:
        with MeanLatents():
            trace = poutine.trace(guide).get_trace(*arguments)
    else:
        trace = poutine.trace(guide).get_trace(*arguments)
    return latents_in(sample_sites(trace), shape)


def latents_in(sites: dict[str, Site], shape: torch.Size) -> Tensor:
    """The latents (B, T, Z) among the sites of a guide's trace.

    Args:
        sites: of the trace.
        shape: (B, T, Z).

    Raises:
        UserError: if they are not there or have another shape.
    """
    z = found_latents(sites, shape[1])
    if z.shape != shape:
        raise UserError(
            f"the guide's latents have shape {tuple(z.shape)} for {shape[0]} sequences of "
            f"{shape[1]} steps; (B, T, Z) must be {tuple(shape)}"
        )
    return z


def found_latents(sites: dict[str, Site], steps: int) -> Tensor:
    """The latents among the sites of a guide's trace, whatever their shape.

    Raises:
        UserError: if they are not there.
    """
    if "z" in sites:
        return sites["z"]["value"]
    names = [f"z_{t}" for t in range(1, steps + 1)]
    missing = [name for name in names if name not in sites]
    if missing:
        if len(missing) < len(names):
            raise UserError(
                f"the guide samples no site {missing[0]}; a sequence of {steps} steps needs all of "
                f"z_1 to z_{steps}"
            )
        own = [name for name, site in sites.items() if not site_is_subsample(cast(Any, site))]
        raise UserError(
            f"the guide samples no site z (nor z_1), its latent sites are "
            f"{', '.join(own) or 'none'}; sample z of event shape (T, Z)"
        )
    return torch.stack([sites[name]["value"] for name in names], dim=-2)


def _mean(name: str, distribution: Any) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError as error:
        raise UserError(
            f"the guide's site {name} tells no mean ({_kind(distribution)}), so that only draws "
            "of it can be had, as zpyro reconstruct --draw makes them"
        ) from error


def _kind(distribution: Any) -> str:
    """The name of a distribution's class, whatever it is wrapped in."""
    while isinstance(distribution, torch.distributions.Independent | MaskedDistribution):
        distribution = distribution.base_dist
    return type(distribution).__name__


def arguments_of(module: SequenceModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, lengths and start of a batch, on a module's device and in its type."""
    like = next(module.parameters())
    batch = batch.to(like.device)

    def typed(values: Tensor) -> Tensor:
        return values.to(like.dtype) if values.is_floating_point() else values

    start = None if batch.start is None else typed(batch.start)
    return typed(batch.x), batch.lengths, start


@torch.no_grad()
def drawn(
    module: SequenceModel, batch: Batch, seed: int, draw: int
) -> tuple[Trace, tuple[Tensor, Tensor, Tensor | None]]:
    """One call of a model's own guide, whose draws depend on seeds and names alone.

    Args:
        module: a model that a guide was attached to.
        batch: on any device.
        seed: of the draws, together with the names in the batch.
        draw: number of the draw.

    Returns:
        The guide's trace, and the arguments x, lengths and start on the module's device.
    """
    guide, device = module.custom_guide, next(module.parameters()).device
    assert guide is not None
    arguments = arguments_of(module, batch)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(zlib.crc32("\n".join([str(seed), str(draw), *batch.names]).encode()))
        return poutine.trace(guide).get_trace(*arguments), arguments


@torch.no_grad()
def scores(module: SequenceModel, batch: Batch, seed: int, draw: int) -> tuple[Tensor, ...]:
    """One path of a model's own guide and its terms; the arguments are those of :func:`drawn`.

    Returns:
        log p(x | z), log p(z), log q(z), each (B,) nats, and z (B, T, Z).
    """
    guide_trace, arguments = drawn(module, batch, seed, draw)
    shape = torch.Size((*batch.x.shape[:2], module.latent_size))
    z = latents_in(sample_sites(guide_trace), shape)
    replayed = poutine.replay(module.model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*arguments)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    zero = next(module.parameters()).new_zeros(len(batch))
    parts = [zero, zero, zero]
    for site in sample_sites(model_trace).values():
        place = 0 if site["is_observed"] else 1
        parts[place] = parts[place] + site["log_prob"]
    for site in sample_sites(guide_trace).values():
        parts[2] = parts[2] + site["log_prob"]
    return (*parts, z)
