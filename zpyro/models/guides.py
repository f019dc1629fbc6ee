"""The latents of a guide, built-in or custom, under the site names of either granularity.

A guide has the arguments of a model, (x, lengths, start) or, where the data have missing values or
covariates, (x, lengths, start, observed, covariates). It samples, within the plate
``sequences``, the site ``z`` of event shape (T, Z), or a site ``z_t`` of event shape (Z,) for every
step t from 1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.errors import UserError, pluralize
from zpyro.models.conditions import cast_floats
from zpyro.models.distributions import TrajectoryNormal
from zpyro.models.programs import Program
from zpyro.models.sites import Site, sample_sites
from zpyro.models.steps import StepwiseModel


class MeanLatents(Messenger):
    """Replaces every latent site of a guide by its mean, given the means of those before it."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        name, distribution = msg["name"], msg["fn"]
        if name != "z" and not name.startswith("z_"):
            return
        if isinstance(distribution, TrajectoryNormal):
            shape = distribution.batch_shape + distribution.event_shape
            like = next(distribution.bound.model.parameters())
            msg["value"] = distribution.from_noise(like.new_zeros(shape))
        else:
            msg["value"] = _mean(name, distribution)
        msg["done"] = True


def latents_of(guide: Program, shape: torch.Size, use_mean: bool, *arguments: Any) -> Tensor:
    """The latents (B, T, Z) of one call of a guide.

    Args:
        guide: called with the arguments.
        shape: (B, T, Z).
        use_mean: take means instead of samples.
        arguments: those of a model or guide, see :func:`model_inputs`.

    Raises:
        UserError: if it has neither a site ``z`` nor sites ``z_1``.., they have another shape, or
            ``use_mean`` meets a distribution without a mean.
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
        UserError: if they are missing or have another shape.
    """
    z = found_latents(sites, shape[1])
    if z.shape != shape:
        raise UserError(
            f"the guide's latents have shape {tuple(z.shape)} for "
            f"{pluralize(shape[0], 'sequence')} "
            f"of {pluralize(shape[1], 'step')}; (B, T, Z) must be {tuple(shape)}"
        )
    return z


def found_latents(sites: dict[str, Site], steps: int) -> Tensor:
    """The latents among the sites of a guide's trace, whatever their shape.

    Raises:
        UserError: if they are missing.
    """
    if "z" in sites:
        return sites["z"]["value"]
    names = [f"z_{t}" for t in range(1, steps + 1)]
    missing = [name for name in names if name not in sites]
    if missing:
        if len(missing) < len(names):
            raise UserError(
                f"the guide samples no site {missing[0]}; a sequence of "
                f"{pluralize(steps, 'step')} needs all of "
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
            f"the guide's site {name} has no closed-form mean ({_class_name(distribution)}); "
            "sample from it, as zpyro reconstruct --draw does"
        ) from error


def _class_name(distribution: Any) -> str:
    """The name of a distribution's class, whatever it is wrapped in."""
    while isinstance(distribution, torch.distributions.Independent | MaskedDistribution):
        distribution = distribution.base_dist
    return type(distribution).__name__


def model_inputs(model: StepwiseModel, batch: Batch) -> tuple[Any, ...]:
    """The arguments of a model or guide for a batch.

    Args:
        model: frames are moved to its device and dtype, see :func:`to_model`.
        batch: on any device.

    Returns:
        x, lengths and start; and where the batch has either, observed and covariates.
    """
    start = None if batch.start is None else to_model(model, batch.start)
    arguments = to_model(model, batch.x), batch.lengths, start
    if batch.observed is None and batch.covariates is None:
        return arguments
    observed = None if batch.observed is None else batch.observed.to(arguments[0].device)
    covariates = None if batch.covariates is None else to_model(model, batch.covariates)
    return *arguments, observed, covariates


def to_model(model: StepwiseModel, values: Tensor) -> Tensor:
    """Frames on a model's device and in its dtype; tokens keep theirs."""
    like = next(model.parameters())
    return cast_floats(values, like).to(like.device)
