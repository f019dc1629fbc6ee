"""The picture of a comparison; needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from zpyro.analysis.comparison.summary import Summary
from zpyro.io import files

PANELS = (("elbo", "bound, nats/sequence"), ("kl", "KL, nats/sequence"))


def draw(summary: Summary, path: Path) -> None:
    """Every seed as a dot and each row's mean with its interval, bound and KL side by side.

    Raises:
        UserError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    names = [row.name for row in summary.rows]
    figure = Figure(figsize=(10.0, 1.4 + 0.35 * len(names)), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        for place, row in enumerate(summary.rows):
            found = row.estimates[key]
            axes.plot(found.values, [place] * len(found.values), ".", color="0.6")
            axes.errorbar(found.mean, place, xerr=found.half_width, fmt="o", color="C0", capsize=3)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].set_yticks(range(len(names)), names)
    figure.axes[0].invert_yaxis()
    figure.suptitle(summary.title, fontsize=9)
    with files.translate_os_errors(path):
        figure.savefig(path, dpi=120)
