"""The filtering variational objective: the bound of a particle filter, to train on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.particles import FilterRun, at_places, run_filter, select_particles
from zpyro.nn.blocks import in_blocks
from zpyro.objectives.elbo import ObjectiveModule, ObjectiveTerms, ZForcingELBO
from zpyro.objectives.schedules import Schedule


class FIVO(ZForcingELBO):
    """The bound of a particle filter with K particles instead of the evidence lower bound.

    Per sequence, maximized, with the filter of :func:`zpyro.smc`, whose weights are those of
    :mod:`zpyro.models.particles`::

        E log p^(x)   + the auxiliary terms of ZForcingELBO

    where p^ is an unbiased estimate of p(x) if kl_weight is 1, so that this is a lower bound of
    log p(x). With another kl_weight, p(z) / q(z) enters the weights with that power, in the
    resampling too. K = 1 is the evidence lower bound with a Monte-Carlo KL, and a threshold of 0
    the importance-weighted bound of :class:`zpyro.MultiSampleELBO`.

    The gradient is that of log p^ along the particles; as published, it leaves out that resampling
    depends on the weights. ``resampling_gradient`` adds what is missing for an unbiased gradient,
    at a high variance: with A_t the logarithm of the probability of the ancestors chosen at step
    t, the score-function term::

        sum_t (log p^(x_{t+1}, .. | x_1..x_t)) grad A_t

    The filter moves with the model's own guide, called without handlers of Pyro's. The reported
    terms are means over the particles of each step.

    Args:
        num_particles: K.
        kl_weight: a number or a schedule of the training step.
        auxiliary_weight: see :class:`zpyro.ZForcingELBO`.
        reverse_weight: likewise.
        threshold: particles are resampled where their effective number is below this fraction of K;
            0 never does, 1 almost always.
        resampling_gradient: whether to add the score-function term. Ancestors are then sampled
            independently (multinomial resampling): those of the systematic scheme, the default,
            have no such term of finite variance.
        **settings: further ones of ``pyro.infer.ELBO``.

    Raises:
        ValueError: for a threshold outside 0 to 1.

    Source: equation 5 and section 3 of arXiv:1705.09279; see also arXiv:1705.10306 and
    arXiv:1705.11140::

        @inproceedings{maddison2017fivo,
          title={Filtering Variational Objectives},
          author={Maddison, Chris J. and Lawson, Dieterich and Tucker, George and Heess, Nicolas and
                  Norouzi, Mohammad and Mnih, Andriy and Doucet, Arnaud and Teh, Yee Whye},
          booktitle={Advances in Neural Information Processing Systems},
          year={2017}
        }
    """

    def __init__(
        self,
        num_particles: int,
        kl_weight: float | Schedule = 1.0,
        auxiliary_weight: float | Schedule = 0.0,
        reverse_weight: float | Schedule = 0.0,
        *,
        threshold: float = 0.5,
        resampling_gradient: bool = False,
        **settings: Any,
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}; give a number from 0 to 1")
        super().__init__(
            kl_weight,
            auxiliary_weight,
            reverse_weight,
            analytic_kl=False,
            num_particles=num_particles,
            vectorize_particles=True,
            **settings,
        )
        self.threshold = threshold
        self.resampling_gradient = resampling_gradient

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> ObjectiveModule:  # pyright: ignore[reportIncompatibleMethodOverride]
        _owner(model, guide)
        return super().__call__(model, guide)

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ObjectiveTerms:
        """The named terms of the objective at the present step, differentiable.

        Raises:
            UserError: if model and guide are not those of one sequence model with latents, or an
                auxiliary weight is not zero and the model has no backward network.
        """
        module = _owner(model, guide)
        module.register_parameters()
        bound = module.bind(*args, **kwargs)
        run = self._filtered(bound)
        estimate = run.log_likelihood
        if self.resampling_gradient:
            later = run.log_factors.detach()
            later = later.flip(0).cumsum(0).flip(0) - later
            term = (run.ancestor_scores * later).sum(0)
            # Its gradient, without a change of the value.
            estimate = estimate + term - term.detach()
        reported = torch.stack(self._reported(bound, run))
        trained = torch.cat([torch.zeros_like(reported[:2]), reported[2:]])
        return self._result(reported, -estimate.sum(), trained)

    def _filtered(self, bound: BoundModel) -> FilterRun:
        module, particles = bound.model, self.num_particles
        like, source = next(module.parameters()), bound.model.noise_source
        shape = torch.Size((particles, bound.sequences, bound.steps, module.latent_size))
        draws = source.normal(shape, like, dim=1)
        if self.resampling_gradient:
            places = source.uniform(shape[:3], like, dim=1)
        else:
            places = source.uniform(shape[1:3], like)
        run = run_filter(
            bound,
            zip(draws.unbind(2), places.unbind(-1), strict=True),
            particles,
            self.threshold,
            kl_weight=self._factors()["kl_weight"],
            multinomial=self.resampling_gradient,
            keep_steps=True,
        )
        override = module.initial_state_override
        if override is not None:
            # A stream continues from one of the particles.
            place = source.uniform(torch.Size((bound.sequences,)), like).to(run.log_weights)
            chosen = at_places(run.log_weights.detach(), place.unsqueeze(0))
            override.final = tuple(part.detach() for part in select_particles(run.state, chosen))
        return run

    def _reported(self, bound: BoundModel, run: FilterRun) -> list[Tensor]:
        """Log-likelihood, KL, auxiliary and reverse term, means over particles."""

        def summed(values: Tensor) -> Tensor:
            rows = values.reshape(bound.steps, -1, bound.sequences)
            return bound.per_step(rows, rows.shape[1:2]).sum() / rows.shape[1]

        found = [summed(part.detach()) for part in run.values]
        assert run.steps is not None
        module = bound.model
        weights = self.weights()
        for name in ("auxiliary_weight", "reverse_weight"):
            weight = weights[name]
            if not module.has_backward_network:
                if weight:
                    raise UserError(
                        f"{name} is not 0, but a {type(module).__name__} has no backward states; "
                        "set it to 0"
                    )
                found.append(found[0].new_zeros(()))
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(weight)):
                future = bound.backward_states
                if name == "reverse_weight":
                    values = bound.reverse(future, bound.x)
                else:
                    latents, contexts = (
                        part.unflatten(1, (-1, bound.sequences))
                        for part in (run.steps.z, run.steps.context)
                    )
                    targets = future.transpose(0, 1).unsqueeze(1)
                    values = in_blocks(module.auxiliary, targets, latents, contexts)
                found.append(summed(values))
        return found


def _owner(model: Callable[..., Any], guide: Callable[..., Any]) -> SequenceModel:
    """The model that both programs belong to.

    Raises:
        UserError: if the filter cannot run with it.
    """
    owners = [
        program.args[0] if isinstance(program, partial) else getattr(program, "__self__", None)
        for program in (model, guide)
    ]
    module = owners[0]
    if (
        not isinstance(module, SequenceModel)
        or owners[1] is not module
        or module.custom_guide is not None
        or type(module).guide is not SequenceModel.guide
    ):
        raise UserError(
            "objective.bound fivo: moves with the model's own guide, this one has another; "
            "take the bound iwae"
        )
    if not module.latent_size:
        raise UserError(
            f"objective.bound fivo: {type(module).__name__} has no latents, so that every "
            "bound is the same; take the bound elbo"
        )
    return module
