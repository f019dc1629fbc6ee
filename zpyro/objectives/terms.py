"""The terms of an objective: each a name, a weight, and a value for every step.

An objective is a sum of :class:`Term` objects, see :class:`zpyro.ZForcingELBO`. A term reads its
values from a :class:`TracePair`, the traces of one guide call and the model replayed against it.
Everything that reports an objective (accumulators, records, plots) iterates over its terms.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from zpyro.errors import UserError
from zpyro.io.registry import Registry
from zpyro.models.bound_model import BoundModel
from zpyro.models.distributions import TrajectoryDistribution, TrajectoryNormal, step_kl
from zpyro.models.guides import found_latents
from zpyro.models.programs import AuxiliaryCosts
from zpyro.models.sites import Site, sample_sites
from zpyro.objectives.schedules import Schedule, as_schedule

_OF_STEP = re.compile(r"[xz]_\d+")
"""Sites of the step granularity."""

FREE_BITS_GROUPS = ("step", "sequence")
"""What a number of free nats applies to."""


@dataclass(frozen=True, eq=False)
class SiteValues:
    """The values of a term at one site, nats.

    Attributes:
        values: (..., B, S): the steps of a trajectory, or S = 1 for any other site.
        mask: True where a value counts, broadcastable to ``values``; None where all do.
        scale: factor of the site.
        is_step: whether a value belongs to one step, not to a whole sequence.
    """

    values: Tensor
    mask: Tensor | None
    scale: float | Tensor
    is_step: bool = True

    def masked(self) -> Tensor:
        """The values, zero where they do not count; the scale is not applied."""
        if self.mask is None:
            return self.values
        return self.values.where(self.mask, self.values.new_zeros(()))

    def sum(self) -> Tensor:
        """The sum over everything that counts, scaled, 0-dim."""
        scale: Any = self.scale
        if isinstance(scale, Tensor) and scale.dim():
            scale = scale.unsqueeze(-1)
        scaled = scale_and_mask(self.values, cast(float, scale), self.mask)
        return torch.as_tensor(scaled).sum()


class TracePair:
    """The trace of a guide and that of the model replayed against it.

    Args:
        model_trace: of the model.
        guide_trace: of the guide.

    Attributes:
        model_sites: sample sites of the model by name, subsampling sites left out.
        guide_sites: likewise of the guide.
    """

    def __init__(self, model_trace: Trace, guide_trace: Trace) -> None:
        self.model_trace, self.guide_trace = model_trace, guide_trace
        self.model_sites, self.guide_sites = (
            {
                name: site
                for name, site in sample_sites(trace).items()
                if not site_is_subsample(cast(Any, site))
            }
            for trace in (model_trace, guide_trace)
        )

    @cached_property
    def observed(self) -> list[Site]:
        """The observed sites of the model."""
        return [site for site in self.model_sites.values() if site["is_observed"]]

    @cached_property
    def latents(self) -> list[tuple[Site, Site]]:
        """The latent sites of the model, each with that of the guide."""
        sites = self.model_sites.items()
        return [(site, self.guide_sites[name]) for name, site in sites if not site["is_observed"]]

    @cached_property
    def guide_only(self) -> list[Site]:
        """Latent sites of the guide that the model does not have (auxiliary variables)."""
        return [
            site
            for name, site in self.guide_sites.items()
            if name not in self.model_sites and not site["is_observed"]
        ]

    @cached_property
    def costs(self) -> list[tuple[Site, Site, AuxiliaryCosts]]:
        """Observed sites that offer auxiliary costs, the guide's site with b_t, and the costs."""
        found: list[tuple[Site, Site, AuxiliaryCosts]] = []
        for site in self.observed:
            costs: AuxiliaryCosts | None = site["infer"].get("auxiliary_costs")
            latent = None if costs is None else self._latent_beside(site, costs.latent)
            if costs is not None and latent is not None and "backward_states" in latent["infer"]:
                found.append((site, latent, costs))
        return found

    def _latent_beside(self, site: Site, latent: str) -> Site | None:
        """The guide's site of a name, under the prefix that ``autoname.scope`` gave an observed."""
        scope = site["name"].rpartition("/")[0]
        scoped = self.guide_sites.get(f"{scope}/{latent}") if scope else None
        return self.guide_sites.get(latent) if scoped is None else scoped

    @property
    def steps(self) -> int:
        """T."""
        bound = self.bound_model
        if bound is not None:
            return bound.steps
        # A handler may hide a site, and a user's model may observe more than frames.
        names = (*self.guide_sites, *self.model_sites)
        steps = [int(name[2:]) for name in names if _OF_STEP.fullmatch(name)]
        return max(steps, default=len(self.observed))

    @cached_property
    def frames(self) -> list[Site]:
        """The observed sites of the frames, ``x`` or those of ``x_1``, ``x_2``, .. not hidden."""
        found = [site for site in self.observed if site["name"] == "x"]
        found = found or [s for s in self.observed if _OF_STEP.fullmatch(s["name"])]
        return found or self.observed

    @cached_property
    def bound_model(self) -> BoundModel | None:
        """The bound model behind the sites of the sequence granularity, else None."""
        for site in self.observed:
            distribution = site["fn"]
            if isinstance(distribution, TrajectoryDistribution):
                return distribution.bound
        return None

    @cached_property
    def z(self) -> Tensor:
        """The latents of the guide, (..., B, T, Z)."""
        return found_latents(self.guide_sites, self.steps)

    @cached_property
    def x(self) -> Tensor:
        """The frames (..., B, T, D) or tokens (..., B, T)."""
        if "x" in self.model_sites:
            return self.model_sites["x"]["value"]
        sites = [self.model_sites[f"x_{t}"] for t in range(1, self.steps + 1)]
        return torch.stack([site["value"] for site in sites], -1 - len(sites[0]["fn"].event_shape))

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, T), True within each sequence unless a handler masks it; None where all count."""
        batch = self.frames[0]["fn"].batch_shape[-1:]
        sites = self.frames
        if self.bound_model is None:
            sites = [
                self.model_sites.get(f"x_{t}") or self.model_sites[f"z_{t}"]
                for t in range(1, self.steps + 1)
            ]
        masks = [self.values(self.z.new_empty(*batch, 1), site).mask for site in sites]
        if all(mask is None for mask in masks):
            return None
        whole = torch.ones(1, dtype=torch.bool, device=self.z.device)
        shape = (*batch, self.steps // len(sites))
        return torch.cat([(whole if m is None else m).expand(shape) for m in masks], -1)

    def values(self, values: Tensor, site: Site) -> SiteValues:
        """Values (..., B, T) of a trajectory, or (..., B) of another site, with mask and scale."""
        mask, distribution = site["mask"], site["fn"]
        if mask is not None:
            mask = torch.as_tensor(mask, device=values.device).unsqueeze(-1)
        if isinstance(distribution, TrajectoryDistribution):
            within = distribution.bound.conditions.mask
            if within is not None:
                mask = within if mask is None else within & mask
            return SiteValues(values, mask, site["scale"])
        return SiteValues(values.unsqueeze(-1), mask, site["scale"])

    def log_prob(self, site: Site) -> SiteValues:
        """The log-density of a site at its value."""
        distribution, value = site["fn"], site["value"]
        if isinstance(distribution, TrajectoryDistribution):
            return self.values(distribution.step_log_prob(value), site)
        return self.values(distribution.log_prob(value, *site["args"], **site["kwargs"]), site)

    def closed_form_kl(self, model_site: Site, guide_site: Site) -> SiteValues | None:
        """KL(q || p) of one latent site, or None where no closed form is registered.

        As in ``pyro.infer.TraceMeanField_ELBO``, mask and scale are those of the guide's site.
        """
        posterior, prior = guide_site["fn"], model_site["fn"]
        if isinstance(posterior, TrajectoryNormal) and isinstance(prior, TrajectoryNormal):
            return self.values(step_kl(posterior, prior, guide_site["value"]), guide_site)
        try:
            return self.values(kl_divergence(posterior, prior), guide_site)
        except NotImplementedError:
            return None


class Term(abc.ABC):
    """One term of an objective.

    A subclass sets ``name`` and defines :meth:`step_values`. The objective adds
    ``sign * weight * sum of the values`` and reports the sum under the name.

    Args:
        weight: a number or a schedule of the training step.

    Attributes:
        name: key in records, unique within an objective.
        label: name on screens and in plots; the name unless a subclass sets it.
        sign: +1 where larger is better, -1 for a cost.

    Raises:
        UserError: if the class has no name.

    Example::

        class Sparsity(zpyro.objectives.Term):
            name, label, sign = "sparsity", "sparsity", -1.0

            def step_values(self, path):
                return path.z.abs().sum(-1)

        objective = zpyro.ZForcingELBO(terms=[Sparsity(0.01)])
    """

    name: ClassVar[str]
    label: ClassVar[str]
    sign: ClassVar[float] = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "label") and hasattr(cls, "name"):
            cls.label = cls.name.replace("_", " ")

    def __init__(self, weight: float | Schedule = 0.0) -> None:
        if not isinstance(getattr(self, "name", None), str):
            raise UserError(
                f'objective term {type(self).__name__}: has no name; set name = "..." in the class'
            )
        self.weight = as_schedule(weight)

    @property
    def weight_name(self) -> str | None:
        """Name of the weight in records and settings; None for a term without one."""
        return f"{self.name}_weight"

    @abc.abstractmethod
    def step_values(self, path: TracePair) -> Tensor:
        """The value of each step, nats, (..., B, T); padding may hold anything."""

    def site_values(self, path: TracePair) -> list[SiteValues]:
        """The values with their masks and scales; by default :meth:`step_values`.

        Raises:
            UserError: if those are not a tensor (..., B, T).
        """
        first = path.frames[0]
        # A user's term may return anything.
        values: Any = self.step_values(path)
        expected = (first["fn"].batch_shape[-1], path.steps)
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if not isinstance(values, Tensor) or found[-2:] != expected:
            raise UserError(
                f"objective term {self.name}: step_values returned {found}; it must return one "
                f"value per sequence and step, a tensor of shape (..., {expected[0]}, "
                f"{expected[1]})"
            )
        return [SiteValues(values, path.mask, first["scale"])]

    def trained(self, sites: Sequence[SiteValues], total: Tensor) -> Tensor:
        """What enters the loss: the sum over the sites unless a subclass changes it."""
        del sites
        return total

    def check(self, path: TracePair, weight: float) -> None:
        """Raise UserError where the traces cannot give this term with a weight that is not 0."""
        del path, weight


def total(sites: Iterable[SiteValues], like: Tensor) -> Tensor:
    """The sum over sites, 0-dim; zero of the dtype and device of ``like`` where there are none."""
    sums = [site.sum() for site in sites]
    return sum(sums[1:], sums[0]) if sums else like.new_zeros(())


def stacked(sites: Sequence[SiteValues]) -> Tensor:
    """The masked values of a trajectory, or of one site per step, as (..., B, T)."""
    return sites[0].masked() if len(sites) == 1 else torch.cat([s.masked() for s in sites], -1)


class LogLikelihood(Term):
    """sum_t E_q log p(x_t | h_t); its weight is always 1."""

    name, label = "log_likelihood", "log-likelihood"

    def __init__(self) -> None:
        super().__init__(1.0)

    @property
    def weight_name(self) -> None:
        return None

    def step_values(self, path: TracePair) -> Tensor:
        return stacked(self.site_values(path))

    def site_values(self, path: TracePair) -> list[SiteValues]:
        return [path.log_prob(site) for site in path.observed]


class KL(Term):
    """sum_t KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) along the sampled path.

    Args:
        weight: a number or a schedule of the training step.
        analytic: the closed form of every step (as published) or, if False or where none is
            registered, the Monte-Carlo log q - log p.
        free_bits: nats of KL per group that cost nothing: the loss holds max(KL, free_bits)
            (Kingma et al., arXiv:1606.04934, appendix C.8, with all latents of a step as a group).
        free_bits_per: "step" or "sequence", the group.

    Raises:
        ValueError: for another group.
    """

    name, label, sign = "kl", "KL", -1.0

    def __init__(
        self,
        weight: float | Schedule = 1.0,
        *,
        analytic: bool = True,
        free_bits: float = 0.0,
        free_bits_per: str = "step",
    ) -> None:
        super().__init__(weight)
        if free_bits_per not in FREE_BITS_GROUPS:
            raise ValueError(
                f"free_bits_per is {free_bits_per!r}; choose one of {FREE_BITS_GROUPS}"
            )
        self.analytic = analytic
        self.free_bits = free_bits
        self.free_bits_per = free_bits_per

    def step_values(self, path: TracePair) -> Tensor:
        return stacked(self.site_values(path))

    def site_values(self, path: TracePair) -> list[SiteValues]:
        found: list[SiteValues] = []
        for model_site, guide_site in path.latents:
            if not guide_site["fn"].has_rsample:
                raise UserError(
                    f"guide site {guide_site['name']!r} is not reparameterized; "
                    "sample it from a distribution that has rsample"
                )
            kl = path.closed_form_kl(model_site, guide_site) if self.analytic else None
            found += [kl] if kl is not None else self._monte_carlo(path, model_site, guide_site)
        return found + [path.log_prob(site) for site in path.guide_only]

    def _monte_carlo(self, path: TracePair, model_site: Site, guide_site: Site) -> list[SiteValues]:
        """log q - log p at the sample, each with the mask and scale of its own site."""
        posterior, prior = path.log_prob(guide_site), path.log_prob(model_site)
        if not self.free_bits:
            return [posterior, SiteValues(-prior.values, prior.mask, prior.scale)]
        if posterior.values.shape[-1] == prior.values.shape[-1]:
            difference = posterior.values - prior.values
            return [SiteValues(difference, posterior.mask, posterior.scale)]
        # The guide scores whole sequences, the prior their steps.
        wholes = [each.masked().sum(-1, keepdim=True) for each in (posterior, prior)]
        mask = None if guide_site["mask"] is None else posterior.mask
        return [SiteValues(wholes[0] - wholes[1], mask, posterior.scale, is_step=False)]

    def trained(self, sites: Sequence[SiteValues], total: Tensor) -> Tensor:
        """The KL above the free bits, or all of it where there are none."""
        if not self.free_bits or not sites:
            return total
        if self.free_bits_per == "step":
            if not all(site.is_step for site in sites):
                raise UserError(
                    "objective.free_bits: a latent site of the guide holds whole sequences, so the "
                    "KL has no value per step; set objective.free_bits_per to sequence"
                )
            parts = [SiteValues(s.values.clamp(min=self.free_bits), s.mask, s.scale) for s in sites]
            return torch.stack([part.sum() for part in parts]).sum()
        totals = [site.masked().sum(-1, keepdim=True) for site in sites]
        present = [
            torch.ones_like(site.values, dtype=torch.bool) if site.mask is None else site.mask
            for site in sites
        ]
        nonempty = torch.broadcast_tensors(*(each.any(-1, keepdim=True) for each in present))
        summed = torch.stack(totals).sum(0).clamp(min=self.free_bits)
        return SiteValues(summed, torch.stack(nonempty).any(0), sites[0].scale).sum()


class _AuxiliaryTerm(Term):
    """A term that reads the backward states b_1..b_T exposed by the guide."""

    def check(self, path: TracePair, weight: float) -> None:
        if weight and not path.costs:
            raise UserError(
                "auxiliary_weight or reverse_weight is not 0, but the guide exposes no backward "
                'states; set both to 0, or sample z with infer={"backward_states": b}'
            )

    def step_values(self, path: TracePair) -> Tensor:
        return stacked(self.site_values(path))


class Auxiliary(_AuxiliaryTerm):
    """sum_t E_q log p(stop_gradient(b_t) | z_t, h_{t-1}), weight alpha.

    The gradient does not reach b_t as the target (:meth:`zpyro.models.SmoothingModel.auxiliary`
    detaches it); it reaches z_t, and through z_t the posterior.
    """

    name, label = "log_auxiliary", "auxiliary"

    @property
    def weight_name(self) -> str:
        return "auxiliary_weight"

    def site_values(self, path: TracePair) -> list[SiteValues]:
        found: list[SiteValues] = []
        for site, latent, costs in path.costs:
            values = costs.log_auxiliary(latent["infer"]["backward_states"], latent["value"])
            found.append(path.values(values, site))
        return found


class Reverse(_AuxiliaryTerm):
    """sum_t log p(x_{t-1} | b_t), weight beta."""

    name, label = "log_reverse", "reverse"

    @property
    def weight_name(self) -> str:
        return "reverse_weight"

    def site_values(self, path: TracePair) -> list[SiteValues]:
        found: list[SiteValues] = []
        for site, latent, costs in path.costs:
            values = costs.log_reverse(latent["infer"]["backward_states"])
            # One value per sequence and step, whatever the number of particles.
            values = values.expand(torch.broadcast_shapes(values.shape, _lead(site, values)))
            found.append(path.values(values, site))
        return found


def _lead(site: Site, values: Tensor) -> torch.Size:
    """The batch shape of a site, with the steps of a trajectory."""
    batch = torch.Size(site["fn"].batch_shape)
    is_trajectory = isinstance(site["fn"], TrajectoryDistribution)
    return torch.Size((*batch, values.shape[-1])) if is_trajectory else batch


TERMS: Registry[type[Term]] = Registry("objective term", group="zpyro.terms")
"""Further terms by name, see :func:`register`; each has settings ``objective.NAME_weight``."""


# The other columns of the records that hold the value of each term.
RESERVED_NAMES = frozenset(
    {
        "auxiliary",
        "bad_step",
        "bad_term",
        "best",
        "bound",
        "epoch",
        "frames",
        "frames_per_second",
        "gradient_norm",
        "kind",
        "kl",
        "learning_rate",
        "log_auxiliary",
        "log_likelihood",
        "log_reverse",
        "loss",
        "reverse",
        "seconds",
        "sequences",
        "skipped",
        "step",
        "steps",
        "values",
        "weights",
        "z",
    }
)


def register(term: type[Term]) -> type[Term]:
    """Make a term available to the command line; usable as a class decorator.

    Raises:
        UserError: if its name is missing, taken or that of another column of the records, or a
            method that it must define is missing.
    """
    name = getattr(term, "name", "")
    if not name.isidentifier() or name in RESERVED_NAMES:
        raise UserError(
            f"objective term {term.__name__}: the name {name!r} is missing or reserved; "
            "choose another"
        )
    if missing := getattr(term, "__abstractmethods__", ()):
        raise UserError(
            f"objective term {term.__name__}: lacks {', '.join(sorted(missing))}; define it"
        )
    TERMS.register(name, term)
    return term
