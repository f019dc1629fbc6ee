"""What a run is made of: the data set, the model, the objective and the training, as frozen values.

Values come, each later one winning, from the defaults here, a preset (a TOML file of
:mod:`zpyro.training.presets` or of the user), ``--set section.name=value``, and the command
line's own options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from zpyro import settings
from zpyro.errors import UserError
from zpyro.io.paths import user_path
from zpyro.models.config import (
    ModelConfig,
    config_class,
    default_in_any,
    for_model,
    is_setting_of_any,
    model_config,
)
from zpyro.models.registry import MODELS
from zpyro.models.rnn import RNN
from zpyro.nn.precision import PRECISIONS
from zpyro.objectives.terms import TERMS, Term
from zpyro.settings import Field, setting


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective's weights and how they move; see :class:`zpyro.ZForcingELBO`."""

    kl_weight: float = setting(0.2, "weight of the KL at the first step", at_least=0)
    kl_weight_final: float = setting(1.0, "its final weight", at_least=0)
    kl_weight_rate: float = setting(5e-5, "its change per step", at_least=0)
    kl_schedule: str = setting(
        "linear", "shape of its schedule", choices=("linear", "sigmoid", "cyclical")
    )
    kl_cycles: int = setting(4, "cycles of the cyclical schedule", at_least=1)
    free_bits: float = setting(0.0, "nats of KL per group without cost", at_least=0)
    free_bits_per: str = setting("step", "the group", choices=("step", "sequence"))
    auxiliary_weight: float = setting(0.0, "alpha at the first step", at_least=0)
    auxiliary_weight_final: float | None = setting(
        None, "its final weight, none to keep it", at_least=0
    )
    auxiliary_weight_rate: float = setting(0.0, "its change per step", at_least=0)
    auxiliary_weight_epochs: float = setting(0.0, "or the epochs that it takes", at_least=0)
    reverse_weight: float = setting(0.0, "beta", at_least=0)
    analytic_kl: bool = setting(True, "closed-form KL, else log q - log p at the sample")
    particles: int = setting(1, "paths per sequence in each step", at_least=1, at_most=10_000)
    bound: str = setting(
        "elbo",
        "elbo, or the bound of many particles: iwae, dreg (iwae with a better gradient), or fivo, "
        "of a particle filter",
        choices=("elbo", "iwae", "dreg", "fivo"),
    )
    resampling_threshold: float = setting(
        0.5, "share of effective particles below which fivo resamples", at_least=0, at_most=1
    )
    resampling_gradient: bool = setting(
        False, "add the gradient of resampling to fivo, at a high variance"
    )
    skip_gradient: float = setting(
        0.0, "how often no gradient flows from the recurrence into z", at_least=0, at_most=1
    )

    def __post_init__(self) -> None:
        if self.kl_weight != self.kl_weight_final and not self.kl_weight_rate:
            raise UserError(
                "objective.kl_weight_rate is 0, so kl_weight never reaches kl_weight_final; "
                "set a rate, or both weights alike"
            )
        if self.bound != "elbo" and self.free_bits:
            raise UserError(
                f"objective.free_bits is for the bound elbo, not {self.bound}; set one of the two"
            )
        if self.resampling_gradient and self.bound != "fivo":
            raise UserError(
                f"objective.resampling_gradient is for the bound fivo, not {self.bound}; "
                "set it to false"
            )
        final = self.auxiliary_weight_final
        moves = bool(self.auxiliary_weight_rate) + bool(self.auxiliary_weight_epochs)
        if final not in (None, self.auxiliary_weight) and moves != 1:
            raise UserError(
                "objective.auxiliary_weight_final needs one of auxiliary_weight_rate and "
                "auxiliary_weight_epochs; set exactly one above 0"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is allowed and seldom meant, a line each."""
        if self.bound == "elbo" or self.particles > 1:
            return ()
        return (
            f"objective.bound={self.bound} with one particle is the plain bound, at a higher cost; "
            "set objective.particles=4 or more",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A class with the settings of terms is made at run time: pickle could not import it.
        return _rebuilt_objective, (dict(vars(self)),)


def _rebuilt_objective(values: dict[str, Any]) -> ObjectiveConfig:
    return objective_class()(**values)


def objective_class() -> type[ObjectiveConfig]:
    """The settings of the objective, with those of every registered term.

    A term NAME has ``NAME_weight`` (at the first step), ``NAME_weight_final`` and
    ``NAME_weight_rate`` (per step).
    """
    return _objective_class(tuple(TERMS.items()))


@cache
def _objective_class(terms: tuple[tuple[str, type[Term]], ...]) -> type[ObjectiveConfig]:
    fields: list[tuple[str, Any, Any]] = []
    for name, term in terms:
        fields += [
            (f"{name}_weight", float, setting(0.0, f"weight of {term.label} at the first step")),
            (
                f"{name}_weight_final",
                float | None,
                setting(None, "its final weight, none to keep it constant"),
            ),
            (f"{name}_weight_rate", float, setting(0.0, "its change per step", at_least=0)),
        ]
    if not fields:
        return ObjectiveConfig

    def check(config: ObjectiveConfig) -> None:
        ObjectiveConfig.__post_init__(config)
        for name, _ in terms:
            weight, final, rate = (
                getattr(config, f"{name}_weight{part}") for part in ("", "_final", "_rate")
            )
            if final not in (None, weight) and not rate:
                raise UserError(
                    f"objective.{name}_weight_final needs a rate; "
                    f"set objective.{name}_weight_rate above 0"
                )

    return dataclasses.make_dataclass(
        "ObjectiveConfig",
        fields,
        bases=(ObjectiveConfig,),
        frozen=True,
        namespace={"__post_init__": check},
    )


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer, the budget and the bookkeeping; see :func:`zpyro.training.fit`.

    Training ends at the first of ``epochs``, ``max_steps`` and ``max_minutes`` that is set.
    """

    epochs: int | None = setting(50, "passes over the data, none for no limit", at_least=1)
    max_steps: int | None = setting(None, "training steps, none for no limit", at_least=1)
    max_minutes: float | None = setting(None, "minutes of training, none for no limit", above=0)
    batch_size: int = setting(32, "sequences a step", at_least=1, at_most=1 << 20)
    bucketed: bool = setting(True, "batch sequences of like length together")
    carry_state: bool = setting(
        False, "rows start from the final state of the previous row (truncated back-propagation)"
    )
    optimizer: str = setting("adam", "adam, or sgd with momentum 0.9", choices=("adam", "sgd"))
    weight_decay: float = setting(0.0, "factor of the squared weights in the loss", at_least=0)
    weight_noise: float = setting(
        0.0, "standard deviation of noise on the weights in each step", at_least=0
    )
    init: str | None = setting(
        None, "run directory whose weights training starts from, none for fresh ones"
    )
    learning_rate: float = setting(1e-3, "the optimizer's step size", above=0)
    learning_rate_schedule: str = setting(
        "constant",
        "how the step size moves",
        choices=("constant", "cosine", "plateau", "milestones"),
    )
    milestones: tuple[int, ...] = setting(
        (), "epochs at which the step size falls to a tenth", at_least=1
    )
    warmup_epochs: float = setting(
        0.0, "epochs over which the step size grows, as 1 - exp(-epoch / this)", at_least=0
    )
    learning_rate_floor: float = setting(
        0.02, "least step size as a fraction of the first", at_least=0, at_most=1
    )
    plateau_patience: int = setting(
        5, "validations without a better bound before the step size halves", at_least=1
    )
    adam_epsilon: float = setting(1e-5, "Adam's epsilon", above=0)
    clip_norm: float = setting(100.0, "longest gradient, nats per sequence", above=0)
    average: float = setting(
        0.0, "decay of the averaged weights that are evaluated, 0 for none", at_least=0, below=1
    )
    skip_limit: int = setting(20, "steps in a row that may be not finite", at_least=1)
    patience: int | None = setting(
        None, "validations without a better bound before the end, none for no end", at_least=1
    )
    validate_every: int | None = setting(None, "steps, none for every epoch", at_least=1)
    checkpoint_every: int | None = setting(None, "steps, none for every epoch", at_least=1)
    log_every: int = setting(10, "steps between records in metrics.jsonl", at_least=1)
    seed: int = setting(0, "of weights, noise and data order", at_least=0, below=1 << 63)
    device: str = setting("auto", "where to compute: auto, or a device of torch such as cuda:1")
    precision: str = setting("float32", "of products in training", choices=PRECISIONS)
    cuda_graph: bool = setting(True, "on CUDA, record a step and replay it")


@dataclass(frozen=True)
class Config:
    """Everything that a run is made of.

    Attributes:
        dataset: name of the data set.
        data_folder: the folder or file it is read from, None for a built-in one.
        data: the data set's own settings, None for data in memory.
        model: the network.
        objective: the weights of the objective.
        train: the optimizer and the budget.
    """

    dataset: str
    data_folder: str | None = None
    data: Any = None
    model: ModelConfig = dataclasses.field(default_factory=model_config)
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        name = self.model.name
        if self.objective.bound == "fivo" and name in MODELS and issubclass(MODELS[name], RNN):
            raise UserError(
                f"objective.bound fivo: the model {name} has no latents, so every bound is the "
                "same; take the bound elbo"
            )
        noisy = {
            "model.embedding_dropout": getattr(self.model, "embedding_dropout", 0.0),
            "model.output_dropout": getattr(self.model, "output_dropout", 0.0),
            "model.word_dropout": self.model.word_dropout,
            "model.mask_rate": self.model.mask_rate,
            "objective.skip_gradient": self.objective.skip_gradient,
        }
        for key, value in noisy.items():
            if value and self.objective.bound == "dreg":
                raise UserError(
                    f"objective.bound dreg scores its paths again, which {key} would do with other "
                    f"masks; set {key} to 0, or take the bound iwae"
                )


@dataclass(frozen=True)
class Preset:
    """A named set of values.

    Attributes:
        source: what to call it in an error.
        dataset: the data set it is for, or None for any.
        values: settings by dotted key.
    """

    source: str
    dataset: str | None
    values: Mapping[str, object]


def resolve(
    dataset: str,
    data_settings: type[Any],
    *,
    preset: Preset | None = None,
    shared: Iterable[str] = (),
    assignments: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
    data_folder: str | None = None,
    model: str | None = None,
    on_dropped: Callable[[str, Sequence[str]], None] | None = None,
) -> Config:
    """The configuration from all its layers, each value checked.

    Args:
        dataset: name of the data set.
        data_settings: the dataclass of its settings.
        preset: values over the defaults; those of other models than the chosen one are dropped.
        shared: texts ``section.name=value`` for several models, over those; dropped likewise.
        assignments: texts ``section.name=value`` over those, as ``--set`` takes them.
        options: values by dotted key over those.
        data_folder: where the data set is.
        model: name of the model, over all of these.
        on_dropped: called with the model's name and the dotted keys of the preset that the model
            does not have, if there are any.

    Raises:
        UserError: for an unknown key, a wrong type, a value outside its limits, a setting of
            another model in ``assignments``, or a preset for another data set.
    """
    pairs = [_assignment(text) for text in assignments]
    shared_pairs = [_assignment(text) for text in shared]
    given = dict(options or {})
    if preset is not None and preset.dataset not in (None, dataset):
        raise UserError(
            f"{preset.source} is for the data set {preset.dataset}, not {dataset}; "
            f"pass --dataset {preset.dataset} or another preset"
        )
    preset_values = {} if preset is None else dict(preset.values)
    name = model or _model_name(preset, [*shared_pairs, *pairs], given)
    fields = known_fields(data_settings, name)
    values: dict[str, Any] = {}
    dropped: list[str] = []
    for key, value in preset_values.items():
        assert preset is not None
        if key not in fields and _belongs_to_another_model(key):
            if value != default_in_any(key.removeprefix("model.")):
                dropped.append(key)
            continue
        values[key] = _field(fields, key, preset.source).convert(value, preset.source)
    for key, text in shared_pairs:
        if key in fields or not _belongs_to_another_model(key):
            values[key] = _field(fields, key, "--set").parse(text, "--set")
    for key, text in pairs:
        if key not in fields and _belongs_to_another_model(key):
            raise UserError(f"{key} is not a setting of the model {name}; leave it out")
        values[key] = _field(fields, key, "--set").parse(text, "--set")
    values.update(_from_options(fields, given))
    values["model.name"] = name
    explicit = {key for key, _ in pairs}
    dropped += _drop_auxiliary(values, name, explicit)
    config = Config(dataset, data_folder, **_sections(data_settings, name, values))
    if dropped and on_dropped is not None:
        on_dropped(name, dropped)
    return config


def for_other_model(config: Config, name: str) -> tuple[Config, tuple[str, ...]]:
    """The configuration with another model, and the settings that it does not have.

    Raises:
        UserError: for an unknown model.
    """
    model, dropped = for_model(config.model, name)
    values = {f"objective.{key}": value for key, value in vars(config.objective).items()}
    lost = _drop_auxiliary(values, name, set())
    objective = replace(
        config.objective,
        **{key.removeprefix("objective."): value for key, value in values.items()},
    )
    changed = replace(config, model=model, objective=objective)
    return changed, (*(f"model.{key}" for key in dropped), *lost)


def with_options(config: Config, options: Mapping[str, object]) -> Config:
    """The configuration with other values for some training settings.

    Args:
        config: what to start from.
        options: values by dotted key, all in the section ``train``.

    Raises:
        UserError: for a wrong type or a value outside its limits.
    """
    values = _from_options(settings.fields_of(TrainConfig, "train"), options)
    changes = {key.removeprefix("train."): value for key, value in values.items()}
    return replace(config, train=replace(config.train, **changes))


def known_fields(data_settings: type[Any], model: str = "zforcing") -> dict[str, Field]:
    """Every setting by dotted key, for one model."""
    fields: dict[str, Field] = {}
    for section, cls in _section_classes(data_settings, model).items():
        fields.update(settings.fields_of(cls, section))
    return fields


def recorded_settings(config: Config) -> dict[str, object]:
    """Every setting by dotted key, for a checkpoint to hold."""
    found: dict[str, object] = {"dataset": config.dataset}
    for section in ("data", "model", "objective", "train"):
        values = getattr(config, section)
        found |= {} if values is None else settings.plain(values, section)
    return found


def is_fixed(key: str) -> bool:
    """Whether a run cannot change a setting: weights, optimizer state and splits depend on it."""
    fixed = ("dataset", "train.seed", "train.optimizer")
    return key in fixed or key.startswith(("data.", "model."))


def write_config(config: Config) -> str:
    """The text of ``config.toml``, every value in it."""
    return settings.to_toml(config)


def read_preset(name: str) -> Preset:
    """A preset of the package by name, or a TOML file of the user's by path.

    Raises:
        UserError: for an unknown name, or a file that cannot be read.
    """
    if name.endswith(".toml"):
        table = settings.read_toml(user_path(name))
        source = name
    elif name in preset_names():
        with resources.as_file(resources.files("zpyro.training.presets") / f"{name}.toml") as path:
            table = settings.read_toml(path)
        source = f"preset {name}"
    else:
        raise UserError(f"preset {name} is unknown; choose one of {', '.join(preset_names())}")
    return preset_of(table, source)


def preset_of(table: Mapping[str, Any], source: str, *, accept_renamed: bool = False) -> Preset:
    """A preset from the tables of a TOML file; its ``data_folder`` is left out.

    Args:
        table: the tables.
        source: where they are from, for error messages.
        accept_renamed: give settings with a former name the present one, so that runs written
            before can be read.

    Raises:
        UserError: if ``dataset`` is not text.
    """
    values = settings.flatten(table)
    if accept_renamed:
        values = {settings.RENAMED.get(key, key): value for key, value in values.items()}
    values.pop("data_folder", None)
    dataset = values.pop("dataset", None)
    if dataset is not None and not isinstance(dataset, str):
        raise UserError(f"{source}: dataset must be text")
    return Preset(source, dataset, values)


def preset_names() -> tuple[str, ...]:
    """The presets of the package."""
    files = resources.files("zpyro.training.presets").iterdir()
    names = (file.name for file in files if file.name.endswith(".toml"))
    return tuple(sorted(name.removesuffix(".toml") for name in names))


def default_preset(dataset: str) -> Preset | None:
    """The preset named like the data set, if there is one."""
    return read_preset(dataset) if dataset in preset_names() else None


def _from_options(fields: Mapping[str, Field], options: Mapping[str, object]) -> dict[str, Any]:
    """Checked values of command line options such as ``--max-steps``."""
    values: dict[str, Any] = {}
    for key, value in options.items():
        option = "--" + key.rpartition(".")[2].replace("_", "-")
        values[key] = _field(fields, key, option).convert(value, option)
    return values


def _section_classes(data_settings: type[Any], model: str) -> dict[str, type[Any]]:
    return {
        "data": data_settings,
        "model": config_class(model),
        "objective": objective_class(),
        "train": TrainConfig,
    }


def _assignment(text: str) -> tuple[str, str]:
    """Key and value of a text as ``--set`` takes it."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: has no =; write --set section.name=value")
    return key.strip(), value.strip()


def _model_name(
    preset: Preset | None, pairs: Iterable[tuple[str, str]], options: Mapping[str, object]
) -> str:
    """The model that the layers of a configuration choose."""
    name: object = "zforcing"
    source = "model.name"
    if preset is not None and "model.name" in preset.values:
        name, source = preset.values["model.name"], preset.source
    for key, text in pairs:
        if key == "model.name":
            name, source = settings.parse_value(text), "--set"
    name = options.get("model.name", name)
    field = settings.fields_of(ModelConfig, "model")["model.name"]
    return field.convert(name, source)


def _belongs_to_another_model(key: str) -> bool:
    section, _, name = key.partition(".")
    return section == "model" and is_setting_of_any(name)


def _drop_auxiliary(values: dict[str, Any], name: str, explicit: set[str]) -> list[str]:
    """Reset the weights of auxiliary terms for a model without them; gives the keys.

    Raises:
        UserError: if one of them was set explicitly.
    """
    if MODELS.find(name, "model.name").has_backward_network:
        return []
    found: list[str] = []
    for field in dataclasses.fields(ObjectiveConfig):
        key = f"objective.{field.name}"
        if not field.name.startswith(("auxiliary_", "reverse_")):
            continue
        if key in values and values[key] != field.default:
            if key in explicit:
                raise UserError(
                    f"{key} has no effect on the model {name}, which has no auxiliary terms; "
                    "leave it out"
                )
            values[key] = field.default
            found.append(key)
    return found


def _field(fields: Mapping[str, Field], key: str, source: str) -> Field:
    if key not in fields:
        raise settings.unknown_key(key, fields, source)
    return fields[key]


def _sections(data_settings: type[Any], model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass of each section from values that were checked."""
    sections: dict[str, Any] = {}
    for section, cls in _section_classes(data_settings, model).items():
        prefix = f"{section}."
        mine = {
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix)
        }
        sections[section] = cls(**mine)
    return sections
