"""From settings to the objects they describe: likelihood, model and objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from zpyro import likelihoods, schedules
from zpyro.config import ModelConfig, ObjectiveConfig
from zpyro.elbo import ZForcingELBO
from zpyro.errors import UserError
from zpyro.likelihoods import Likelihood
from zpyro.models import SequenceModel, ZForcing
from zpyro.recurrence import RECURRENCES
from zpyro.schedules import Schedule


def build_likelihood(model: ModelConfig, name: str, size: int) -> Likelihood:
    """The likelihood of a frame.

    Args:
        model: its ``likelihood`` wins over ``name``; gives the likelihood's own settings.
        name: the data set's likelihood.
        size: D, or the size of the vocabulary.

    Raises:
        UserError: for an unknown name, or one that cannot score such frames.
    """
    chosen = model.likelihood or name
    if chosen not in likelihoods.names():
        raise UserError(
            f"model.likelihood is {chosen}; choose one of {', '.join(likelihoods.names())}"
        )
    kinds = likelihoods.KINDS
    if kinds[chosen].discrete_tokens != kinds[name].discrete_tokens:
        raise UserError(f"model.likelihood {chosen} does not fit this data set; take {name}")
    if model.tied_embedding and not kinds[chosen].discrete_tokens:
        raise UserError(
            f"model.tied_embedding is for tokens, but the likelihood is {chosen}; set it to false"
        )
    known = {field.name for field in fields(kinds[chosen])}
    given = {
        "log_variance_bounds": model.log_variance_bounds,
        "components": model.mixture_components,
        "tied": model.tied_embedding,
    }
    return likelihoods.build(chosen, size, **{k: v for k, v in given.items() if k in known})


def build_model(model: ModelConfig, likelihood: Likelihood) -> SequenceModel:
    """A fresh model.

    Raises:
        UserError: for an unknown model or recurrence.
    """
    if model.name not in MODELS:
        raise UserError(f"model.name is {model.name}; choose one of {', '.join(MODELS)}")
    recurrences = ("auto", *RECURRENCES)
    if model.recurrence not in recurrences:
        raise UserError(
            f"model.recurrence is {model.recurrence}; choose one of {', '.join(recurrences)}"
        )
    return MODELS[model.name](model, likelihood)


def build_objective(objective: ObjectiveConfig, steps_per_epoch: int) -> ZForcingELBO:
    """The objective with its schedules; an epoch is needed to measure those set in epochs."""
    return ZForcingELBO(
        kl_weight=_moving(objective.kl_weight, objective.kl_weight_final, objective.kl_weight_rate),
        auxiliary_weight=_auxiliary(objective, steps_per_epoch),
        reverse_weight=objective.reverse_weight,
        analytic_kl=objective.analytic_kl,
        num_particles=objective.particles,
        vectorize_particles=objective.particles > 1,
        max_plate_nesting=1,
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one.

    Raises:
        UserError: for CUDA where there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cuda" and not available:
        raise UserError(
            "device is cuda, but torch finds no CUDA device here; take cpu or auto, "
            "or install a torch built for CUDA"
        )
    return torch.device(name)


def _zforcing(model: ModelConfig, likelihood: Likelihood) -> SequenceModel:
    return ZForcing(
        likelihood,
        model.hidden_size,
        model.latent_size,
        model.embedding_size,
        model.mlp_size,
        backward_layers=model.backward_layers,
        conditional_layer_norm=model.conditional_layer_norm,
        forced_auxiliary=model.forced_auxiliary,
        squared_error_auxiliary=model.squared_error_auxiliary,
        embedding_dropout=model.embedding_dropout,
        recurrence=model.recurrence,
    )


MODELS: dict[str, Callable[[ModelConfig, Likelihood], SequenceModel]] = {"zforcing": _zforcing}
"""Models by the name that ``model.name`` takes."""


def _moving(start: float, stop: float, rate: float) -> Schedule:
    if start == stop:
        return schedules.constant(start)
    return schedules.at_rate(start, stop, rate=rate)


def _auxiliary(objective: ObjectiveConfig, steps_per_epoch: int) -> Schedule:
    start, stop = objective.auxiliary_weight, objective.auxiliary_weight_final
    if stop is None or stop == start or objective.auxiliary_weight_rate:
        return _moving(start, start if stop is None else stop, objective.auxiliary_weight_rate)
    steps = max(1, round(objective.auxiliary_weight_epochs * steps_per_epoch))
    return schedules.linear(start, stop, steps=steps)
