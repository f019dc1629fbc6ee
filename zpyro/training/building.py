"""From settings to the objects they describe: likelihood, model and objective."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

import torch

from zpyro import likelihoods
from zpyro.errors import UserError
from zpyro.likelihoods import Likelihood
from zpyro.models import MODELS, SequenceModel
from zpyro.nn.recurrence import RECURRENCES
from zpyro.objectives import schedules
from zpyro.objectives.elbo import ZForcingELBO
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.schedules import Schedule
from zpyro.training import custom_guides as custom_guides
from zpyro.training.config import Config, ModelConfig, ObjectiveConfig


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
    if chosen not in likelihoods.LIKELIHOODS:
        raise UserError(
            f"model.likelihood is {chosen}; choose one of {', '.join(likelihoods.LIKELIHOODS)}"
        )
    kinds = likelihoods.LIKELIHOODS
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
        UserError: for an unknown model or recurrence, or a setting that the model does not have.
    """
    if model.name not in MODELS:
        raise UserError(f"model.name is {model.name}; choose one of {', '.join(MODELS)}")
    recurrences = ("auto", *RECURRENCES)
    if model.recurrence not in recurrences:
        raise UserError(
            f"model.recurrence is {model.recurrence}; choose one of {', '.join(recurrences)}"
        )
    for key in _misplaced(model):
        raise UserError(f"model.{key} means nothing to the model {model.name}; leave it out")
    kind = MODELS[model.name]
    given = {field.name: getattr(model, field.name) for field in fields(model)}
    module = kind(likelihood, **{key: given[key] for key in _taken(kind) & given.keys()})
    module.word_dropout = model.word_dropout
    guide = custom_guides.current()
    if guide is not None:
        guide.attach(module)
    return module


def fitted(config: Config, explicit: Collection[str]) -> tuple[Config, tuple[str, ...]]:
    """The configuration without what its model cannot follow, such as a preset for another model.

    Args:
        config: what was resolved.
        explicit: dotted keys that the user set one by one.

    Returns:
        The configuration, and the keys that went back to their defaults.

    Raises:
        UserError: if one of those keys was set by the user, or the model is unknown.
    """
    if config.model.name not in MODELS:
        raise UserError(f"model.name is {config.model.name}; choose one of {', '.join(MODELS)}")
    model, objective = _misplaced(config.model), dict[str, Any]()
    if not MODELS[config.model.name].has_backward_network:
        objective = {k: v for k, v in _COSTS.items() if getattr(config.objective, k) != v}
    left_out = (*(f"model.{key}" for key in model), *(f"objective.{key}" for key in objective))
    for key in left_out:
        if key in explicit:
            raise UserError(f"{key} means nothing to the model {config.model.name}; leave it out")
    changed = replace(
        config,
        model=replace(config.model, **model),
        objective=replace(config.objective, **objective),
    )
    return changed, left_out


def build_objective(objective: ObjectiveConfig, steps_per_epoch: int) -> ZForcingELBO:
    """The objective with its schedules; an epoch is needed to measure those set in epochs."""
    weights: dict[str, Any] = {
        "kl_weight": _kl(objective),
        "auxiliary_weight": _auxiliary(objective, steps_per_epoch),
        "reverse_weight": objective.reverse_weight,
        "max_plate_nesting": 1,
    }
    if objective.bound != "elbo":
        doubly = objective.bound == "dreg"
        return MultiSampleELBO(objective.particles, **weights, doubly_reparameterized=doubly)
    return ZForcingELBO(
        **weights,
        analytic_kl=objective.analytic_kl,
        free_bits=objective.free_bits,
        free_bits_per=objective.free_bits_per,
        num_particles=objective.particles,
        vectorize_particles=objective.particles > 1,
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


_SIZES = frozenset({"hidden_size", "latent_size", "embedding_size", "mlp_size", "recurrence"})
_COSTS: dict[str, Any] = {
    field.name: field.default
    for field in fields(ObjectiveConfig)
    if field.name.startswith(("auxiliary_", "reverse_"))
}


def _taken(kind: type[SequenceModel]) -> set[str]:
    """The settings that a model's constructor takes."""
    return set(inspect.signature(kind).parameters) - {"likelihood"}


def _misplaced(model: ModelConfig) -> dict[str, Any]:
    """Settings of other models that are not at their defaults, with those defaults.

    Sizes always have a value; a choice that the model cannot follow must not pass unnoticed.
    """
    anyone = set[str]().union(*(_taken(kind) for kind in MODELS.values()))
    others = anyone - _taken(MODELS[model.name]) - _SIZES
    defaults = {field.name: field.default for field in fields(model) if field.name in others}
    return {key: value for key, value in defaults.items() if getattr(model, key) != value}


def _moving(start: float, stop: float, rate: float) -> Schedule:
    if start == stop:
        return schedules.constant(start)
    return schedules.at_rate(start, stop, rate=rate)


def _kl(objective: ObjectiveConfig) -> Schedule:
    """The KL's schedule; sigmoid and each rise of a cycle take as long as the linear one would."""
    start, stop, rate = objective.kl_weight, objective.kl_weight_final, objective.kl_weight_rate
    if start == stop or objective.kl_schedule == "linear":
        return _moving(start, stop, rate)
    steps = max(1, round(abs(stop - start) / rate))
    if objective.kl_schedule == "sigmoid":
        return schedules.sigmoid(start, stop, steps=steps)
    return schedules.cyclical(start, stop, period=2 * steps, cycles=objective.kl_cycles)


def _auxiliary(objective: ObjectiveConfig, steps_per_epoch: int) -> Schedule:
    start, stop = objective.auxiliary_weight, objective.auxiliary_weight_final
    if stop is None or stop == start or objective.auxiliary_weight_rate:
        return _moving(start, start if stop is None else stop, objective.auxiliary_weight_rate)
    steps = max(1, round(objective.auxiliary_weight_epochs * steps_per_epoch))
    return schedules.linear(start, stop, steps=steps)
