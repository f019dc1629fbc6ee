"""The Z-Forcing objective as a Pyro ELBO (Goyal et al., arXiv:1711.05411, equation 9)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_model_guide_match, warn_if_nan
from torch import Tensor, nn
from torch.distributions import kl_divergence

from zpyro.errors import UserError
from zpyro.models.programs import AuxiliaryCosts
from zpyro.models.sites import Site, sample_sites
from zpyro.objectives.free_bits import GROUPS, free_kl
from zpyro.objectives.schedules import Schedule, as_schedule


@dataclass(frozen=True, eq=False)
class ObjectiveTerms:
    """The named parts of the objective, nats, each a 0-dim tensor summed over sequences::

        loss = -(log_likelihood - kl_weight kl + auxiliary_weight log_auxiliary
                 + reverse_weight log_reverse)

    Where the objective has free bits, or is the multi-sample bound, ``loss`` is made of other terms
    than these; those told here, and the bound, are always the plain ones.

    Attributes:
        log_likelihood: sum_t E_q log p(x_t | h_t).
        kl: sum_t KL(q(z_t | .) || p(z_t | .)), unweighted.
        log_auxiliary: sum_t E_q log p(b_t | z_t, h_{t-1}), unweighted; 0 without backward states.
        log_reverse: sum_t log p(x_{t-1} | b_t), unweighted; 0 without backward states.
        loss: what is minimized.
        kl_weight: weight of the KL in ``loss``.
        auxiliary_weight: weight of ``log_auxiliary`` in ``loss`` (alpha).
        reverse_weight: weight of ``log_reverse`` in ``loss`` (beta).
    """

    log_likelihood: Tensor
    kl: Tensor
    log_auxiliary: Tensor
    log_reverse: Tensor
    loss: Tensor
    kl_weight: float
    auxiliary_weight: float
    reverse_weight: float

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound, log_likelihood - kl, whatever the weights."""
        return self.log_likelihood - self.kl

    def detach(self) -> ObjectiveTerms:
        """The same numbers without their graph."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: v.detach() for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


class ZForcingELBO(ELBO):
    """The evidence lower bound with a weighted KL and Z-Forcing's two auxiliary terms.

    Per sequence, maximized, with sums over the valid steps::

        sum_t E_q[log p(x_t | h_t)] - kl_weight sum_t KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1}))
          + auxiliary_weight sum_t E_q[log p(stop_gradient(b_t) | z_t, h_{t-1})]
          + reverse_weight sum_t log p(x_{t-1} | b_t)

    It works as the loss of ``pyro.infer.SVI`` and, as ``ZForcingELBO(...)(model, guide)``, as a
    torch module. With weights 1, 0, 0 it is ``TraceMeanField_ELBO`` (analytic KL) or
    ``Trace_ELBO`` (Monte-Carlo KL). The sum over sequences is what is optimized, as in Pyro.

    Args:
        kl_weight: a number or a schedule of the training step.
        auxiliary_weight: alpha, likewise.
        reverse_weight: beta, likewise.
        analytic_kl: the closed-form KL of every step along the sampled path (as published) or,
            if False or where none is registered, the Monte-Carlo log q - log p.
        **settings: those of ``pyro.infer.ELBO``: num_particles, vectorize_particles,
            max_plate_nesting, retain_graph.

    Attributes:
        step: training steps taken so far, the argument of the schedules; set it to resume.
    """

    def __init__(
        self,
        kl_weight: float | Schedule = 1.0,
        auxiliary_weight: float | Schedule = 0.0,
        reverse_weight: float | Schedule = 0.0,
        *,
        analytic_kl: bool = True,
        free_bits: float = 0.0,
        free_bits_per: str = "step",
        **settings: Any,
    ) -> None:
        if free_bits_per not in GROUPS:
            raise ValueError(f"free_bits_per is {free_bits_per!r}; choose one of {GROUPS}")
        super().__init__(**settings)
        self.kl_weight = as_schedule(kl_weight)
        self.auxiliary_weight = as_schedule(auxiliary_weight)
        self.reverse_weight = as_schedule(reverse_weight)
        self.analytic_kl = analytic_kl
        self.free_bits = free_bits
        self.free_bits_per = free_bits_per
        self.step = 0
        self._given: tuple[Tensor, ...] | None = None

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> ObjectiveModule:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A torch module of the loss for this pair, see :class:`ObjectiveModule`."""
        return ObjectiveModule(model, guide, self)

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ObjectiveTerms:
        """The named parts of the objective at the present step, differentiable.

        Raises:
            UserError: if an auxiliary weight is not zero and the guide exposes no backward states.
        """
        weights, factors = self.weights(), self.factors()
        parts: list[Tensor] = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            bound = bound_parts(model_trace, guide_trace, self.analytic_kl)
            auxiliary = auxiliary_parts(model_trace, guide_trace, weights, like=bound[0])
            trained = self._trained_kl(model_trace, guide_trace, bound[1])
            parts.append(torch.stack([*bound, *auxiliary, trained]))
        averages = torch.stack(parts).sum(0) / self.num_particles
        log_likelihood, kl, auxiliary, reverse, trained = averages
        loss = factors[0] * trained - log_likelihood
        if weights[1]:
            loss = loss - factors[1] * auxiliary
        if weights[2]:
            loss = loss - factors[2] * reverse
        return ObjectiveTerms(log_likelihood, kl, auxiliary, reverse, loss, *weights)

    def weights(self) -> tuple[float, float, float]:
        """The weights of KL, auxiliary and reverse term at the present step."""
        return (
            self.kl_weight(self.step),
            self.auxiliary_weight(self.step),
            self.reverse_weight(self.step),
        )

    def factors(self) -> Sequence[float | Tensor]:
        """What the terms are multiplied by: the weights, or the tensors that hold them."""
        return self.weights() if self._given is None else self._given

    @contextlib.contextmanager
    def weighted(self, weights: Tensor) -> Generator[None, None, None]:
        """Within it, the loss has the weights that a tensor holds, read where it stands.

        A recorded CUDA graph replays what it did with other numbers in the same places. Terms whose
        present weight is 0 are left out all the same.

        Args:
            weights: of KL, auxiliary and reverse term, in this order, (3,) or longer.
        """
        self._given = (weights[0], weights[1], weights[2])
        try:
            yield
        finally:
            self._given = None

    def _trained_kl(self, model_trace: Trace, guide_trace: Trace, kl: Tensor) -> Tensor:
        """The KL that enters the loss: the plain one, or what exceeds the free bits."""
        if not self.free_bits:
            return kl
        return free_kl(
            model_trace,
            guide_trace,
            free=self.free_bits,
            analytic=self.analytic_kl,
            group=self.free_bits_per,
            like=kl,
        )

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor to differentiate."""
        return self.terms(model, guide, *args, **kwargs).loss

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss at the present step's weights; for the pure bound see zpyro.evaluation."""
        with torch.no_grad():
            loss = self.terms(model, guide, *args, **kwargs).loss
        warn_if_nan(loss, "loss")
        return loss.item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss; gradients are left on the parameters and the schedules move on a step."""
        terms = self.terms(model, guide, *args, **kwargs)
        terms.loss.backward(retain_graph=self.retain_graph)
        self.step += 1
        warn_if_nan(terms.loss, "loss")
        return terms.loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        # Stock Pyro would score every site here; the analytic KL needs no density of z.
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        _check_match(model_trace, guide_trace, self.max_plate_nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


class ObjectiveModule(ELBOModule):
    """The loss of a (model, guide) pair as a torch module: ``forward(x, lengths, start)``.

    ``forward`` returns the loss summed over sequences, nats. In training mode with gradients
    enabled each call moves the schedules on a step. Where model and guide are bound methods, the
    modules they belong to are submodules, so ``parameters()`` and DistributedDataParallel see them.

    Attributes:
        terms: the parts of the newest loss, detached; None before the first call.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], elbo: ZForcingELBO
    ) -> None:
        super().__init__(cast(nn.Module, model), cast(nn.Module, guide), elbo)
        owners = [getattr(program, "__self__", None) for program in (model, guide)]
        modules = {id(owner): owner for owner in owners if isinstance(owner, nn.Module)}
        self.owners = nn.ModuleList(modules.values())
        self.objective = elbo
        self.terms: ObjectiveTerms | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        terms = self.objective.terms(self.model, self.guide, *args, **kwargs)
        self.terms = terms.detach()
        if self.training and torch.is_grad_enabled():
            self.objective.step += 1
        return terms.loss


def _check_match(model_trace: Trace, guide_trace: Trace, max_plate_nesting: float) -> None:
    """What stock Pyro checks of a pair; a latent site that the guide lacks is an error here."""
    missing = [
        name
        for name, site in sample_sites(model_trace).items()
        if name not in guide_trace
        and not site["is_observed"]
        and not site_is_subsample(cast(Any, site))
    ]
    if missing:
        raise UserError(f"the guide samples no site {missing[0]}, which the model has; add it")
    if not is_validation_enabled():
        return
    try:
        check_model_guide_match(model_trace, guide_trace, max_plate_nesting)
    except ValueError as error:
        raise UserError(f"{error}; make the guide's like the model's") from error


def bound_parts(model_trace: Trace, guide_trace: Trace, analytic_kl: bool) -> tuple[Tensor, Tensor]:
    """(log_likelihood, kl) summed over everything in a pair of traces."""
    model_trace.compute_log_prob(site_filter=lambda _name, site: bool(site.get("is_observed")))
    guide_sites, model_sites = sample_sites(guide_trace), sample_sites(model_trace)
    likelihoods = [site["log_prob_sum"] for site in model_sites.values() if site["is_observed"]]
    divergences = [
        _site_kl(site, guide_sites[name], analytic_kl)
        for name, site in model_sites.items()
        if not site["is_observed"]
    ]
    divergences += [
        _log_prob_sum(site)
        for name, site in guide_sites.items()
        if name not in model_sites and not site["is_observed"]
    ]
    parts = likelihoods + divergences
    nothing = torch.zeros_like(parts[0]) if parts else torch.zeros(())
    return sum(likelihoods, nothing), sum(divergences, nothing)


def _site_kl(model_site: Site, guide_site: Site, analytic: bool) -> Tensor:
    """KL of one latent site, closed form or Monte-Carlo, summed over the batch."""
    if not guide_site["fn"].has_rsample:
        raise UserError(
            f"guide site {guide_site['name']!r} is not reparameterized; ZForcingELBO needs rsample"
        )
    if analytic:
        # As in Pyro's TraceMeanField_ELBO: kinds without a closed form are scored by sampling.
        try:
            divergence = kl_divergence(guide_site["fn"], model_site["fn"])
        except NotImplementedError:
            pass
        else:
            masked = scale_and_mask(divergence, guide_site["scale"], guide_site["mask"])
            return torch.as_tensor(masked).sum()
    return _log_prob_sum(guide_site) - _log_prob_sum(model_site)


def _log_prob_sum(site: Site) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"], site["mask"]).sum()


def auxiliary_parts(
    model_trace: Trace, guide_trace: Trace, weights: tuple[float, ...], *, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(log_auxiliary, log_reverse) summed over the batch; graph only where a weight needs it."""
    auxiliary = reverse = like.new_zeros(())
    exposed = False
    guide_sites = sample_sites(guide_trace)
    for site in sample_sites(model_trace).values():
        costs: AuxiliaryCosts | None = site["infer"].get("auxiliary_costs")
        latent = guide_sites.get(costs.latent) if costs is not None else None
        if costs is None or latent is None or "backward_states" not in latent["infer"]:
            continue
        exposed = True
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(weights[1:])):
            terms = costs.evaluate(latent["infer"]["backward_states"], latent["value"])
            auxiliary = auxiliary + scale_and_mask(terms[0], site["scale"], None).sum()
            reverse = reverse + scale_and_mask(terms[1], site["scale"], None).sum()
    if any(weights[1:]) and not exposed:
        raise UserError(
            "auxiliary_weight or reverse_weight is not 0, but the guide exposes no backward states;"
            ' set both to 0, or sample z with infer={"backward_states": b}'
        )
    return auxiliary, reverse
