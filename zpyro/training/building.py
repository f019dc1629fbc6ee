"""From settings to the objects they describe: likelihood, model and objective."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from zpyro.datasets.sequences import Dataset
from zpyro.errors import UserError, pluralize
from zpyro.likelihoods import LIKELIHOODS, Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.config import ModelConfig, arguments, config_class, likelihood_setting
from zpyro.models.registry import MODELS
from zpyro.objectives import schedules
from zpyro.objectives.elbo import ZForcingELBO
from zpyro.objectives.fivo import FIVO
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.schedules import Schedule
from zpyro.objectives.terms import TERMS, Term
from zpyro.settings import Limits
from zpyro.training.config import ObjectiveConfig
from zpyro.training.custom_guides import GuideMaker

VALUES = {"tokens": "tokens", "binary": "zeros and ones", "frames": "numbers of any kind"}
"""Types of data, in messages."""


def build_likelihood(model: ModelConfig, name: str, size: int) -> Likelihood:
    """The likelihood of a frame.

    Args:
        model: its ``likelihood`` takes precedence over ``name``; gives the likelihood's settings.
        name: the data set's likelihood.
        size: D, or the size of the vocabulary.

    Raises:
        UserError: for an unknown name, or one that cannot score such frames.
    """
    cls = LIKELIHOODS.find(model.likelihood or name, "model.likelihood")
    if model.tied_embedding and not cls.discrete_tokens:
        raise UserError(
            f"model.tied_embedding is for tokens, but the likelihood is {cls.name}; set it to false"
        )
    named = {field.name: likelihood_setting(field.name) for field in fields(cls)}
    values = vars(model)
    given = {field: values[key] for field, key in named.items() if key in values}
    likelihood = cls(size, **given)
    wanted = LIKELIHOODS[name](size).data_type
    if likelihood.data_type != wanted:
        raise UserError(
            f"model.likelihood {cls.name} does not fit this data set: it scores "
            f"{VALUES[likelihood.data_type]}, the data are {VALUES[wanted]}; take {name}"
        )
    return likelihood


def fit_to_data(model: ModelConfig, dataset: Dataset) -> ModelConfig:
    """The settings with the likelihood, missing values and covariates that a data set has.

    A model that was set up for missing values stays so without any. A discretized likelihood gets
    the normalization of the data, with which it finds the samples behind normalized frames.

    Raises:
        UserError: if the model cannot score such frames, or has no settings for missing values or
            covariates that the data have.
    """
    likelihood = build_likelihood(model, dataset.likelihood, dataset.frame_size)
    changes: dict[str, Any] = {"likelihood": likelihood.name}
    if likelihood.discretized:
        if dataset.train.data_type != "audio":
            raise UserError(
                f"model.likelihood {likelihood.name} is for sound, which the data set "
                f"{dataset.name} is not; take {dataset.likelihood}"
            )
        normalization = dataset.train.normalization
        changes["sample_mean"], changes["sample_scale"] = normalization.mean, normalization.scale
    size = dataset.covariate_size
    if getattr(model, "covariate_size", 0) not in (0, size):
        raise UserError(
            f"model.covariate_size is {getattr(model, 'covariate_size', 0)}, but the data have "
            f"{pluralize(size, 'covariate')}; leave it out"
        )
    needed = {"missing": dataset.has_missing or model.mask_rate > 0, "covariate_size": size}
    for name, value in needed.items():
        if hasattr(model, name):
            changes[name] = value or getattr(model, name)
        elif value:
            what = "missing values, or model.mask_rate," if name == "missing" else "covariates"
            raise UserError(
                f"model {model.name}: cannot use data with {what}; give its constructor the "
                f"argument {name}, or leave them out of the data"
            )
    return replace(model, **changes)


def build_model(
    model: ModelConfig, likelihood: Likelihood, guide: GuideMaker | None = None
) -> SequenceModel:
    """A fresh model.

    Args:
        model: its settings.
        likelihood: density of one frame.
        guide: a custom guide to attach to it.

    Raises:
        UserError: for an unknown model, a value outside its limits, or a guide that fails.
    """
    cls = MODELS.find(model.name, "model.name")
    for field in fields(config_class(model.name)):
        value = getattr(model, field.name, field.default)
        complaint = field.metadata.get("limits", Limits()).complaint(value)
        if complaint is not None:
            raise UserError(f"model.{field.name} is {value}; it must be {complaint}")
    try:
        module = cls(likelihood, **arguments(model))
    except RuntimeError as error:
        # torch has no exception of its own for memory that the CPU lacks.
        if "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"model {model.name}: its weights do not fit in memory; set model.hidden_size and the "
            "other sizes lower, or give data with smaller frames or a smaller vocabulary"
        ) from error
    if model.fill == "interpolate" and (likelihood.support.is_discrete or not module.reads_future):
        raise UserError(
            f"model.fill is interpolate, which is for continuous data and models whose posterior "
            f"reads the future, not for the model {model.name} with the likelihood "
            f"{likelihood.name}; set it to zeros"
        )
    for name in ("word_dropout", "mask_rate", "mask_length", "fill"):
        setattr(module, name, getattr(model, name))
    if guide is not None:
        guide.attach(module)
    return module


def build_objective(objective: ObjectiveConfig, steps_per_epoch: int) -> ZForcingELBO:
    """The objective with its schedules; an epoch is needed to measure those set in epochs."""
    arguments: dict[str, Any] = {
        "kl_weight": _kl(objective),
        "auxiliary_weight": _auxiliary(objective, steps_per_epoch),
        "reverse_weight": objective.reverse_weight,
        "terms": _registered_terms(objective),
        "max_plate_nesting": 1,
    }
    if objective.bound == "fivo":
        added = arguments.pop("terms")
        if added:
            raise UserError(
                f"objective.{added[0].weight_name}: the term needs whole paths, which the bound "
                "fivo does not have; take the bound elbo or iwae"
            )
        return FIVO(
            objective.particles,
            **arguments,
            threshold=objective.resampling_threshold,
            resampling_gradient=objective.resampling_gradient,
        )
    if objective.bound != "elbo":
        doubly = objective.bound == "dreg"
        return MultiSampleELBO(objective.particles, **arguments, doubly_reparameterized=doubly)
    return ZForcingELBO(
        **arguments,
        analytic_kl=objective.analytic_kl,
        free_bits=objective.free_bits,
        free_bits_per=objective.free_bits_per,
        num_particles=objective.particles,
        vectorize_particles=objective.particles > 1,
    )


def _registered_terms(objective: ObjectiveConfig) -> list[Term]:
    """The registered terms whose weight is not always 0."""
    found: list[Term] = []
    for name, term in TERMS.items():
        weight, final, rate = (
            getattr(objective, f"{name}_weight{part}", None) for part in ("", "_final", "_rate")
        )
        if weight or final:
            moving = _moving(weight or 0.0, weight if final is None else final, rate)
            try:
                found.append(term(moving))
            except TypeError as error:
                raise UserError(
                    f"objective term {name}: cannot be made of its weight ({error}); "
                    "let its __init__ take the weight as the only required argument"
                ) from error
    return found


def _moving(start: float, stop: float | None, rate: float | None) -> Schedule:
    if stop is None or start == stop or not rate:
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
