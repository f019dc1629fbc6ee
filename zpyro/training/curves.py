"""Training curves of one or several runs in one figure.

Every number that a run records can be plotted: all terms of the objective as
``NAME``, ``NAME_per_frame`` and ``NAME_weight``, and what :data:`LABELS` lists.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpyro.errors import UserError
from zpyro.io.figures import new_figure, require_matplotlib, save_figure
from zpyro.io.paths import user_path
from zpyro.objectives import KL, TERMS, Auxiliary, LogLikelihood, Reverse
from zpyro.training.runs import open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
"""The records of a run's metrics.jsonl."""

WIDTH, HEIGHT = 4.5, 3.0
"""Inches of one panel."""
DEFAULT = ("bound", "kl", "log_likelihood")

LABELS = {
    "gradient_norm": "gradient norm, nats/sequence",
    "active_units": "latents in use",
    "learning_rate": "learning rate",
    "frames_per_second": "speed, frames/s",
    "skipped": "updates skipped",
}
"""Labels, with units, of metrics that are not terms of the objective."""
TERM_LABELS = {
    "loss": "training loss",
    **{term.name: term.label for term in (LogLikelihood, KL, Auxiliary, Reverse)},
}
"""Labels of the loss and of the built-in terms; others are in :data:`zpyro.objectives.TERMS`."""
HELD_OUT = {"bound": "elbo", "bound_per_frame": "elbo_per_frame"}
"""Names that differ in validation records."""
NOT_PLOTTED = {"step", "epoch", "seconds", "bad_step"}


def label(name: str) -> str:
    """The label of a metric, with its unit."""
    if name in LABELS:
        return LABELS[name]
    stem, unit = name, ", nats/sequence"
    if name.endswith("_per_frame"):
        stem, unit = name.removesuffix("_per_frame"), ", nats/frame"
    elif name.endswith("_weight"):
        stem, unit = name.removesuffix("_weight"), " weight"
    for key in (stem, f"log_{stem}"):
        if key in TERM_LABELS:
            return TERM_LABELS[key] + unit
    return (TERMS[stem].label if stem in TERMS else stem.replace("_", " ")) + unit


def points(records: Records, kind: str, name: str) -> tuple[list[int], list[float]]:
    """Training steps and values of a metric in the "train" or "valid" records."""
    key = HELD_OUT.get(name, name) if kind == "valid" else name
    found = [
        (record["step"], float(record[key]))
        for record in records
        if record.get("kind") == kind and isinstance(record.get(key), int | float)
    ]
    return [step for step, _ in found], [value for _, value in found]


def is_recorded(records: Records, name: str) -> bool:
    """Whether a run recorded a metric."""
    return any(points(records, kind, name)[0] for kind in ("train", "valid"))


def recorded_metrics(runs: Iterable[Records]) -> list[str]:
    """The metrics that at least one of the runs recorded."""
    every = list(runs)
    keys = {
        key: None
        for records in every
        for record in records
        if record.get("kind") == "train"
        for key, value in record.items()
        if isinstance(value, int | float) and key not in NOT_PLOTTED
    }
    known = (*HELD_OUT, *TERM_LABELS, *LABELS)
    names = [*keys, *(name for name in known if name not in keys)]
    return [name for name in names if any(is_recorded(records, name) for records in every)]


def weighted_terms(records: Records) -> list[str]:
    """The terms of the objective that a run recorded and whose weight is not always zero."""
    found: list[str] = []
    for name in recorded_metrics([records]):
        stem, is_weight, _ = name.rpartition("_weight")
        if is_weight and any(points(records, "train", name)[1]):
            keys = [key for key in (stem, f"log_{stem}") if is_recorded(records, key)]
            found += keys[:1]
    return found


def plot_curves(
    folders: Sequence[str | Path], path: str | Path, metrics: Sequence[str] = DEFAULT
) -> Figure:
    """Plot the training curves of several runs in one figure.

    Args:
        folders: the run directories.
        path: the picture file; its suffix selects the format.
        metrics: one panel each: "bound", any term of the objective, or one of :data:`LABELS`.

    Raises:
        UserError: for a metric that is unknown or not recorded, a folder that is not a run, a run
            without records, or a file that cannot be written.

    Example:
        >>> plot_curves(["runs/vowels", "runs/plain"], "curves.png", ("bound", "kl"))
    """
    require_matplotlib()
    paths = [user_path(folder) for folder in folders]
    records = {}
    for name, folder in zip(short_names(paths), paths, strict=True):
        records[name] = open_run(folder).records()
        if not records[name]:
            raise UserError(
                f"{folder}: has no metrics yet; train on with zpyro train --resume "
                f"{shlex.quote(str(folder))}"
            )
    recorded = recorded_metrics(records.values())
    for name in metrics:
        if name in recorded:
            continue
        if name in LABELS or name in TERM_LABELS:
            raise UserError(f"no run recorded {name}; they have {', '.join(recorded)}")
        near = difflib.get_close_matches(name, recorded, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(recorded)}"
        raise UserError(f"metric {name!r} is unknown; {hint}")
    figure = curves_figure(records, metrics)
    save_figure(figure, user_path(path))
    return figure


def curves_figure(runs: Mapping[str, Records], metrics: Sequence[str] = DEFAULT) -> Figure:
    """One panel per metric, one color per run: training dashed, held-out data solid.

    Raises:
        UserError: if matplotlib is missing.
    """
    columns = 1 if len(metrics) == 1 else 2
    rows = -(-len(metrics) // columns)
    figure = new_figure(WIDTH * columns, HEIGHT * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for name, axes in zip(metrics, panels, strict=False):
        _plot_metric(axes, runs, name)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    _add_legend(figure, list(runs))
    return figure


def short_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: the fewest last parts that make all names different.

    Raises:
        UserError: if a folder is given twice.
    """
    parts = [folder.absolute().resolve().parts for folder in folders]
    for place, own in enumerate(parts):
        if own in parts[:place]:
            raise UserError(f"{folders[place]}: is given twice; name each run once")
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _plot_metric(axes: Axes, runs: Mapping[str, Records], metric: str) -> None:
    for number, (name, records) in enumerate(runs.items()):
        color = f"C{number % 10}"
        steps, values = points(records, "train", metric)
        if steps:
            (line,) = axes.plot(steps, values, "--", color=color, linewidth=0.9, alpha=0.6)
            line.set(label=f"{name}, training", marker="." if len(steps) == 1 else "")
        steps, values = points(records, "valid", metric)
        if steps:
            axes.plot(steps, values, "-o", color=color, markersize=3, label=f"{name}, held out")
    axes.set(xlabel="training step", ylabel=label(metric))
    axes.grid(alpha=0.25)


def _add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Add one legend for all panels: the colors of the runs, and the line styles."""
    from matplotlib.lines import Line2D

    plotted = {str(line.get_linestyle()) for axes in figure.axes for line in axes.lines}
    styles = [
        Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="training"),
        Line2D([], [], color="0.4", linestyle="-", marker="o", markersize=3, label="held out"),
    ]
    styles = [style for style in styles if style.get_linestyle() in plotted]
    colors = [
        Line2D([], [], color=f"C{number % 10}", linewidth=2, label=name.replace("$", r"\$"))
        for number, name in enumerate(names)
    ]
    handles = styles if len(names) == 1 else [*colors, *styles]
    columns = min(len(handles), 2 if len(figure.axes) == 1 else 4)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9)
