"""Curves of one or several trainings in one picture."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpyro.analysis import plots
from zpyro.errors import UserError
from zpyro.training.runs import Run, open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
Points = tuple[list[int], list[float]]
"""Training steps and values."""

WIDTH, HEIGHT = 4.5, 3.0
"""Inches of one panel."""


@dataclass(frozen=True)
class Metric:
    """One curve.

    Attributes:
        train: its name in training records, or None where only validation has it.
        valid: its name in validation records, or None.
        label: what it is, and its unit.
    """

    train: str | None
    valid: str | None
    label: str


METRICS = {
    "bound": Metric("bound", "elbo", "bound, nats/sequence"),
    "kl": Metric("kl", "kl", "KL, nats/sequence"),
    "log_likelihood": Metric("log_likelihood", "log_likelihood", "log-likelihood, nats/sequence"),
    "bound_per_frame": Metric("bound_per_frame", "elbo_per_frame", "bound, nats/frame"),
    "kl_per_frame": Metric("kl_per_frame", None, "KL, nats/frame"),
    "loss": Metric("loss", None, "training loss, nats/sequence"),
    "log_auxiliary": Metric("log_auxiliary", None, "auxiliary term, nats/sequence"),
    "log_reverse": Metric("log_reverse", None, "reverse term, nats/sequence"),
    "gradient_norm": Metric("gradient_norm", None, "gradient norm, nats/sequence"),
    "active_units": Metric(None, "active_units", "latents in use"),
    "kl_weight": Metric("kl_weight", None, "KL weight"),
    "auxiliary_weight": Metric("auxiliary_weight", None, "auxiliary weight"),
    "reverse_weight": Metric("reverse_weight", None, "reverse weight"),
    "learning_rate": Metric("learning_rate", None, "learning rate"),
    "frames_per_second": Metric("frames_per_second", None, "speed, frames/s"),
    "skipped": Metric("skipped", None, "updates skipped"),
}
"""What can be drawn, by the name that the command line takes."""

DEFAULT = ("bound", "kl", "log_likelihood")


def plot(folders: Sequence[Path], path: Path, metrics: Sequence[str] = DEFAULT) -> Figure:
    """Draw the training curves of several runs in one picture.

    Args:
        folders: the run directories.
        path: the picture file; its ending tells the format.
        metrics: names of :data:`METRICS`, one panel each.

    Raises:
        UserError: for an unknown metric, a folder that is no run, a run without records yet, a
            metric that no run recorded, or a file that cannot be written.
    """
    plots.require_matplotlib()
    for name in metrics:
        _check_known(name)
    records = {
        label: _records(open_run(folder))
        for label, folder in zip(labels(folders), folders, strict=True)
    }
    for name in metrics:
        if not any(has(found, METRICS[name]) for found in records.values()):
            raise UserError(
                f"no run recorded {name}; they have {', '.join(recorded(records.values()))}"
            )
    figure = curves_figure(records, metrics)
    plots.save_figure(figure, path)
    return figure


def curves_figure(runs: Mapping[str, Records], metrics: Sequence[str] = DEFAULT) -> Figure:
    """One panel a metric, one color a run: training dashed, held-out data solid.

    Args:
        runs: what metrics.jsonl of each run holds, by the name to show.
        metrics: names of :data:`METRICS`.

    Raises:
        UserError: if matplotlib is missing.
    """
    across = 1 if len(metrics) == 1 else 2
    down = -(-len(metrics) // across)
    figure = plots.new_figure(WIDTH * across, HEIGHT * down)
    panels = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place < len(metrics):
            _draw(axes, runs, METRICS[metrics[place]])
        else:
            axes.set_axis_off()
    _legend(figure, list(runs))
    return figure


def points(records: Records, kind: str, key: str | None) -> Points:
    """Steps and values of the records of one kind, "train" or "valid"; empty where key is None."""
    found = [
        (record["step"], record[key])
        for record in records
        if key is not None and record.get("kind") == kind and record.get(key) is not None
    ]
    return [step for step, _ in found], [float(value) for _, value in found]


def has(records: Records, metric: Metric) -> bool:
    """Whether a run recorded this metric."""
    return bool(
        points(records, "train", metric.train)[0] or points(records, "valid", metric.valid)[0]
    )


def recorded(runs: Iterable[Records]) -> list[str]:
    """The metrics that at least one of the runs recorded."""
    every = list(runs)
    return [name for name, metric in METRICS.items() if any(has(run, metric) for run in every)]


def labels(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: as many of its last parts as tell them all apart.

    Raises:
        UserError: if a folder is given twice.
    """
    parts = [folder.absolute().resolve().parts for folder in folders]
    for place, own in enumerate(parts):
        if own in parts[:place]:
            raise UserError(f"{folders[place]}: is given twice; name each run once")
    longest = max(map(len, parts), default=1)
    for depth in range(1, longest + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _draw(axes: Axes, runs: Mapping[str, Records], metric: Metric) -> None:
    for number, (name, records) in enumerate(runs.items()):
        color = f"C{number % 10}"
        steps, values = points(records, "train", metric.train)
        if steps:
            (line,) = axes.plot(steps, values, "--", color=color, linewidth=0.9, alpha=0.6)
            line.set(label=f"{name}, training", marker="." if len(steps) == 1 else "")
        steps, values = points(records, "valid", metric.valid)
        if steps:
            axes.plot(steps, values, "-o", color=color, markersize=3, label=f"{name}, held out")
    axes.set(xlabel="training step", ylabel=metric.label)
    axes.grid(alpha=0.25)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """One legend for all panels: the colors of the runs, and what dashes mean."""
    from matplotlib.lines import Line2D

    drawn = {str(line.get_linestyle()) for axes in figure.axes for line in axes.lines}
    kinds = [
        Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="training"),
        Line2D([], [], color="0.4", linestyle="-", marker="o", markersize=3, label="held out"),
    ]
    kinds = [kind for kind in kinds if kind.get_linestyle() in drawn]
    colors = [
        Line2D([], [], color=f"C{number % 10}", linewidth=2, label=name.replace("$", r"\$"))
        for number, name in enumerate(names)
    ]
    handles = kinds if len(names) == 1 else [*colors, *kinds]
    columns = min(len(handles), 2 if len(figure.axes) == 1 else 4)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9)


def _records(run: Run) -> Records:
    records = run.records()
    if not records:
        raise UserError(
            f"{run.folder}: has no metrics yet; train on with zpyro train --resume {run.folder}"
        )
    return records


def _check_known(name: str) -> None:
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(METRICS)}"
        raise UserError(f"metric {name!r} is unknown; {hint}")
