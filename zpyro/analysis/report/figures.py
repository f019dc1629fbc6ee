"""Figures of one sequence: its terms step by step, its reconstruction, and its latents.

Each function raises UserError if matplotlib is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zpyro.analysis import plots
from zpyro.analysis.report.views import Array, SequenceView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

WIDTH = 4.5
"""Inches; text stays readable on the screen of a phone."""
WORDS_PER_LINE, CHARACTERS_PER_LINE = 12, 36
SHOWN_LATENTS, SHOWN_SAMPLES = 3, 3
MIN_KL_SHARE = 0.01
"""Latents with a smaller share of the sequence's KL get no panel."""
PRIOR_COLOR, POSTERIOR_COLOR, SAMPLE_COLOR = "0.55", "C0", "C3"


def terms(view: SequenceView) -> list[tuple[str, Array, str]]:
    """Label, values (T,) and color of the terms to plot, nats per step."""
    surprise = ("surprise", -view.log_likelihood, "C1")
    return [("KL", view.kl, "C0"), surprise] if view.has_latents else [surprise]


def plot_input(view: SequenceView) -> Figure:
    """Plot a sequence with the KL and the surprise -log p(x_t | h_t) of each step."""
    if view.data_type == "tokens":
        return _plot_tokens(view)
    if view.image_shape is not None:
        return _plot_image_terms(view, view.image_shape)
    shown = terms(view)
    signal = plots.ROLL_INCHES if view.is_roll else 1.6
    figure = plots.new_figure(WIDTH, signal + 1.2 * len(shown))
    top, *panels = figure.subplots(
        1 + len(shown), 1, sharex=True, squeeze=False, height_ratios=[signal] + [1.2] * len(shown)
    ).flat
    _plot_signal(top, view, view.frames)
    for axes, (label, values, color) in zip(panels, shown, strict=True):
        axes.stairs(values, view.edges, color=color, fill=label == "KL", label=label)
        axes.set(ylabel=f"{label},\nnats/{view.step_name}")
        axes.grid(alpha=0.25)
    panels[-1].set(xlabel=view.time_label, xlim=(view.edges[0], view.edges[-1]))
    figure.align_ylabels()
    return figure


def _plot_signal(axes: Axes, view: SequenceView, frames: Array) -> None:
    """Plot raw frames (T, D) over the time of a view: audio as a waveform, others as an image."""
    if view.sample_rate is not None:
        waveform = frames.reshape(-1)
        axes.plot(np.arange(len(waveform)) / view.sample_rate, waveform, linewidth=0.4, color="0.2")
        axes.set(ylabel="amplitude")
        return
    if view.is_roll:
        extent = (view.edges[0], view.edges[-1], plots.LOWEST - 0.5, plots.LOWEST + 87.5)
        plots.roll_image(axes, frames, extent=extent)
        return
    binary = view.data_type == "binary"
    lowest, highest = (0.0, 1.0) if binary else (view.frames.min(), view.frames.max())
    image = plots.frames_image(
        axes,
        frames,
        cmap="gray_r" if binary else "viridis",
        extent=(view.edges[0], view.edges[-1], 0.5, frames.shape[1] + 0.5),
        vmin=float(lowest),
        vmax=float(highest),
    )
    if not binary:
        axes.figure.colorbar(image, ax=axes, label="value", pad=0.01)
    plots.integer_ticks(axes.yaxis)


def _plot_image(
    axes: Axes, shape: tuple[int, int], values: Array, cmap: str = "gray_r", highest: float = 1.0
) -> AxesImage:
    """Plot one number per pixel, rows and columns counted from 1."""
    rows, columns = shape
    axes.set_box_aspect(rows / columns)
    return axes.imshow(
        values.reshape(shape),
        aspect="auto",
        cmap=cmap,
        vmin=0.0,
        vmax=highest,
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )


def _plot_image_terms(view: SequenceView, shape: tuple[int, int]) -> Figure:
    """Plot an image with its terms beside it: a bar per row, or a map of the pixels."""
    shown = terms(view)
    rows, columns = shape
    by_row = view.steps == rows
    height = (WIDTH - 0.6) / (1 + len(shown)) * rows / columns
    figure = plots.new_figure(WIDTH, height + (0.5 if by_row else 0.85), "compressed")
    first, *panels = figure.subplots(1, 1 + len(shown), sharey=True, squeeze=False).flat
    _plot_image(first, shape, view.frames)
    first.set(xlabel="column", ylabel="row")
    for axes, (label, values, color) in zip(panels, shown, strict=True):
        if by_row:
            axes.set_box_aspect(rows / columns)
            axes.barh(np.arange(1, rows + 1), values, height=0.9, color=color)
            axes.set(xlabel=f"{label}, nats/row")
            axes.grid(axis="x", alpha=0.25)
        else:
            image = _plot_image(axes, shape, values, "magma", float(values.max()))
            bar = figure.colorbar(image, ax=axes, location="bottom", pad=0.04)
            bar.set_label(f"{label}, nats/pixel")
            axes.set_xticks([])
    return figure


def _plot_tokens(view: SequenceView) -> Figure:
    """Plot the words in lines, with bars of the terms above each word."""
    shown = terms(view)
    characters = view.unit == "character"
    lines = -(-view.steps // (CHARACTERS_PER_LINE if characters else WORDS_PER_LINE))
    length = -(-view.steps // lines)
    figure = plots.new_figure(WIDTH, 0.5 + (1.2 if characters else 1.7) * lines)
    words = view.words(view.frames)
    highest = max(float(values.max()) for _, values, _ in shown)
    width = 0.8 / len(shown)
    for line, axes in enumerate(figure.subplots(lines, 1, squeeze=False, sharey=True).flat):
        part = slice(line * length, min((line + 1) * length, view.steps))
        places = np.arange(part.start, part.stop)
        for number, (label, values, color) in enumerate(shown):
            shift = (number - (len(shown) - 1) / 2) * width
            axes.bar(places + shift, values[part], width, color=color, label=label)
        shown_words = (word if len(word) <= 14 else f"{word[:13]}…" for word in words[part])
        # matplotlib reads a formula from a dollar sign.
        axes.set_xticks(places, [word.replace("$", r"\$") for word in shown_words])
        if not characters:
            axes.tick_params(axis="x", rotation=40)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        axes.set(
            xlim=(part.start - 0.6, part.start + length - 0.4),
            ylim=(0.0, 1.05 * max(highest, 1e-6)),
            ylabel=f"nats/{view.step_name}",
        )
        axes.grid(axis="y", alpha=0.25)
    figure.axes[-1].set(xlabel=f"{view.step_name}s in their order")
    figure.axes[0].legend(fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def plot_reconstruction(view: SequenceView) -> Figure:
    """Plot a sequence with the outputs of the model, see ``SequenceView.outputs``.

    Raises:
        ValueError: for tokens, which the report shows as text.
    """
    shown = [("input", view.frames), *view.outputs]
    if view.data_type == "tokens":
        raise ValueError("tokens have no picture of a reconstruction")
    if view.sample_rate is not None:
        sounds = [(title, each.reshape(-1)) for title, each in shown]
        return plots.plot_sounds(sounds, view.sample_rate, WIDTH, 2.5)
    if view.image_shape is not None:
        rows, columns = view.image_shape
        height = (WIDTH - 0.6) / len(shown) * rows / columns + 0.7
        figure = plots.new_figure(WIDTH, height, "compressed")
        for axes, (title, frames) in zip(
            figure.subplots(1, len(shown), sharey=True), shown, strict=True
        ):
            _plot_image(axes, view.image_shape, frames)
            axes.set(xlabel="column", ylabel="row")
            axes.set_title(title, fontsize=10, parse_math=False)
            axes.label_outer()
        return figure
    height = plots.ROLL_INCHES if view.is_roll else 1.6
    figure = plots.new_figure(WIDTH, height * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True)
    for axes, (title, frames) in zip(panels, shown, strict=True):
        _plot_signal(axes, view, frames)
        axes.set_title(title, fontsize=10, parse_math=False)
    panels[-1].set(xlabel=view.time_label)
    return figure


def top_latents_by_kl(view: SequenceView, count: int = SHOWN_LATENTS) -> list[int]:
    """The latents with the most KL; at least one, and none with less than 1 % of it."""
    nats = view.kl_by_latent.sum(0)
    first, *others = (int(latent) for latent in view.order[:count])
    return [first, *(latent for latent in others if nats[latent] >= MIN_KL_SHARE * nats.sum())]


def plot_prior_posterior(view: SequenceView, count: int = SHOWN_LATENTS) -> Figure:
    """Plot prior and posterior of the ``count`` latents with the most KL.

    Mean and standard deviation are along the first posterior sample; samples are thin lines.
    """
    latents = top_latents_by_kl(view, count)
    figure = plots.new_figure(WIDTH, 0.9 + 1.5 * len(latents))
    panels = list(figure.subplots(len(latents), 1, sharex=True, squeeze=False).flat)
    nats = view.kl_by_latent.sum(0)
    time = 0.5 * (view.edges[1:] + view.edges[:-1])
    bands = (
        ("prior", view.prior_loc, view.prior_scale, PRIOR_COLOR),
        ("posterior", view.posterior_loc, view.posterior_scale, POSTERIOR_COLOR),
    )
    for axes, latent in zip(panels, latents, strict=True):
        for name, loc, scale, color in bands:
            mean, deviation = loc[0, :, latent], scale[0, :, latent]
            low, high = mean - deviation, mean + deviation
            axes.fill_between(time, low, high, color=color, alpha=0.3, linewidth=0.0)
            axes.plot(time, mean, color=color, linewidth=1.2, zorder=3, label=f"{name} ± 1 sd")
        for number, path in enumerate(view.z[:SHOWN_SAMPLES, :, latent]):
            (line,) = axes.plot(time, path, color=SAMPLE_COLOR, linewidth=0.5, alpha=0.4)
            line.set(label="samples" if number == 0 else "_", zorder=1.5)
        axes.set(ylabel=f"latent {latent}")
        axes.set_title(f"KL {nats[latent]:,.2f} nats/sequence", fontsize=9, loc="right")
        axes.grid(alpha=0.25)
    panels[-1].set(xlabel=view.time_label, xlim=(view.edges[0], view.edges[-1]))
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside upper center", ncols=3, fontsize=9)
    figure.align_ylabels()
    return figure


def plot_latents(view: SequenceView) -> Figure:
    """Plot all latents over time by falling KL: posterior means above, KL below."""
    means, kl = view.posterior_loc[0][:, view.order], view.kl_by_latent[:, view.order]
    largest = max(float(np.abs(means).max()), 1e-6)
    figure = plots.new_figure(WIDTH, 4.2)
    shown = (
        (means, "posterior mean", {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
        (kl, f"KL, nats/{view.step_name}", {"cmap": "magma", "vmin": 0.0, "vmax": float(kl.max())}),
    )
    for axes, (values, label, style) in zip(figure.subplots(2, 1, sharex=True), shown, strict=True):
        extent = (view.edges[0], view.edges[-1], 0.5, values.shape[1] + 0.5)
        image = plots.frames_image(axes, values, extent=extent, **style)
        axes.invert_yaxis()
        figure.colorbar(image, ax=axes, label=label, pad=0.01)
        axes.set(ylabel="latents, by KL")
        plots.integer_ticks(axes.yaxis)
    figure.axes[1].set(xlabel=view.time_label)
    return figure
