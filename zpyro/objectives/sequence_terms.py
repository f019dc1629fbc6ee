"""Every term of the objective for each sequence and step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, make_dataclass
from functools import cache
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zpyro.models.base import SequenceModel
from zpyro.models.distributions import TrajectoryNormal
from zpyro.models.sites import Site, replay_directly
from zpyro.objectives.terms import (
    KL,
    Auxiliary,
    LogLikelihood,
    Reverse,
    Term,
    TracePair,
    stacked,
)


@dataclass(frozen=True, eq=False)
class SequenceTerms:
    """The terms of each step, nats, zero beyond the lengths; their sums are the objective.

    A model without latents has Z = 0, one without a backward network no auxiliary terms: such
    terms are zero. Further terms, see :func:`sequence_terms`, are attributes too, (B, T).

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

    def __reduce__(self) -> tuple[Any, ...]:
        # A class with added terms has no name by which it could be pickled.
        return _restored, ({field.name: getattr(self, field.name) for field in fields(self)},)


def sequence_terms(
    module: SequenceModel,
    x: Tensor,
    lengths: Tensor | None = None,
    start: Tensor | None = None,
    noise: Tensor | None = None,
    granularity: str | None = None,
    terms: Iterable[Term] = (),
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> SequenceTerms:
    """Run guide and model once and read the terms of every step from their traces.

    Args:
        module: a sequence model such as :class:`zpyro.ZForcing`.
        x: frames (B, T, D) or tokens (B, T).
        lengths: (B,), by default T.
        start: x_0, (B, D) or (B,).
        noise: the standard normal draws behind z, (B, T, Z); fresh ones by default.
        granularity: "sequence" or "step", by default the model's; the terms are the same.
        terms: further terms of the objective, whose values become attributes of the result.
        observed: (B, T), or (B, T, D), False where x is missing.
        covariates: u_1..u_T, (B, T, C).

    Raises:
        ValueError: if shapes do not fit each other or the likelihood.

    Example::

        terms = zpyro.sequence_terms(model, x, lengths)
        elbo = (terms.log_likelihood - terms.kl).sum(-1)  # (B,)
    """
    model, guide = module.program(granularity or module.granularity)
    noise = module.noise(x.shape[0], x.shape[1]) if noise is None else noise
    arguments = (x, lengths, start, observed, covariates)
    with FixedNoise(noise):
        guide_trace = poutine.trace(guide).get_trace(*arguments)
    replayed = replay_directly(model, guide_trace)
    path = TracePair(poutine.trace(replayed).get_trace(*arguments), guide_trace)
    zero, empty = noise.new_zeros(x.shape[:2]), noise.new_zeros(*x.shape[:2], 0)
    built_in = (LogLikelihood(), KL(), Auxiliary(), Reverse())
    values = {term.name: _of_steps(term, path, zero) for term in built_in}
    posterior = [guide_site for _, guide_site in path.latents]
    prior = [model_site for model_site, _ in path.latents]
    densities = {
        name: stacked([path.log_prob(site) for site in sites]) if sites else zero
        for name, sites in (("log_prior", prior), ("log_posterior", posterior))
    }
    latents = {
        name: _of_latents(sites, read) if sites else empty
        for name, sites, read in (
            ("z", posterior, lambda site: site["value"]),
            ("posterior_mean", posterior, _mean),
            ("posterior_log_variance", posterior, _log_variance),
            ("prior_mean", prior, _mean),
            ("prior_log_variance", prior, _log_variance),
        )
    }
    added = {term.name: _of_steps(term, path, zero) for term in terms}
    return _restored({**values, **densities, **latents, **added})


def _restored(values: dict[str, Tensor]) -> SequenceTerms:
    known = {field.name for field in fields(SequenceTerms)}
    return _class_with(tuple(name for name in values if name not in known))(**values)


@cache
def _class_with(added: tuple[str, ...]) -> type[SequenceTerms]:
    """The class with attributes for further terms of those names."""
    if not added:
        return SequenceTerms
    more = [(name, Tensor) for name in added]
    return make_dataclass("SequenceTerms", more, bases=(SequenceTerms,), frozen=True, eq=False)


class FixedNoise(Messenger):
    """Fixes the standard normal draws behind the latent sites ``z`` or ``z_t`` of a guide.

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
            msg["value"] = distribution.from_noise(self.noise)
        elif site.startswith("z_"):
            base = distribution.base_dist
            msg["value"] = base.loc + base.scale * self.noise[..., int(site[2:]) - 1, :]
        else:
            return
        msg["done"] = True


def _of_steps(term: Term, path: TracePair, zero: Tensor) -> Tensor:
    sites = term.site_values(path)
    return stacked(sites) if sites else zero


def _of_latents(sites: list[Site], read: Callable[[Site], Tensor]) -> Tensor:
    """One number per latent and step, (B, T, Z), zero beyond the lengths."""
    distribution = sites[0]["fn"]
    if isinstance(distribution, TrajectoryNormal):
        values = read(sites[0])
        return values if values.dim() == 3 else distribution.bound.batch_major(values)
    masks = [site["mask"] for site in sites]
    values = [read(site) for site in sites]
    zeroed = [
        value if mask is None else value.where(mask.unsqueeze(-1), value.new_zeros(()))
        for value, mask in zip(values, masks, strict=True)
    ]
    return torch.stack(zeroed, dim=1)


def _mean(site: Site) -> Tensor:
    if isinstance(site["fn"], TrajectoryNormal):
        return site["fn"].parameters(site["value"])[0]
    return site["fn"].base_dist.loc


def _log_variance(site: Site) -> Tensor:
    if isinstance(site["fn"], TrajectoryNormal):
        return site["fn"].parameters(site["value"])[1]
    return 2.0 * site["fn"].base_dist.scale.log()
