"""Whether a user's guide will do: its sites, their shapes, its parameters and its padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.errors import UserError, pluralize
from zpyro.models import SequenceModel
from zpyro.models.guides import found_latents, model_inputs
from zpyro.models.sites import Site, sample_sites
from zpyro.nn.devices import fork_rng
from zpyro.training.user_files import wrap_user_errors


def check(
    module: SequenceModel,
    batch: Batch,
    *,
    needs_backward_states: bool,
    path: Path = Path("the guide"),
) -> None:
    """Call a model's custom guide once and check its sites, shapes, parameters and padding.

    Args:
        module: a model that a guide was attached to.
        batch: a few sequences, best of unequal lengths.
        needs_backward_states: whether auxiliary costs are to be trained.
        path: the guide's file, for error messages.

    Raises:
        UserError: if the guide fails, samples no latents of the right shape, has parameters that
            no checkpoint would hold, or scores latents beyond the lengths.
    """
    guide, like = module.custom_guide, next(module.parameters())
    assert guide is not None
    if not module.latent_size:
        raise UserError(f"the model {type(module).__name__} has no latents; leave out --guide")
    arguments = model_inputs(module, batch)
    x, lengths, *_ = arguments
    with fork_rng(like.device), torch.no_grad():
        with wrap_user_errors(path, "calling the guide"):
            trace = poutine.trace(guide).get_trace(*arguments)
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
        with wrap_user_errors(path, "scoring the guide's latents"):
            _check_padding(sites, lengths)


def _check_shapes(sites: dict[str, Site], rows: int, steps: int, module: SequenceModel) -> None:
    if "z" in sites and module.granularity == "step":
        raise UserError("the guide samples z, but its granularity is step; leave granularity out")
    if "z" not in sites and "z_1" in sites and module.granularity != "step":
        raise UserError('the guide samples z_1, z_2, ...; set granularity = "step" on it')
    found_latents(sites, steps)
    for name, site in sites.items():
        if name != "z" and not name.startswith("z_"):
            continue
        event = (steps, module.latent_size) if name == "z" else (module.latent_size,)
        found = tuple(site["value"].shape)
        if found != (rows, *event):
            raise UserError(
                f"the guide's {name} has shape {found}; for {pluralize(rows, 'sequence')} of "
                f"{pluralize(steps, 'step')} it "
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
            f"the guide has a site {name}, which is not a latent of the model, so that the bound "
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
