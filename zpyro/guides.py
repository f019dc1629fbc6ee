"""What is asked of a guide, the user's own too: its latents, under the names of either granularity.

A guide has the arguments (x, lengths, start) of a model and samples, within the plate
``sequences``, the site ``z`` of event shape (T, Z), or a site ``z_t`` of event shape (Z,) for every
step t from 1.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zpyro import own_guides
from zpyro.datasets.batching import Batch
from zpyro.distributions import TrajectoryNormal
from zpyro.errors import UserError
from zpyro.sites import Site, sample_sites

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
    z = _found(sites, shape[1])
    if z.shape != shape:
        raise UserError(
            f"the guide's latents have shape {tuple(z.shape)} for {shape[0]} sequences of "
            f"{shape[1]} steps; (B, T, Z) must be {tuple(shape)}"
        )
    return z


def _found(sites: dict[str, Site], steps: int) -> Tensor:
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


# -- the contract of a user's guide ---------------------------------------------------------------


def check(module: SequenceModel, batch: Batch, *, needs_backward_states: bool) -> None:
    """Call a model's own guide once, without a trace left behind, and see that it will do.

    Args:
        module: a model that a guide was attached to.
        batch: a few sequences, best of unequal lengths.
        needs_backward_states: whether auxiliary costs are to be trained.

    Raises:
        UserError: if the guide fails, samples no latents of the right shape, has parameters that
            no checkpoint would hold, or scores latents beyond the lengths.
    """
    guide, like = module.own_guide, next(module.parameters())
    assert guide is not None
    if not module.latent_size:
        raise UserError(f"the model {type(module).__name__} has no latents; leave out --guide")
    batch = batch.to(like.device)
    start = None if batch.start is None else batch.start.to(_type(batch.start, like))
    x = batch.x.to(_type(batch.x, like))
    devices = [like.device] if like.is_cuda else []
    source = own_guides.current()
    path = Path("the guide") if source is None else source.path
    with torch.random.fork_rng(devices), torch.no_grad():
        with own_guides.telling(path, "calling the guide"):
            trace = poutine.trace(guide).get_trace(x, batch.lengths, start)
        sites = sample_sites(trace)
        _check_shapes(sites, x.shape[0], x.shape[1], module)
        _check_names(sites, x.shape[1], module)
        _check_parameters(trace, module)
        if needs_backward_states and not _exposes(sites):
            raise UserError(
                "the guide exposes no backward states, but auxiliary costs are to be trained; add "
                "--set objective.auxiliary_weight=0 --set objective.reverse_weight=0, or sample z "
                'with infer={"backward_states": b}'
            )
        with own_guides.telling(path, "scoring the guide's latents"):
            _check_padding(sites, batch.lengths)


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
    guide, like = module.own_guide, next(module.parameters())
    assert guide is not None
    batch = batch.to(like.device)
    start = None if batch.start is None else batch.start.to(_type(batch.start, like))
    arguments = (batch.x.to(_type(batch.x, like)), batch.lengths, start)
    devices = [like.device] if like.is_cuda else []
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


def _type(values: Tensor, like: Tensor) -> torch.dtype:
    return like.dtype if values.is_floating_point() else values.dtype


def _check_shapes(sites: dict[str, Site], rows: int, steps: int, module: SequenceModel) -> None:
    if "z" in sites and module.granularity == "step":
        raise UserError("the guide samples z, but its granularity is step; leave granularity out")
    if "z" not in sites and "z_1" in sites and module.granularity != "step":
        raise UserError('the guide samples z_1, z_2, ...; set granularity = "step" on it')
    _found(sites, steps)
    for name, site in sites.items():
        if name != "z" and not name.startswith("z_"):
            continue
        event = (steps, module.latent_size) if name == "z" else (module.latent_size,)
        found = tuple(site["value"].shape)
        if found != (rows, *event):
            raise UserError(
                f"the guide's {name} has shape {found}; for {rows} sequences of {steps} steps it "
                f"must be {(rows, *event)}"
            )
        dims = len(site["fn"].event_shape)
        if dims != len(event):
            raise UserError(
                f"the guide's {name} has {dims} event dimensions; it needs {len(event)}: write "
                f".to_event({len(event)}) in pyro.plate('sequences', len(x))"
            )


def _check_names(sites: dict[str, Site], steps: int, module: SequenceModel) -> None:
    """Whatever else the guide samples would stand in the bound, and in no density of the model."""
    stepwise = module.granularity == "step"
    latents = {f"z_{t}" for t in range(1, steps + 1)} if stepwise else {"z"}
    observed = {f"x_{t}" for t in range(1, steps + 1)} if stepwise else {"x"}
    for name, site in sites.items():
        infer = site["infer"]
        if name in latents or site_is_subsample(cast(Any, site)) or infer.get("_deterministic"):
            continue
        if name not in observed and infer.get("is_auxiliary") and not site["is_observed"]:
            continue
        raise UserError(
            f"the guide has a site {name}, which is no latent of the model, so that the bound "
            "would be none; leave it out, or compute it without pyro.sample"
        )


def _check_parameters(trace: Trace, module: SequenceModel) -> None:
    held = {id(parameter) for parameter in module.parameters()}
    for name, site in cast(dict[str, Site], trace.nodes).items():
        if site["type"] != "param":
            continue
        value = site["value"]
        if id(getattr(value, "unconstrained", lambda value=value: value)()) not in held:
            raise UserError(
                f"the guide's parameter {name} is made by pyro.param, which no checkpoint holds; "
                "make the guide a torch module and it an nn.Parameter"
            )


def _exposes(sites: dict[str, Site]) -> bool:
    return any("backward_states" in site["infer"] for site in sites.values())


def _check_padding(sites: dict[str, Site], lengths: Tensor) -> None:
    """What the latents are beyond the lengths must not count."""

    def total(altered: bool) -> Tensor:
        parts: list[Tensor] = []
        for name, site in sites.items():
            if name != "z" and not name.startswith("z_"):
                continue
            value = site["value"]
            if altered:
                value = value.where(~_beyond(name, value, lengths), value + 0.5)
            score = site["fn"].log_prob(value)
            parts.append(scale_and_mask(score, site["scale"], site["mask"]))
        return torch.stack(parts).sum(0)

    before = total(False)
    try:
        after = total(True)
    except (KeyError, NotImplementedError):
        # A flow without an inverse scores only what it drew itself.
        return
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-3):
        raise UserError(
            "the guide scores latents beyond the lengths of the sequences; mask them: "
            ".mask(valid) before .to_event, with valid (B, T, 1) True up to each length"
        )


def _beyond(name: str, value: Tensor, lengths: Tensor) -> Tensor:
    lengths = lengths.to(value.device)
    if name != "z":
        return (int(name[2:]) > lengths).unsqueeze(-1).expand_as(value)
    steps = torch.arange(value.shape[-2], device=value.device)
    return (steps >= lengths.unsqueeze(-1)).unsqueeze(-1).expand_as(value)
