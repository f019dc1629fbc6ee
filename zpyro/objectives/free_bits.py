"""The KL of latent sites step by step, and what is left of it when some bits are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from zpyro.errors import UserError
from zpyro.models.distributions import TrajectoryNormal, step_kl
from zpyro.models.sites import Site, sample_sites

GROUPS = ("step", "sequence")
"""What a number of free nats is for."""


@dataclass(frozen=True, eq=False)
class StepDivergence:
    """The KL of one latent site.

    Attributes:
        values: nats, (..., B, S): the steps of a trajectory, or the one step of another site.
        valid: False in padding, broadcastable to ``values``.
        scale: of the site.
        is_step: whether a value is that of one step, not of a whole sequence.
    """

    values: Tensor
    valid: Tensor
    scale: float | Tensor
    is_step: bool


def free_kl(
    model_trace: Trace, guide_trace: Trace, *, analytic: bool, free: float, group: str, like: Tensor
) -> Tensor:
    """sum max(KL, free) over valid steps or over sequences, 0-dim, nats.

    Below ``free`` nats the KL costs the same whatever it is, so that nothing drives it to zero
    (Kingma et al., arXiv:1606.04934, appendix C.8, with all latents of a step as one group).

    Args:
        model_trace: of the model, replayed against the guide.
        guide_trace: of the guide.
        analytic: the closed form where there is one, else log q - log p at the sample.
        free: nats a step or a sequence.
        group: one of :data:`GROUPS`.
        like: for the type and device of the zero of a model without latents.

    Raises:
        UserError: if steps are asked for and a latent site holds whole sequences without wrap_user_errors
            their steps apart.
    """
    guide_sites = sample_sites(guide_trace)
    sites = [
        site_divergence(site, guide_sites[name], analytic)
        for name, site in sample_sites(model_trace).items()
        if not site["is_observed"]
    ]
    if not sites:
        return torch.zeros_like(like)
    if group == "step":
        if not all(site.is_step for site in sites):
            raise UserError(
                "free bits per step need a guide whose latent sites tell their steps; "
                "set objective.free_bits_per to sequence"
            )
        parts = [_bounded(site.values, site.valid, site.scale, free) for site in sites]
        return torch.stack(parts).sum()
    totals = [site.values.where(site.valid, 0.0).sum(-1, keepdim=True) for site in sites]
    nonempty = [site.valid.any(-1, keepdim=True) for site in sites]
    valid = torch.stack(torch.broadcast_tensors(*nonempty)).any(0)
    return _bounded(torch.stack(totals).sum(0), valid, sites[0].scale, free)


def site_divergence(model_site: Site, guide_site: Site, analytic: bool) -> StepDivergence:
    """The KL of one latent site, see :class:`StepDivergence`."""
    posterior, prior, z = guide_site["fn"], model_site["fn"], guide_site["value"]
    mask, scale = guide_site["mask"], guide_site["scale"]
    if isinstance(posterior, TrajectoryNormal) and isinstance(prior, TrajectoryNormal):
        if analytic:
            values = step_kl(posterior, prior, z)
        else:
            values = posterior.step_log_prob(z) - prior.step_log_prob(z)
        within = posterior.process.conditions.valid
        valid = torch.ones_like(values, dtype=torch.bool) if within is None else within
        if mask is not None:
            valid = valid & torch.as_tensor(mask, device=values.device).unsqueeze(-1)
        return StepDivergence(values, valid, scale, is_step=True)
    try:
        values = kl_divergence(posterior, prior) if analytic else None
    except NotImplementedError:
        values = None
    if values is None:
        values = posterior.log_prob(z) - prior.log_prob(z)
    present = torch.ones_like(values, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
    is_step = not isinstance(prior, TrajectoryNormal)
    return StepDivergence(values.unsqueeze(-1), present.unsqueeze(-1), scale, is_step)


def _bounded(values: Tensor, valid: Tensor, scale: Any, free: float) -> Tensor:
    return torch.as_tensor(scale_and_mask(values.clamp(min=free), scale, valid)).sum()
