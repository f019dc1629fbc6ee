"""The rows of a comparison: models, and the remedies for unused latents they are trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from zpyro.datasets.sequences import Dataset
from zpyro.errors import UserError
from zpyro.models.config import ModelConfig
from zpyro.models.registry import MODELS
from zpyro.training.building import build_likelihood, build_model, fit_to_data
from zpyro.training.config import Config, for_other_model

SIZE_STEP = 4
"""Hidden sizes are matched in multiples of this."""
MAX_HIDDEN_SIZE = 1 << 14
COST_SETTINGS = ("objective.auxiliary_", "objective.reverse_")


@dataclass(frozen=True)
class Variant:
    """One row of the table: a model and how it is trained.

    Attributes:
        name: its name in the table.
        model: a name of :data:`zpyro.models.MODELS`.
        summary: one line.
        annealed: keep the KL annealing of the settings; else the final KL weight from the start.
        auxiliary: keep the auxiliary and reverse costs of the settings; else none.
        likelihood: instead of that of the settings, or None.
        assignments: further settings, ``section.name=value``.
    """

    name: str
    model: str
    summary: str
    annealed: bool = True
    auxiliary: bool = False
    likelihood: str | None = None
    assignments: tuple[str, ...] = ()


_ALL = (
    Variant("rnn", "rnn", "LSTM without latents (RNN-Gauss for frames)"),
    Variant("rnn-mixture", "rnn", "with a mixture (RNN-GMM)", likelihood="gaussian-mixture"),
    Variant("dmm", "dmm", "deep Markov model"),
    Variant("storn", "storn", "STORN"),
    Variant("vrnn", "vrnn", "VRNN"),
    Variant("srnn", "srnn", "SRNN, smoothing, residual posterior"),
    Variant("srnn-auxiliary", "srnn", "SRNN with Z-Forcing's costs", auxiliary=True),
    Variant("zforcing-plain", "zforcing", "Z-Forcing without annealing and costs", annealed=False),
    Variant("zforcing-annealed", "zforcing", "Z-Forcing with KL annealing"),
    Variant("zforcing-auxiliary", "zforcing", "with the costs", annealed=False, auxiliary=True),
    Variant("zforcing", "zforcing", "Z-Forcing with annealing and costs", auxiliary=True),
)
VARIANTS = {variant.name: variant for variant in _ALL}
"""The variants that have names, in the order of the paper's table."""


def find_variants(names: Sequence[str], custom: Sequence[str] = ()) -> list[Variant]:
    """Variants by name, and custom ones.

    Args:
        names: keys of :data:`VARIANTS`.
        custom: texts ``NAME=BASE section.name=value ...``: the variant BASE with other settings.

    Raises:
        UserError: for an unknown or repeated name, or a text of another form.
    """
    found = [_named(name) for name in names]
    for text in custom:
        name, equals, rest = text.partition("=")
        base, *assignments = rest.split() or [""]
        if not equals or not name.strip() or "/" in name or not all("=" in a for a in assignments):
            raise UserError(f"--row {text}: write --row 'NAME=BASE section.name=value ...'")
        found.append(replace(_named(base), name=name.strip(), assignments=tuple(assignments)))
    listed = [variant.name for variant in found]
    if len(set(listed)) < len(listed):
        raise UserError(f"rows {', '.join(listed)}: a name is repeated; name each row once")
    return found


def _named(name: str) -> Variant:
    if name not in VARIANTS and name in MODELS:
        return Variant(
            name, name, "registered by a plugin", auxiliary=MODELS[name].has_backward_network
        )
    if name not in VARIANTS:
        raise UserError(f"row {name} is unknown; choose among {', '.join(VARIANTS)}")
    return VARIANTS[name]


def variant_config(config: Config, variant: Variant) -> Config:
    """The settings that a variant is trained with.

    Args:
        config: the settings of the comparison, with the assignments of the variant resolved.
        variant: the variant.

    Raises:
        UserError: if the variant has costs that the settings lack, or one of its assignments
            does not apply to its model.
    """
    config = for_other_model(config, variant.model)[0]
    objective, model = config.objective, config.model
    explicit = [assignment.partition("=")[0].strip() for assignment in variant.assignments]
    # Assignments of the variant take precedence over its flags.
    annealed = variant.annealed or any(key.startswith("objective.kl_") for key in explicit)
    auxiliary = variant.auxiliary or any(key.startswith(COST_SETTINGS) for key in explicit)
    if variant.likelihood is not None:
        model = replace(model, likelihood=variant.likelihood)
    if not annealed:
        objective = replace(objective, kl_weight=objective.kl_weight_final)
    if not auxiliary:
        objective = replace(
            objective,
            **dict.fromkeys(("auxiliary_weight", "reverse_weight", "auxiliary_weight_rate"), 0.0),
            auxiliary_weight_final=None,
            auxiliary_weight_epochs=0.0,
        )
    elif not (
        objective.auxiliary_weight or objective.auxiliary_weight_final or objective.reverse_weight
    ):
        raise UserError(
            f"row {variant.name} has auxiliary costs, but objective.auxiliary_weight is 0; "
            "pass --set objective.auxiliary_weight=0.005"
        )
    return replace(config, model=model, objective=objective)


def with_likelihood(config: Config, dataset: Dataset) -> Config:
    """The settings with the name of the likelihood filled in."""
    return replace(config, model=fit_to_data(config.model, dataset))


def count_parameters(model: ModelConfig, dataset: Dataset) -> int:
    """The number of parameters of a model with these settings."""
    likelihood = build_likelihood(model, dataset.likelihood, dataset.frame_size)
    with torch.device("meta"):
        module = build_model(model, likelihood)
    return sum(parameter.numel() for parameter in module.parameters())


def match_parameters(model: ModelConfig, dataset: Dataset, parameters: int) -> ModelConfig:
    """The settings with the hidden size whose number of parameters is nearest to the wanted one."""

    def sized(steps: int) -> ModelConfig:
        return replace(model, hidden_size=SIZE_STEP * steps)

    low, high = 1, MAX_HIDDEN_SIZE // SIZE_STEP
    while low < high:
        middle = (low + high) // 2
        if count_parameters(sized(middle), dataset) < parameters:
            low = middle + 1
        else:
            high = middle
    return min(
        (sized(max(1, low - 1)), sized(low)),
        key=lambda candidate: abs(count_parameters(candidate, dataset) - parameters),
    )
