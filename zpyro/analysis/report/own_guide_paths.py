"""Paths of latents drawn from a user's own guide, with what a picture of them needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.errors import UserError
from zpyro.evaluation.custom_guides import sample_trace
from zpyro.models import SequenceModel
from zpyro.models.guides import latents_in
from zpyro.models.sites import sample_sites

Array = NDArray[Any]

OF_DISTRIBUTIONS = (
    "The posterior is that of the run's own guide: means and standard deviations are those of its "
    "distributions, and the KL by step is that of Gaussians with them. The table of bounds has its "
    "own densities."
)
OF_DRAWS = (
    "The posterior is that of the run's own guide, whose distributions tell no means: means and "
    "standard deviations are those of the draws, and the KL by step is that of Gaussians with them."
    " The table of bounds has its own densities."
)


def own_guide_paths(
    module: SequenceModel, batch: Batch, draws: int, seed: int
) -> tuple[dict[str, Array], str]:
    """Latents and terms of S paths drawn from a model's own guide for one sequence.

    Args:
        module: a model that a guide was attached to.
        batch: of one sequence.
        draws: S.
        seed: of the draws.

    Returns:
        Arrays ``z``, ``prior_loc``, ``prior_scale``, ``posterior_loc`` and ``posterior_scale``
        (S, T, Z), ``log_likelihood`` and ``kl`` (S, T), nats; and what to say of where those of the
        posterior come from.

    Raises:
        UserError: for a single draw of a guide whose distributions tell no means.
    """
    paths = [_path(module, batch, draw, seed) for draw in range(draws)]
    told = all("posterior_loc" in path for path in paths)
    arrays = {
        name: torch.cat([path[name] for path in paths]).double().cpu().numpy()
        for name in paths[0]
        if told or not name.startswith("posterior_")
    }
    if not told:
        if draws == 1:
            raise UserError(
                "one draw says nothing of a guide whose distributions tell no means; draw more"
            )
        z = arrays["z"]
        arrays["posterior_loc"] = np.broadcast_to(z.mean(0), z.shape)
        arrays["posterior_scale"] = np.broadcast_to(z.std(0, ddof=1), z.shape)
    arrays["kl"] = gaussian_kl(*(arrays[name] for name in GAUSSIANS)).sum(-1)
    return arrays, OF_DISTRIBUTIONS if told else OF_DRAWS


GAUSSIANS = ("posterior_loc", "posterior_scale", "prior_loc", "prior_scale")


def gaussian_kl(loc: Array, scale: Array, prior_loc: Array, prior_scale: Array) -> Array:
    """KL of Gaussians from Gaussians, number by number, nats."""
    ratio, shift = scale / prior_scale, (loc - prior_loc) / prior_scale
    with np.errstate(divide="ignore"):
        return 0.5 * (ratio**2 + shift**2 - 1.0) - np.log(ratio)


@torch.no_grad()
def _path(module: SequenceModel, batch: Batch, draw: int, seed: int) -> dict[str, Tensor]:
    trace, arguments = sample_trace(module, batch, seed, draw)
    z = latents_in(sample_sites(trace), torch.Size((*batch.x.shape[:2], module.latent_size)))
    model, _ = module.program("sequence")
    given = poutine.condition(model, data={"z": z})  # pyright: ignore[reportArgumentType]
    sites = sample_sites(poutine.trace(given).get_trace(*arguments))
    prior, observed = sites["z"]["fn"], sites["x"]
    mean, log_variance = (prior.bound.batch_major(each) for each in prior.parameters(z))
    return {
        "z": z,
        "prior_loc": mean,
        "prior_scale": (0.5 * log_variance).exp(),
        "log_likelihood": observed["fn"].step_log_prob(observed["value"]),
        **_moments(trace, z),
    }


def _moments(trace: Trace, z: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation (1, T, Z) of the guide's distributions, where they tell them."""
    sites = sample_sites(trace)
    stepwise = "z" not in sites
    named = [sites[f"z_{t}"] for t in range(1, z.shape[1] + 1)] if stepwise else [sites["z"]]
    try:
        found = [(site["fn"].mean, site["fn"].variance.sqrt()) for site in named]
    except NotImplementedError:
        return {}
    loc, scale = (
        torch.stack(parts, dim=1) if stepwise else parts[0] for parts in zip(*found, strict=True)
    )
    return {"posterior_loc": loc.expand_as(z), "posterior_scale": scale.expand_as(z)}
