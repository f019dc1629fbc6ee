"""The Z-Forcing objective as a Pyro ELBO (Goyal et al., arXiv:1711.05411, equation 9)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_model_guide_match, warn_if_nan
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.models.sites import replay_directly, sample_sites
from zpyro.objectives.schedules import Schedule
from zpyro.objectives.terms import KL, Auxiliary, LogLikelihood, Reverse, Term, TracePair, total


@dataclass(frozen=True, eq=False)
class ObjectiveTerms:
    """The named terms of the objective, nats, each a 0-dim tensor summed over sequences::

        loss = -(sum over terms of sign * weight * value)

    With free bits, or in the multi-sample bound, ``loss`` is computed from other numbers; the
    values here and :attr:`bound` are always the plain ones.

    Each value and weight is also an attribute: ``terms.kl``, ``terms.kl_weight``.

    Attributes:
        values: by name of the term, unweighted: log_likelihood = sum_t E_q log p(x_t | h_t), kl,
            log_auxiliary and log_reverse (0 without backward states), then the user's own.
        weights: by name of the weight, at the present step.
        loss: what is minimized.
    """

    values: Mapping[str, Tensor]
    weights: Mapping[str, float]
    loss: Tensor

    def __getattr__(self, name: str) -> Any:
        for found in (self.__dict__.get("values", {}), self.__dict__.get("weights", {})):
            if name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__} has no term or weight {name}")

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound, log_likelihood - kl, whatever the weights."""
        return self.values["log_likelihood"] - self.values["kl"]

    def detach(self) -> ObjectiveTerms:
        """The same numbers without their graph."""
        values = {name: value.detach() for name, value in self.values.items()}
        return replace(self, values=values, loss=self.loss.detach())


class ZForcingELBO(ELBO):
    """The evidence lower bound with a weighted KL and Z-Forcing's two auxiliary terms.

    Per sequence, maximized, with sums over the valid steps::

        sum_t E_q[log p(x_t | h_t)] - kl_weight sum_t KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1}))
          + auxiliary_weight sum_t E_q[log p(stop_gradient(b_t) | z_t, h_{t-1})]
          + reverse_weight sum_t log p(x_{t-1} | b_t)

    It works as the loss of ``pyro.infer.SVI`` and, as ``ZForcingELBO(...)(model, guide)``, as a
    torch module. With weights 1, 0, 0 it is ``TraceMeanField_ELBO`` (analytic KL) or
    ``Trace_ELBO`` (Monte-Carlo KL). As in Pyro, the sum over sequences is optimized.

    Args:
        kl_weight: a number or a schedule of the training step.
        auxiliary_weight: alpha, likewise.
        reverse_weight: beta, likewise.
        analytic_kl: see :class:`~zpyro.objectives.KL`.
        free_bits: likewise.
        free_bits_per: likewise.
        terms: further terms, each a :class:`~zpyro.objectives.Term` with its own weight.
        **settings: those of ``pyro.infer.ELBO``: num_particles, vectorize_particles,
            max_plate_nesting, retain_graph.

    Attributes:
        components: the terms in order: log-likelihood, KL, auxiliary, reverse, then the user's.
        step: training steps taken, the argument of the schedules; part of ``state_dict``.

    Raises:
        ValueError: for an unknown ``free_bits_per``, or two terms of one name.

    Example::

        objective = zpyro.ZForcingELBO(
            kl_weight=zpyro.schedules.linear(0.2, 1.0, steps=1_000), auxiliary_weight=0.005
        )
        svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective)
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
        terms: Iterable[Term] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        kl = KL(kl_weight, analytic=analytic_kl, free_bits=free_bits, free_bits_per=free_bits_per)
        auxiliary, reverse = Auxiliary(auxiliary_weight), Reverse(reverse_weight)
        self.components: tuple[Term, ...] = (LogLikelihood(), kl, auxiliary, reverse, *terms)
        names = [term.name for term in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"two terms of the objective have one name: {', '.join(names)}")
        self.step = 0
        self._weight_tensor: Tensor | None = None

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> ObjectiveModule:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A torch module of the loss for this pair, see :class:`ObjectiveModule`."""
        return ObjectiveModule(model, guide, self)

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ObjectiveTerms:
        """The named terms of the objective at the present step, differentiable.

        Raises:
            UserError: if an auxiliary weight is not zero and the guide exposes no backward states.
        """
        values: list[Tensor] = []
        for traces in self._get_traces(model, guide, args, kwargs):
            values.append(torch.stack(self._values(TracePair(*traces))))
        averages = torch.stack(values).sum(0) / self.num_particles
        reported, trained = averages.chunk(2)
        return self._result(reported, -trained[0], trained)

    def _values(self, path: TracePair) -> list[Tensor]:
        """The reported value of every term, then what of each enters the loss."""
        weights = self.weights()
        reported: list[Tensor] = []
        trained: list[Tensor] = []
        for term in self.components:
            weight = weights.get(term.weight_name or "", 1.0)
            term.check(path, weight)
            # Terms without weight are reported and cost no backward pass.
            is_bound = isinstance(term, LogLikelihood | KL)
            with torch.set_grad_enabled(torch.is_grad_enabled() and (bool(weight) or is_bound)):
                sites = term.site_values(path)
                value = total(sites, like=reported[0] if reported else torch.zeros(()))
                reported.append(value)
                trained.append(term.trained(sites, value))
        return reported + trained

    def _result(self, reported: Tensor, loss: Tensor, trained: Tensor) -> ObjectiveTerms:
        """The terms and the loss: ``loss`` so far, then every weighted term but the first."""
        weights, factors = self.weights(), self._factors()
        for term, value in zip(self.components[1:], trained[1:], strict=True):
            name = cast(str, term.weight_name)
            if weights[name]:
                loss = loss - term.sign * factors[name] * value
        values = dict(zip([term.name for term in self.components], reported, strict=True))
        return ObjectiveTerms(values, weights, loss)

    @property
    def kl_weight(self) -> Schedule:
        """The schedule of the KL's weight."""
        return self.components[1].weight

    @property
    def auxiliary_weight(self) -> Schedule:
        """The schedule of the auxiliary term's weight, alpha."""
        return self.components[2].weight

    @property
    def reverse_weight(self) -> Schedule:
        """The schedule of the reverse term's weight, beta."""
        return self.components[3].weight

    def weights(self) -> dict[str, float]:
        """The weight of every term but the log-likelihood at the present step, in order."""
        return {
            term.weight_name: term.weight(self.step)
            for term in self.components
            if term.weight_name is not None
        }

    def _factors(self) -> Mapping[str, float | Tensor]:
        """What the terms are multiplied by: the weights, or the tensor elements that hold them."""
        weights = self.weights()
        if self._weight_tensor is None:
            return weights
        return dict(zip(weights, self._weight_tensor, strict=False))

    @contextlib.contextmanager
    def weighted(self, weights: Tensor) -> Generator[None, None, None]:
        """Within the context, the loss reads its weights from a tensor.

        A captured CUDA graph replays with new numbers in the same memory. Terms whose present
        weight is 0 are left out all the same.

        Args:
            weights: in the order of :meth:`weights`, at least so many elements.
        """
        self._weight_tensor = weights
        try:
            yield
        finally:
            self._weight_tensor = None

    def state_dict(self) -> dict[str, int]:
        """The training step, on which the schedules depend."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.step = int(state["step"])

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
        """The loss; gradients are accumulated in the parameters and ``step`` grows by one."""
        terms = self.terms(model, guide, *args, **kwargs)
        terms.loss.backward(retain_graph=self.retain_graph)
        self.step += 1
        warn_if_nan(terms.loss, "loss")
        return terms.loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        # Stock Pyro would score every site here; the analytic KL needs no density of z.
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = replay_directly(model, guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        _check_match(model_trace, guide_trace, self.max_plate_nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


class ObjectiveModule(ELBOModule):
    """The loss of a (model, guide) pair as a torch module: ``forward(x, lengths, start)``.

    ``forward`` returns the loss summed over sequences, nats. In training mode with gradients
    enabled each call increments the step of the schedules, which is part of ``state_dict``. Where
    model and guide are bound methods, the modules they belong to are submodules, so
    ``parameters()`` and DistributedDataParallel see them.

    Attributes:
        terms: the terms of the newest loss, detached; None before the first call.
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

    def get_extra_state(self) -> dict[str, int]:
        """The step of the schedules."""
        return self.objective.state_dict()

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Restore the step of the schedules."""
        self.objective.load_state_dict(state)


def _check_match(model_trace: Trace, guide_trace: Trace, max_plate_nesting: float) -> None:
    """The checks of stock Pyro; a latent site that the guide lacks is an error here."""
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
        raise UserError(f"{error}; make the guide's sites match the model's") from error
