"""The rows of a comparison: a model and which of the remedies it is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from zpyro.datasets.sequences import Dataset
from zpyro.errors import UserError
from zpyro.models import MODELS
from zpyro.training.building import build_likelihood, build_model, fitted
from zpyro.training.config import Config, ModelConfig

STEP = 4
"""Hidden sizes are matched in multiples of this."""
LARGEST = 1 << 14
COSTS = ("objective.auxiliary_", "objective.reverse_")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what it is called.
        model: a name of :data:`zpyro.models.MODELS`.
        summary: one line.
        annealed: keep the settings' KL annealing; else the KL's final weight from the first step.
        auxiliary: keep the settings' auxiliary and reverse costs; else none.
        likelihood: in place of the settings' own, or None.
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
    Row("rnn", "rnn", "LSTM without latents (RNN-Gauss for frames)"),
    Row("rnn-mixture", "rnn", "the same with a mixture (RNN-GMM)", likelihood="gaussian-mixture"),
    Row("dmm", "dmm", "deep Markov model"),
    Row("storn", "storn", "STORN"),
    Row("vrnn", "vrnn", "VRNN"),
    Row("srnn", "srnn", "SRNN, smoothing, residual posterior"),
    Row("srnn-auxiliary", "srnn", "SRNN with Z-Forcing's costs", auxiliary=True),
    Row("zforcing-plain", "zforcing", "Z-Forcing without annealing and costs", annealed=False),
    Row("zforcing-annealed", "zforcing", "Z-Forcing with KL annealing"),
    Row("zforcing-auxiliary", "zforcing", "with the costs", annealed=False, auxiliary=True),
    Row("zforcing", "zforcing", "Z-Forcing with annealing and costs", auxiliary=True),
)
ROWS = {row.name: row for row in _ALL}
"""The rows that have names, in the order of the paper's table."""


def find(names: Sequence[str], own: Sequence[str] = ()) -> list[Row]:
    """Rows by name, and the user's own.

    Args:
        names: keys of :data:`ROWS`.
        own: texts ``NAME=BASE section.name=value ...``: a row like BASE with other settings.

    Raises:
        UserError: for an unknown or repeated name, or a text of another form.
    """
    rows = [_named(name) for name in names]
    for text in own:
        name, equals, rest = text.partition("=")
        base, *assignments = rest.split() or [""]
        if not equals or not name.strip() or "/" in name or not all("=" in a for a in assignments):
            raise UserError(f"--row {text}: write --row 'NAME=BASE section.name=value ...'")
        like = _named(base)
        rows.append(replace(like, name=name.strip(), assignments=tuple(assignments)))
    seen = [row.name for row in rows]
    if len(set(seen)) < len(seen):
        raise UserError(f"rows {', '.join(seen)}: a name comes twice; name each row once")
    return rows


def row_config(config: Config, row: Row) -> Config:
    """What a row is trained with.

    Args:
        config: the settings of the comparison, with the row's own assignments resolved.
        row: the row.

    Raises:
        UserError: if the row wants costs that the settings do not have, or the model cannot follow
            one of the row's own settings.
    """
    objective, model = config.objective, replace(config.model, name=row.model)
    explicit = [assignment.partition("=")[0].strip() for assignment in row.assignments]
    # What someone writes into a row of their own holds, whatever the row is like.
    annealed = row.annealed or any(key.startswith("objective.kl_") for key in explicit)
    auxiliary = row.auxiliary or any(key.startswith(COSTS) for key in explicit)
    if row.likelihood is not None:
        model = replace(model, likelihood=row.likelihood)
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
            f"row {row.name} has auxiliary costs, but objective.auxiliary_weight is 0; "
            "say --set objective.auxiliary_weight=0.005"
        )
    return fitted(replace(config, model=model, objective=objective), explicit)[0]


def with_likelihood(config: Config, dataset: Dataset) -> Config:
    """The same with the likelihood's name written out."""
    likelihood = build_likelihood(config.model, dataset.likelihood, dataset.frame_size)
    return replace(config, model=replace(config.model, likelihood=likelihood.name))


def count_parameters(model: ModelConfig, dataset: Dataset) -> int:
    """The numbers that a model of these settings learns."""
    likelihood = build_likelihood(model, dataset.likelihood, dataset.frame_size)
    with torch.device("meta"):
        module = build_model(model, likelihood)
    return sum(parameter.numel() for parameter in module.parameters())


def matched(model: ModelConfig, dataset: Dataset, parameters: int) -> ModelConfig:
    """The same with the hidden size whose number of parameters is nearest to that wanted."""
    low, high = 1, LARGEST // STEP
    while low < high:
        middle = (low + high) // 2
        enough = replace(model, hidden_size=STEP * middle)
        if count_parameters(enough, dataset) < parameters:
            low = middle + 1
        else:
            high = middle
    sizes = [STEP * max(1, low - 1), STEP * low]
    candidates = [replace(model, hidden_size=size) for size in sizes]
    return min(candidates, key=lambda c: abs(count_parameters(c, dataset) - parameters))


def _named(name: str) -> Row:
    if name not in ROWS:
        raise UserError(f"row {name} is unknown; choose among {', '.join(ROWS)}")
    assert ROWS[name].model in MODELS
    return ROWS[name]
