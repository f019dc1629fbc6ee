"""The statistics of a comparison, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % points of Student's t with 1, 2, 3, ... degrees of freedom."""
NORMAL = 1.960

COLUMNS = ("elbo", "iwae", "kl", "active_units", "perplexity_iwae", "seconds", "steps")
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half_width: of the 95 % interval by Student's t; None for one seed.
        values: one a seed.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class RowSummary:
    """One row.

    Attributes:
        name: of the row.
        parameters: learned numbers.
        estimates: by the name of the quantity.
        difference: of the bound from the first row's, paired by seed; None for that row.
        seeds: the seeds that are done.
    """

    name: str
    parameters: int
    estimates: Mapping[str, Estimate]
    difference: Estimate | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """A comparison.

    Attributes:
        title: what was compared, in one line.
        particles: of the importance-weighted bound.
        rows: those with a result.
        missing: rows without one.
    """

    title: str
    particles: int
    rows: tuple[RowSummary, ...]
    missing: tuple[str, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of values that are independent draws."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()), None, tuple(array.tolist()))
    free = len(array) - 1
    quantile = STUDENT[free - 1] if free <= len(STUDENT) else NORMAL
    half = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(float(array.mean()), half, tuple(array.tolist()))


def summarize(title: str, particles: int, results: Mapping[str, Mapping[int, Result]]) -> Summary:
    """The statistics of results by row and seed.

    Args:
        title: what was compared.
        particles: of the importance-weighted bound.
        results: by row, then by seed; rows in the order of the table.
    """
    rows: list[RowSummary] = []
    first: Mapping[int, Result] | None = None
    for name, by_seed in results.items():
        if not by_seed:
            continue
        kept = [key for key in COLUMNS if all(key in result for result in by_seed.values())]
        rows.append(
            RowSummary(
                name=name,
                parameters=int(next(iter(by_seed.values()))["parameters"]),
                estimates={k: estimate([r[k] for r in by_seed.values()]) for k in kept},
                difference=None if first is None else _difference(by_seed, first),
                seeds=tuple(by_seed),
            )
        )
        first = by_seed if first is None else first
    missing = tuple(name for name, by_seed in results.items() if not by_seed)
    return Summary(title, particles, tuple(rows), missing)


def _difference(ours: Mapping[int, Result], first: Mapping[int, Result]) -> Estimate | None:
    both = [seed for seed in ours if seed in first]
    return estimate([ours[s]["elbo"] - first[s]["elbo"] for s in both]) if both else None


def markdown(summary: Summary) -> str:
    """The table as Markdown."""
    has_words = any("perplexity_iwae" in row.estimates for row in summary.rows)
    names = {
        "elbo": "bound",
        "iwae": f"IWAE, {summary.particles} paths",
        "kl": "KL",
        "active_units": "active units",
        **({"perplexity_iwae": "perplexity"} if has_words else {}),
        "steps": "steps",
        "seconds": "seconds",
    }
    head = ["row", "parameters", "seeds", *names.values(), "bound less the first row's"]
    lines = [
        f"{summary.title}",
        "",
        "Means over seeds, with the half width of their 95 % interval (Student's t); nats per "
        "sequence. Differences are paired by seed.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in summary.rows:
        cells = [row.name, f"{row.parameters:,}", str(len(row.seeds))]
        cells += [shown(row.estimates.get(key), key) for key in names]
        cells.append(shown(row.difference, "elbo", signed=True))
        lines.append("| " + " | ".join(cells) + " |")
    if summary.missing:
        lines += ["", f"Without a result: {', '.join(summary.missing)}."]
    return "\n".join(lines) + "\n"


def shown(value: Estimate | None, key: str, *, signed: bool = False) -> str:
    """A number and its interval as the table has them."""
    if value is None:
        return ""
    digits = 0 if key in ("steps", "seconds") else 1
    sign = "+" if signed else ""
    text = f"{value.mean:{sign},.{digits}f}"
    return text if value.half_width is None else f"{text} ± {value.half_width:,.{digits}f}"
