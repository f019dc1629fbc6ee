"""The training curves of one run, for its report."""

from __future__ import annotations

from pathlib import Path

from zpyro.analysis import plots
from zpyro.analysis.report import curves, page
from zpyro.analysis.report.page import Section
from zpyro.training.runs import Run

SHOWN = ("bound", "kl", "log_likelihood", "gradient_norm")
WITHOUT_LATENTS = ("log_likelihood", "gradient_norm")


def section(run: Run, folder: Path, *, latents: bool = True) -> Section:
    """A curve of each metric that the run recorded, written to a folder too.

    Args:
        run: whose records.
        folder: where to write.
        latents: whether the model has any; without them the bound is the log-likelihood.

    Raises:
        UserError: if matplotlib is missing or the folder cannot be written.
    """
    records = run.records()
    wanted = SHOWN if latents else WITHOUT_LATENTS
    shown = [name for name in wanted if curves.has(records, curves.METRICS[name])]
    figures: list[str] = []
    for name in shown:
        path = folder / f"training-{name.replace('_', '-')}.png"
        plots.save_figure(curves.curves_figure({run.folder.name: records}, (name,)), path, dpi=160)
        metric = curves.METRICS[name]
        what, _, unit = metric.label.partition(", ")
        figures.append(page.figure(path, _alternative(records, name), f"{what} in {unit}"))
    if not figures:
        return Section("training", "Training", (page.paragraph("No metrics were recorded."),))
    return Section("training", "Training", (page.grid(figures),))


def _alternative(records: curves.Records, name: str) -> str:
    metric = curves.METRICS[name]
    ends: list[str] = []
    for kind, key, title in (
        ("train", metric.train, "training"),
        ("valid", metric.valid, "held out"),
    ):
        steps, values = curves.points(records, kind, key)
        if steps:
            ends.append(
                f"{title} goes from {values[0]:,.1f} at step {steps[0]:,} "
                f"to {values[-1]:,.1f} at step {steps[-1]:,}"
            )
    return f"Curve of {metric.label} over training steps: {'; '.join(ends)}."
