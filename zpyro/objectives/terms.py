"""Every term of the objective, sequence by sequence and step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from zpyro.models.base import SequenceModel
from zpyro.models.distributions import TrajectoryNormal, step_kl
from zpyro.models.sites import Site, sample_sites

Sites = dict[str, Site]

LATENT_FIELDS = (
    "z",
    "posterior_mean",
    "posterior_log_variance",
    "prior_mean",
    "prior_log_variance",
)
"""Those with one number a latent, (B, T, Z)."""


@dataclass(frozen=True, eq=False)
class SequenceTerms:
    """The terms of each step, nats, zero beyond the lengths; sums of them are the objective.

    A model without latents has Z = 0, one without a backward network no auxiliary costs: such
    terms are zero.

    Attributes:
        log_likelihood: log p(x_t | h_t), (B, T).
        kl: KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})), closed form, (B, T).
        log_prior: log p(z_t | h_{t-1}) at the sampled z_t, (B, T).
        log_posterior: log q(z_t | h_{t-1}, b_t) at the sampled z_t, (B, T).
        log_auxiliary: log p(b_t | z_t, h_{t-1}), (B, T).
        log_reverse: log p(x_{t-1} | b_t), (B, T).
        z: the sampled latents, (B, T, Z).
        posterior_mean: mean of q(z_t | h_{t-1}, b_t), (B, T, Z).
        posterior_log_variance: its log variance, (B, T, Z).
        prior_mean: mean of p(z_t | h_{t-1}), (B, T, Z).
        prior_log_variance: its log variance, (B, T, Z).
    """

    log_likelihood: Tensor
    kl: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    log_auxiliary: Tensor
    log_reverse: Tensor
    z: Tensor
    posterior_mean: Tensor
    posterior_log_variance: Tensor
    prior_mean: Tensor
    prior_log_variance: Tensor


def sequence_terms(
    module: SequenceModel,
    x: Tensor,
    lengths: Tensor | None = None,
    start: Tensor | None = None,
    noise: Tensor | None = None,
    granularity: str | None = None,
) -> SequenceTerms:
    """Run guide and model once and read the terms of every step off their traces.

    Args:
        module: a sequence model such as :class:`zpyro.ZForcing`.
        x: frames (B, T, D) or tokens (B, T).
        lengths: (B,), by default T.
        start: x_0, (B, D) or (B,).
        noise: the standard normal draws behind z, (B, T, Z); fresh ones by default.
        granularity: "sequence" or "step", by default the module's; the terms are the same.

    Raises:
        ValueError: if shapes do not fit each other or the likelihood.
    """
    model, guide = module.program(granularity or module.granularity)
    noise = module.noise(x.shape[0], x.shape[1]) if noise is None else noise
    with FixedNoise(noise):
        guide_trace = poutine.trace(guide).get_trace(x, lengths, start)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(x, lengths, start)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    if "x" in model_sites:
        read = _of_sequence(model_sites["x"], model_sites.get("z"), guide_sites.get("z"))
    else:
        read = _of_steps(model_sites, guide_sites, x.shape[1])
    return _complete(read)


class FixedNoise(Messenger):
    """Gives the latent sites ``z`` or ``z_t`` of a guide the standard normal draws behind them.

    Args:
        noise: (B, T, Z).
    """

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        site, distribution = msg["name"], msg["fn"]
        if isinstance(distribution, TrajectoryNormal):
            msg["value"] = distribution.draw(self.noise)
        elif site.startswith("z_"):
            draws = self.noise[..., int(site[2:]) - 1, :]
            base = distribution.base_dist
            msg["value"] = base.loc + base.scale * draws
        else:
            return
        msg["done"] = True


def _complete(read: dict[str, Tensor]) -> SequenceTerms:
    """The terms that were read, zeros for those that the model does not have."""
    log_likelihood = read["log_likelihood"]
    missing = {field.name for field in fields(SequenceTerms)} - read.keys()
    empty = log_likelihood.new_zeros(*log_likelihood.shape, 0)
    none = torch.zeros_like(log_likelihood)
    return SequenceTerms(
        **read, **{name: empty if name in LATENT_FIELDS else none for name in missing}
    )


def _of_sequence(observed: Site, prior_site: Site | None, latent: Site | None) -> dict[str, Tensor]:
    read = {"log_likelihood": observed["fn"].step_log_prob(observed["value"])}
    if prior_site is None or latent is None:
        return read
    posterior, prior, z = latent["fn"], prior_site["fn"], latent["value"]
    costs = observed["infer"].get("auxiliary_costs")
    if costs is not None:
        backward = latent["infer"]["backward_states"]
        read["log_auxiliary"], read["log_reverse"] = costs.evaluate(backward, z)
    mean, log_variance = posterior.parameters(z)
    prior_mean, prior_log_variance = prior.parameters(z)
    return read | {
        "kl": step_kl(posterior, prior, z),
        "log_prior": prior.step_log_prob(z),
        "log_posterior": posterior.step_log_prob(z),
        "z": z,
        "posterior_mean": posterior.process.batch_major(mean),
        "posterior_log_variance": posterior.process.batch_major(log_variance),
        "prior_mean": posterior.process.batch_major(prior_mean),
        "prior_log_variance": posterior.process.batch_major(prior_log_variance),
    }


def _of_steps(model_sites: Sites, guide_sites: Sites, steps: int) -> dict[str, Tensor]:
    numbers = range(1, steps + 1)
    observed = [model_sites[f"x_{t}"] for t in numbers]
    read = {"log_likelihood": _stack(_log_prob(site) for site in observed)}
    if "z_1" not in guide_sites:
        return read
    posterior = [guide_sites[f"z_{t}"] for t in numbers]
    prior = [model_sites[f"z_{t}"] for t in numbers]
    divergences = [
        _masked(q, kl_divergence(q["fn"], p["fn"])) for q, p in zip(posterior, prior, strict=True)
    ]
    return (
        read
        | _costs_of_steps(observed, posterior)
        | {
            "kl": _stack(divergences),
            "log_prior": _stack(_log_prob(site) for site in prior),
            "log_posterior": _stack(_log_prob(site) for site in posterior),
            "z": _stack_latents(posterior, lambda site: site["value"]),
            "posterior_mean": _stack_latents(posterior, _location),
            "posterior_log_variance": _stack_latents(posterior, _log_variance),
            "prior_mean": _stack_latents(prior, _location),
            "prior_log_variance": _stack_latents(prior, _log_variance),
        }
    )


def _location(site: Site) -> Tensor:
    return site["fn"].base_dist.loc


def _log_variance(site: Site) -> Tensor:
    return 2.0 * site["fn"].base_dist.scale.log()


def _costs_of_steps(observed: list[Site], posterior: list[Site]) -> dict[str, Tensor]:
    """log_auxiliary and log_reverse of a model that has them."""
    if "auxiliary_costs" not in observed[0]["infer"]:
        return {}
    costs = [
        site["infer"]["auxiliary_costs"].evaluate(q["infer"]["backward_states"], q["value"])
        for site, q in zip(observed, posterior, strict=True)
    ]
    return {
        "log_auxiliary": _stack(auxiliary for auxiliary, _ in costs),
        "log_reverse": _stack(reverse for _, reverse in costs),
    }


def _log_prob(site: Site) -> Tensor:
    return _masked(site, site["fn"].log_prob(site["value"]))


def _masked(site: Site, values: Tensor) -> Tensor:
    mask = site["mask"]
    return values if mask is None else values.where(mask, values.new_zeros(()))


def _stack(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values), dim=-1)


def _stack_latents(sites: list[Site], read: Callable[[Site], Tensor]) -> Tensor:
    """One number per latent and step, (B, T, Z), zero beyond the lengths."""
    masks = [site["mask"] for site in sites]
    values = [read(site) for site in sites]
    zeroed = [
        value if mask is None else value.where(mask.unsqueeze(-1), value.new_zeros(()))
        for value, mask in zip(values, masks, strict=True)
    ]
    return torch.stack(zeroed, dim=1)
