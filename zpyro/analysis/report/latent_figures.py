"""Figures of the latents of one sequence: prior against posterior, and all of them over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zpyro.analysis import plots
from zpyro.analysis.report.figures import WIDTH
from zpyro.analysis.report.views import Array, SequenceView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_LATENTS = 3
SHOWN_DRAWS = 3
LEAST_SHARE = 0.01
"""Latents with less of the sequence's KL say nothing worth a panel."""

PRIOR_COLOR, POSTERIOR_COLOR = "0.55", "C0"


def prior_posterior_figure(view: SequenceView, count: int = SHOWN_LATENTS) -> Figure:
    """Prior and posterior of the latents with the most KL: mean and one standard deviation.

    Both along the first path drawn from the posterior; the other draws are thin lines.

    Args:
        view: of a model with latents.
        count: how many latents.

    Raises:
        UserError: if matplotlib is missing.
    """
    chosen = speaking(view, count)
    figure = plots.new_figure(WIDTH, 0.9 + 1.5 * len(chosen))
    panels = figure.subplots(len(chosen), 1, sharex=True, squeeze=False).flat
    nats = view.kl_by_latent.sum(0)
    for axes, latent in zip(panels, chosen, strict=True):
        _band(axes, view, view.prior_loc, view.prior_scale, latent, PRIOR_COLOR, "prior")
        _band(
            axes, view, view.posterior_loc, view.posterior_scale, latent, POSTERIOR_COLOR,
            "posterior",
        )  # fmt: skip
        for number, path in enumerate(view.z[:SHOWN_DRAWS, :, latent]):
            axes.plot(
                _middles(view), path, color="C3", linewidth=0.5, alpha=0.4, zorder=1.5,
                label="draws" if number == 0 else None,
            )  # fmt: skip
        axes.set(ylabel=f"latent {latent}")
        axes.set_title(f"KL {nats[latent]:,.2f} nats/sequence", fontsize=9, loc="right")
        axes.grid(alpha=0.25)
    panels = figure.axes
    panels[-1].set(xlabel=view.time_label, xlim=(view.edges[0], view.edges[-1]))
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9
    )
    figure.align_ylabels()
    return figure


def speaking(view: SequenceView, count: int = SHOWN_LATENTS) -> list[int]:
    """The latents with the most KL, at least one, but none with less than 1 % of it."""
    nats = view.kl_by_latent.sum(0)
    least = LEAST_SHARE * nats.sum()
    return [int(i) for place, i in enumerate(view.order[:count]) if not place or nats[i] >= least]


def latents_figure(view: SequenceView) -> Figure:
    """Every latent over time, those with the most KL on top: posterior means, and KL.

    Raises:
        UserError: if matplotlib is missing.
    """
    figure = plots.new_figure(WIDTH, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    means = view.posterior_loc[0][:, view.order]
    largest = max(float(np.abs(means).max()), 1e-6)
    _map(figure, upper, view, means, "posterior mean", "RdBu_r", (-largest, largest))
    kl = view.kl_by_latent[:, view.order]
    _map(figure, lower, view, kl, f"KL, nats/{view.step_name}", "magma", (0.0, float(kl.max())))
    lower.set(xlabel=view.time_label)
    return figure


def _map(
    figure: Figure,
    axes: Axes,
    view: SequenceView,
    values: Array,
    label: str,
    colors: str,
    limits: tuple[float, float],
) -> None:
    image = axes.imshow(
        values.T,
        aspect="auto",
        interpolation="nearest",
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        extent=(view.edges[0], view.edges[-1], values.shape[1] + 0.5, 0.5),
    )
    figure.colorbar(image, ax=axes, label=label, pad=0.01)
    axes.set(ylabel="latents, by KL")
    plots.integer_ticks(axes.yaxis)


def _band(
    axes: Axes,
    view: SequenceView,
    mean: Array,
    scale: Array,
    latent: int,
    color: str,
    label: str,
) -> None:
    middles = _middles(view)
    center, deviation = mean[0, :, latent], scale[0, :, latent]
    axes.fill_between(
        middles, center - deviation, center + deviation, color=color, alpha=0.3, linewidth=0.0
    )
    axes.plot(middles, center, color=color, linewidth=1.2, zorder=3, label=f"{label} ± 1 sd")


def _middles(view: SequenceView) -> Array:
    return 0.5 * (view.edges[1:] + view.edges[:-1])
