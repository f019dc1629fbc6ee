"""The statistics of a comparison, its table and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.analysis import plots
from zpyro.evaluation.elbo import TRIMMED

STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % points of Student's t with 1, 2, 3, ... degrees of freedom."""
NORMAL = 1.960

COLUMNS = {
    "elbo": "bound",
    "elbo_median": "median",
    "elbo_trimmed": "trimmed mean",
    "bits_per_sample": "bits per sample",
    "iwae": "IWAE, {particles} paths",
    "smc": "particle filter, {particles}",
    "kl": "KL",
    "active_units": "active units",
    "perplexity_iwae": "perplexity",
    "steps": "steps",
    "seconds": "seconds",
}
"""Heading of each quantity of the table; a column without any value is left out."""
PER_UNIT = ("elbo", "iwae", "smc", "kl")
"""Quantities in nats per sequence, or per frame where the table is in frames."""
DIGITS = {"steps": 0, "seconds": 0, "bits_per_sample": 3}
"""Of a quantity in the table, 1 by default."""
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half_width: of the 95 % interval by Student's t; None for one seed.
        values: one per seed.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class VariantSummary:
    """One row of the table.

    Attributes:
        name: of the variant.
        parameters: number of parameters.
        estimates: by the name of the quantity.
        difference: of the bound from that of the first row, paired by seed; None for the first row.
        seeds: the seeds that are done.
    """

    name: str
    parameters: int
    estimates: Mapping[str, Estimate]
    difference: Estimate | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """The results of a comparison.

    Attributes:
        title: what was compared, in one line.
        particles: of the bounds with several particles.
        unit: of bounds and KL, "sequence" or "frame".
        rows: the variants with a result.
        missing: the variants without one.
    """

    title: str
    particles: int
    unit: str
    rows: tuple[VariantSummary, ...]
    missing: tuple[str, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of independent values; NaN where they are not finite."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()), None, tuple(array.tolist()))
    free = len(array) - 1
    quantile = STUDENT_T[free - 1] if free <= len(STUDENT_T) else NORMAL
    with np.errstate(invalid="ignore"):
        half = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(float(array.mean()), half, tuple(array.tolist()))


def summarize(
    title: str,
    particles: int,
    results: Mapping[str, Mapping[int, Result]],
    unit: str = "sequence",
) -> Summary:
    """The statistics of results by variant, in the order of the table, then by seed.

    Args:
        title: what was compared, in one line.
        particles: of the bounds with several particles.
        results: by variant and seed, in nats per sequence.
        unit: of bounds and KL, "sequence" or "frame". The sum over all sequences / all frames is
            not a mean over sequences, so there are no medians then.
    """
    if unit == "frame":
        results = {
            name: {seed: _per_frame(result) for seed, result in by_seed.items()}
            for name, by_seed in results.items()
        }
    rows: list[VariantSummary] = []
    first: Mapping[int, Result] | None = None
    for name, by_seed in results.items():
        if not by_seed:
            continue
        difference: Estimate | None = None
        if first is None:
            first = by_seed
        elif common := [seed for seed in by_seed if seed in first]:
            difference = estimate([by_seed[n]["elbo"] - first[n]["elbo"] for n in common])
        keys = [key for key in COLUMNS if all(key in result for result in by_seed.values())]
        rows.append(
            VariantSummary(
                name=name,
                parameters=int(next(iter(by_seed.values()))["parameters"]),
                estimates={k: estimate([r[k] for r in by_seed.values()]) for k in keys},
                difference=difference,
                seeds=tuple(by_seed),
            )
        )
    missing = tuple(name for name, by_seed in results.items() if not by_seed)
    return Summary(title, particles, unit, tuple(rows), missing)


def _per_frame(result: Result) -> dict[str, Any]:
    share = result["sequences"] / result["frames"]
    return {
        key: value * share if key in PER_UNIT else value
        for key, value in result.items()
        if key not in ("elbo_median", "elbo_trimmed")
    }


def markdown_table(summary: Summary) -> str:
    """The table as Markdown."""
    present = {key for row in summary.rows for key in row.estimates}
    columns = {
        key: heading.format(particles=summary.particles)
        for key, heading in COLUMNS.items()
        if key in present
    }
    head = ["row", "parameters", "seeds", *columns.values(), "bound less the first row's"]
    medians = (
        "Bound, median and trimmed mean are over sequences, the last without the lowest and the "
        f"highest {TRIMMED:.0%}. "
        if "elbo_median" in present
        else ""
    )
    lines = [
        summary.title,
        "",
        "Means over seeds, with the half width of their 95 % interval (Student's t); nats per "
        f"{summary.unit}. {medians}Differences are paired by seed.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in summary.rows:
        cells = [row.name, f"{row.parameters:,}", str(len(row.seeds))]
        cells += [_format(row.estimates.get(key), _digits(key, summary)) for key in columns]
        cells.append(_format(row.difference, _digits("elbo", summary), sign="+"))
        lines.append("| " + " | ".join(cells) + " |")
    if summary.missing:
        lines += ["", f"Without a result: {', '.join(summary.missing)}."]
    return "\n".join(lines) + "\n"


def _digits(key: str, summary: Summary) -> int:
    return 3 if summary.unit == "frame" and key in PER_UNIT else DIGITS.get(key, 1)


def _format(value: Estimate | None, digits: int, sign: str = "") -> str:
    if value is None:
        return ""
    text = f"{value.mean:{sign},.{digits}f}"
    return text if value.half_width is None else f"{text} ± {value.half_width:,.{digits}f}"


def plot_comparison(summary: Summary, path: Path) -> None:
    """Plot bound and KL of each variant: seeds as dots, and the mean with its interval.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    names = [row.name for row in summary.rows]
    figure = plots.new_figure(10.0, 1.4 + 0.35 * len(names))
    panels = (("elbo", f"bound, nats/{summary.unit}"), ("kl", f"KL, nats/{summary.unit}"))
    for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for place, row in enumerate(summary.rows):
            found = row.estimates[key]
            axes.plot(found.values, [place] * len(found.values), ".", color="0.6")
            axes.errorbar(found.mean, place, xerr=found.half_width, fmt="o", color="C0", capsize=3)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].set_yticks(range(len(names)), names)
    figure.axes[0].invert_yaxis()
    figure.suptitle(summary.title, fontsize=9, parse_math=False)
    plots.save_figure(figure, path)
