"""Settings of models: each model's constructor defines the settings ``model.*`` of that model.

:func:`config_class` derives a frozen dataclass from a constructor's signature: names, types,
defaults, and the meaning of each argument from the docstring's Args. A new argument is a setting
without further code.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from zpyro.errors import UserError
from zpyro.likelihoods import LIKELIHOODS, Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.masking import FILLS
from zpyro.models.registry import MODELS
from zpyro.nn.recurrence import RECURRENCES
from zpyro.settings import Limits, setting

LARGEST_SIZE = 1 << 16
SIZE = Limits(at_least=1, at_most=LARGEST_SIZE)
NOT_SETTINGS = ("self", "likelihood", "granularity")


@dataclass(frozen=True)
class ModelConfig:
    """Settings that every model accepts; those that a model does not use have no effect on it.

    ``config_class(name)`` adds the arguments of the model's own constructor.
    """

    name: str = setting("zforcing", "the model: rnn, dmm, storn, vrnn, srnn, zforcing, ...")
    likelihood: str | None = setting(None, "density of a frame; none takes the data set's own")
    hidden_size: int = setting(256, "LSTM states", at_least=1, at_most=LARGEST_SIZE)
    latent_size: int = setting(64, "latents per step", at_least=1, at_most=LARGEST_SIZE)
    embedding_size: int = setting(128, "size of e(x)", at_least=1, at_most=LARGEST_SIZE)
    mlp_size: int = setting(128, "width of the MLPs", at_least=1, at_most=LARGEST_SIZE)
    recurrence: str = setting(
        "auto", "implementation of the recurrence", choices=("auto", *RECURRENCES)
    )
    word_dropout: float = setting(
        0.0, "probability that training omits an input x_{t-1}", at_least=0, below=1
    )
    mask_rate: float = setting(
        0.0,
        "mean share of known numbers that training hides from the networks",
        at_least=0,
        below=1,
    )
    mask_length: int = setting(
        48, "longest run of hidden numbers of a dimension", at_least=1, at_most=1 << 16
    )
    fill: str = setting(
        "zeros", "what the posterior reads in place of missing numbers", choices=FILLS
    )
    log_variance_bounds: tuple[float, float] | None = setting(
        (-14.0, 8.0), "bounds of a Gaussian likelihood's log variance, none for no bound"
    )
    mixture_components: int = setting(
        20, "components of a mixture likelihood", at_least=1, at_most=1 << 10
    )
    tied_embedding: bool = setting(False, "score tokens by the weight of e(x)")

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes made at run time have no name that pickle could import.
        return _rebuilt, (self.name, dict(vars(self)))


def config_class(name: str) -> type[ModelConfig]:
    """The dataclass of a model's settings: the arguments of its constructor, and the fields of
    likelihoods that are declared with :func:`zpyro.settings.setting`.

    Args:
        name: a name of :data:`zpyro.models.MODELS`.

    Raises:
        UserError: for an unknown model, or an argument that cannot be a setting.
    """
    return _derived(name, MODELS.find(name, "model.name"), tuple(LIKELIHOODS.values()))


@cache
def _derived(
    name: str, model: type[SequenceModel], likelihoods: tuple[type[Likelihood], ...]
) -> type[ModelConfig]:
    shared = {field.name: field for field in dataclasses.fields(ModelConfig)}
    fields: list[tuple[str, Any, Any]] = [("name", str, _with_default(shared["name"], name))]
    meanings = _argument_meanings(model)
    hints = typing.get_type_hints(model.__init__, include_extras=True)
    for key, parameter in _constructor_arguments(model).items():
        if parameter.default is parameter.empty:
            raise UserError(
                f"model {name}: the argument {key} of {model.__name__} has no default; give it "
                f"one, so that model.{key} is a setting"
            )
        if key in shared:
            known = typing.get_type_hints(ModelConfig)[key]
            fields.append((key, known, _with_default(shared[key], parameter.default)))
            continue
        hint, limits = _hint_and_limits(key, hints.get(key, type(parameter.default)))
        _check_hint(name, key, hint)
        meaning = {"meaning": meanings.get(key) or key.replace("_", " "), "limits": limits}
        field = dataclasses.field(default=parameter.default, metadata=meaning)
        fields.append((key, hint, field))
    taken = {*shared, *(key for key, _, _ in fields)}
    for likelihood in likelihoods:
        hints = typing.get_type_hints(likelihood)
        for each in dataclasses.fields(likelihood):
            key = likelihood_setting(each.name)
            if key in taken or "meaning" not in each.metadata:
                continue
            taken.add(key)
            fields.append((key, hints[each.name], _with_default(each, each.default)))
    return dataclasses.make_dataclass(
        f"{model.__name__}Config",
        fields,
        bases=(ModelConfig,),
        frozen=True,
        namespace={"__doc__": f"Settings of the model {name}."},
    )


def register(name: str, model: type[SequenceModel]) -> None:
    """Make a model available under a name, for ``model.name`` and ``zpyro compare``.

    Raises:
        UserError: if the name belongs to another model, or an argument of the constructor cannot
            be a setting.
    """
    _derived(name, model, tuple(LIKELIHOODS.values()))
    MODELS.register(name, model)


def likelihood_setting(field: str) -> str:
    """The setting that holds a field of a likelihood's class."""
    return {"components": "mixture_components", "tied": "tied_embedding"}.get(field, field)


def _constructor_arguments(model: type[SequenceModel]) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor that are settings."""
    parameters = inspect.signature(model.__init__).parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        key: parameter
        for key, parameter in parameters.items()
        if key not in NOT_SETTINGS and parameter.kind not in variable
    }


def _with_default(field: dataclasses.Field[Any], default: Any) -> Any:
    return dataclasses.field(default=default, metadata=field.metadata)


def model_config(name: str = "zforcing", **values: Any) -> ModelConfig:
    """The settings of a model.

    Args:
        name: a name of :data:`zpyro.models.MODELS`.
        **values: settings that differ from the defaults.

    Raises:
        UserError: for an unknown model, or a setting that the model does not have.

    Example::

        config = zpyro.models.model_config("srnn", hidden_size=128, residual_posterior=False)
    """
    cls = config_class(name)
    unknown = [key for key in values if key not in field_names(cls)]
    if unknown:
        raise UserError(f"model.{unknown[0]} is not a setting of the model {name}; leave it out")
    return cls(name=name, **values)


def config_of(model: SequenceModel) -> ModelConfig:
    """The settings of a model, from the arguments that it was made with.

    Raises:
        UserError: if its class is not registered, or an argument cannot be a setting.
    """
    cls = type(model)
    name = next((name for name, known in MODELS.items() if known is cls), None)
    if name is None:
        raise UserError(
            f"model {cls.__name__}: its class is not registered; call "
            f'zpyro.models.register("NAME", {cls.__name__}) first'
        )
    likelihood = model.likelihood
    values = {f.name: getattr(likelihood, f.name) for f in dataclasses.fields(likelihood) if f.init}
    values = {likelihood_setting(field): value for field, value in values.items()}
    values |= model.constructor_arguments | {"likelihood": likelihood.name}
    for key in ("word_dropout", "mask_rate", "mask_length", "fill"):
        values[key] = getattr(model, key)
    known = field_names(config_class(name))
    return model_config(name, **{key: value for key, value in values.items() if key in known})


def _rebuilt(name: str, values: dict[str, Any]) -> ModelConfig:
    return config_class(name)(**values)


def for_model(
    config: ModelConfig | Mapping[str, Any], name: str
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Settings carried over to a model that may not have all of them.

    Args:
        config: settings of any model, or values by name.
        name: the model.

    Returns:
        The settings of the model, and the names of those that were dropped although they differ
        from the default of the models that have them.
    """
    values = dict(config) if isinstance(config, Mapping) else vars(config).copy()
    values["name"] = name
    cls = config_class(name)
    known = field_names(cls)
    dropped = [key for key in values if key not in known]
    changed = tuple(key for key in dropped if values[key] != default_in_any(key))
    return cls(**{key: value for key, value in values.items() if key in known}), changed


def is_setting_of_any(key: str) -> bool:
    """Whether some registered model has a setting of that name."""
    return any(key in field_names(config_class(name)) for name in MODELS)


def field_names(cls: type[ModelConfig]) -> frozenset[str]:
    """The names of the settings."""
    return frozenset(field.name for field in dataclasses.fields(cls))


def arguments(config: ModelConfig) -> dict[str, Any]:
    """The arguments of the model's constructor among the settings."""
    taken = _constructor_arguments(MODELS.find(config.name, "model.name"))
    return {key: value for key, value in vars(config).items() if key in taken}


def default_in_any(key: str) -> Any:
    """The default of a setting in the first registered model that has it; None if none has."""
    for name in MODELS:
        for field in dataclasses.fields(config_class(name)):
            if field.name == key:
                return field.default
    return None


def _hint_and_limits(name: str, hint: Any) -> tuple[Any, Limits]:
    """The type of an argument, and the limits of its values by name or ``Annotated``."""
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        given = [extra for extra in extras if isinstance(extra, Limits)]
        if given:
            return hint, given[0]
    if hint is int and name.endswith("_size"):
        return hint, SIZE
    if hint is int and name.endswith("_layers"):
        return hint, Limits(at_least=1, at_most=64)
    if hint is float and name.endswith("dropout"):
        return hint, Limits(at_least=0, below=1)
    return hint, Limits()


def _check_hint(model: str, name: str, hint: Any) -> None:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    allowed: tuple[Any, ...] = (int, float, bool, str, type(None))
    if not all(part in allowed or typing.get_origin(part) is tuple for part in parts):
        shown = hint.__name__ if isinstance(hint, type) else hint
        raise UserError(
            f"model {model}: argument {name} has the type {shown}; annotate it as int, float, "
            "bool, str or a tuple of them such as tuple[float, float]"
        )


_ARGUMENT = re.compile(r"^ {8}(\w+): (.+?)(?=^ {8}\w+: |\Z)", flags=re.MULTILINE | re.DOTALL)


def _argument_meanings(model: type[Any]) -> dict[str, str]:
    """The text of each argument in the Args section of a docstring."""
    text = inspect.getdoc(model) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    indented = "".join(f"    {line}" for line in section[1].splitlines(keepends=True))
    found = {name: " ".join(words.split()) for name, words in _ARGUMENT.findall(indented)}
    return {name: words.rstrip(".") for name, words in found.items()}
