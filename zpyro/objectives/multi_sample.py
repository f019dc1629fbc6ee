"""The importance-weighted objective of many paths, with doubly reparameterized gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from zpyro.errors import UserError
from zpyro.models.sites import Site, sample_sites
from zpyro.objectives.elbo import ObjectiveTerms, ZForcingELBO
from zpyro.objectives.schedules import Schedule
from zpyro.objectives.terms import Term, TracePair, total


class MultiSampleELBO(ZForcingELBO):
    """The importance-weighted bound of K paths instead of the evidence lower bound.

    Per sequence, maximized, with w_k = p(x | z_k) (p(z_k) / q(z_k | x))^kl_weight::

        E_{z_1..z_K ~ q} log (1 / K) sum_k w_k   + the auxiliary terms of ZForcingELBO

    With v_k = w_k / sum_j w_j, its gradient is estimated as::

        sum_k v_k grad log w_k                                            (reparameterized)
        sum_k v_k d/dtheta log p(x, z_k)
          + v_k (1 - kl_weight (1 - v_k)) (d log w_k / dz_k) dz_k/dphi    (doubly reparameterized)

    both unbiased; for kl_weight = 1 the second is that of the paper, with v_k^2. It drops the score
    of q, whose variance dominates the gradient as K grows. Parameters that p and q share count in
    both. It needs two more passes over the sampled latents through the same network, so it does
    not allow dropout.

    The reported terms are those of the plain evidence lower bound, means over paths.

    Args:
        num_particles: K.
        kl_weight: a number or a schedule of the training step.
        auxiliary_weight: see :class:`zpyro.ZForcingELBO`.
        reverse_weight: likewise.
        doubly_reparameterized: which of the two estimates.
        terms: see :class:`zpyro.ZForcingELBO`.
        max_plate_nesting: of the model, without the particles.
        **settings: further ones of ``pyro.infer.ELBO``.

    Source: equation 8 of arXiv:1509.00519; equation 8 of arXiv:1810.04152::

        @inproceedings{burda2016iwae,
          title={Importance Weighted Autoencoders},
          author={Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan},
          booktitle={International Conference on Learning Representations},
          year={2016}
        }
        @inproceedings{tucker2019dreg,
          title={Doubly Reparameterized Gradient Estimators for {M}onte {C}arlo Objectives},
          author={Tucker, George and Lawson, Dieterich and Gu, Shixiang and Maddison, Chris J.},
          booktitle={International Conference on Learning Representations},
          year={2019}
        }
    """

    def __init__(
        self,
        num_particles: int,
        kl_weight: float | Schedule = 1.0,
        auxiliary_weight: float | Schedule = 0.0,
        reverse_weight: float | Schedule = 0.0,
        *,
        doubly_reparameterized: bool = True,
        terms: Iterable[Term] = (),
        max_plate_nesting: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(
            kl_weight,
            auxiliary_weight,
            reverse_weight,
            analytic_kl=False,
            terms=terms,
            num_particles=num_particles,
            vectorize_particles=True,
            max_plate_nesting=max_plate_nesting,
            **settings,
        )
        self.doubly_reparameterized = doubly_reparameterized

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ObjectiveTerms:
        kl_factor = self._factors()["kl_weight"]
        model, guide = (self._vectorized_num_particles(each) for each in (model, guide))
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        scored = guide_trace, model_trace
        multiplier = _Multiplier()
        if self.doubly_reparameterized and torch.is_grad_enabled():
            scored = _rescored((model, guide), args, kwargs, guide_trace, multiplier)
        # A scale of all sites is a factor of the bound of a sequence, not of its log-weights.
        common = _common_scale(model_trace, guide_trace)
        unscaled, scale = common is not None, 1.0 if common is None else common
        log_likelihood = _summed(scored[1], unscaled, observed=True)
        divergence = _summed(scored[0], unscaled, observed=False)
        divergence = divergence - _summed(scored[1], unscaled, observed=False)
        log_weights = (log_likelihood - kl_factor * divergence).expand(self.num_particles, -1)
        normalized = log_weights.detach().softmax(0)
        multiplier.values = 1.0 - kl_factor * (1.0 - normalized)
        bound = (log_weights.logsumexp(0) - math.log(self.num_particles)) * scale
        plain = [
            (part.expand_as(log_weights).detach().mean(0) * scale).sum()
            for part in (log_likelihood, divergence)
        ]
        added = self._added_terms(TracePair(model_trace, guide_trace), like=bound)
        reported = torch.stack([*plain, *added])
        trained = torch.cat([torch.zeros_like(reported[:2]), reported[2:]])
        return self._result(reported, -bound.sum(), trained)

    def _added_terms(self, path: TracePair, like: Tensor) -> list[Tensor]:
        """The terms beside log-likelihood and KL, means over paths."""
        weights = self.weights()
        found: list[Tensor] = []
        for term in self.components[2:]:
            weight = weights[cast(str, term.weight_name)]
            term.check(path, weight)
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(weight)):
                found.append(total(term.site_values(path), like) / self.num_particles)
        return found


class _Multiplier:
    """What the gradients at the latents of each path are multiplied by, known after the forward."""

    def __init__(self) -> None:
        self.values: Tensor | None = None

    def attached_to(self, site: Site) -> Tensor:
        """The site's value (K, B, ...) as a new tensor whose gradient is multiplied."""
        value: Tensor = site["value"]
        copy = value.view_as(value)
        if copy.requires_grad:
            copy.register_hook(self._apply)
        return copy

    def _apply(self, gradient: Tensor) -> Tensor:
        assert self.values is not None
        return gradient * self.values.reshape(
            *self.values.shape, *(1,) * (gradient.dim() - self.values.dim())
        )


def _rescored(
    programs: tuple[Callable[..., Any], Callable[..., Any]],
    args: Any,
    kwargs: Any,
    drawn: Trace,
    multiplier: _Multiplier,
) -> tuple[Trace, Trace]:
    """Traces of guide and model at the drawn latents, the guide's with its parameters frozen."""
    latents = {
        name: multiplier.attached_to(site)
        for name, site in sample_sites(drawn).items()
        if not site["is_observed"] and site["fn"].has_rsample
    }
    model, guide = programs
    model_trace = _traced(model, latents, args, kwargs)
    with _frozen(drawn):
        guide_trace = _traced(guide, latents, args, kwargs)
        guide_trace.compute_log_prob()
    return guide_trace, model_trace


def _traced(
    program: Callable[..., Any], latents: dict[str, Tensor], args: Any, kwargs: Any
) -> Trace:
    """A program's trace at known latents, which still count as latent."""
    fixed = poutine.trace(poutine.condition(program, data=latents))
    trace = prune_subsample_sites(fixed.get_trace(*args, **kwargs))
    for name, site in sample_sites(trace).items():
        if name in latents:
            site["is_observed"] = False
    return trace


@contextlib.contextmanager
def _frozen(trace: Trace) -> Generator[None, None, None]:
    """No gradient reaches the parameters that a trace has met."""
    nodes = cast(dict[str, Site], trace.nodes)
    values = [site["value"] for site in nodes.values() if site["type"] == "param"]
    # A constrained parameter leads to the leaf behind it.
    leaves = [v.unconstrained() if hasattr(v, "unconstrained") else v for v in values]
    frozen: list[Tensor] = [leaf for leaf in leaves if leaf.is_leaf and leaf.requires_grad]
    for leaf in frozen:
        leaf.requires_grad_(False)
    try:
        yield
    finally:
        for leaf in frozen:
            leaf.requires_grad_(True)


def _common_scale(*traces: Trace) -> float | Tensor | None:
    """The scale of all sites, or None where they differ in it."""
    scales = [site["scale"] for trace in traces for site in sample_sites(trace).values()]
    first = torch.as_tensor(scales[0])
    is_common = all(torch.equal(torch.as_tensor(scale), first) for scale in scales[1:])
    return scales[0] if is_common else None


def _summed(trace: Trace, unscaled: bool, *, observed: bool) -> Tensor:
    """log-density of the observed or of the latent sites, (K, B) or what broadcasts to it.

    Args:
        trace: its sites, masked.
        unscaled: leave out their scales.
        observed: which sites.
    """
    trace.compute_log_prob()
    sites = [s for s in sample_sites(trace).values() if bool(s["is_observed"]) is observed]
    if not sites:
        return torch.zeros(())
    for site in sites:
        if not observed and not site["fn"].has_rsample:
            raise UserError(
                f"site {site['name']!r} is not reparameterized; MultiSampleELBO needs rsample"
            )
    values = [
        scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        if unscaled
        else site["log_prob"]
        for site in sites
    ]
    return torch.stack(torch.broadcast_tensors(*values)).sum(0)
