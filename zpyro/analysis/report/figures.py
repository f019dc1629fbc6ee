"""Figures of one sequence: what went in, with the terms of every step beside it."""

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
"""Inches: narrow enough that letters stay readable where a picture is as wide as a telephone."""

KL_COLOR, SURPRISE_COLOR = "C0", "C1"
WORDS_A_LINE, CHARACTERS_A_LINE = 12, 36


def input_figure(view: SequenceView) -> Figure:
    """The sequence, and where its latents speak: KL and surprise of every step.

    Surprise is -log p(x_t | h_t). A model without latents has that alone.

    Raises:
        UserError: if matplotlib is missing.
    """
    if view.data_type == "tokens":
        return _of_tokens(view)
    if view.image_shape is not None:
        return _of_image(view)
    return _of_signal(view)


def terms(view: SequenceView) -> list[tuple[str, Array, str]]:
    """Label, values (T,) and color of the terms to draw, nats a step."""
    found = [("surprise", -view.log_likelihood, SURPRISE_COLOR)]
    return [("KL", view.kl, KL_COLOR), *found] if view.has_latents else found


def _of_signal(view: SequenceView) -> Figure:
    """Sound as a waveform, other frames as an image, each term in a panel under it."""
    shown = terms(view)
    figure = plots.new_figure(WIDTH, 1.6 + 1.2 * len(shown))
    top, *panels = figure.subplots(
        1 + len(shown), 1, sharex=True, squeeze=False, height_ratios=[1.3] + [1.0] * len(shown)
    ).flat
    draw_signal(top, view, view.frames)
    for axes, (label, values, color) in zip(panels, shown, strict=True):
        axes.stairs(values, view.edges, color=color, fill=label == "KL", label=label)
        axes.set(ylabel=f"{label},\nnats/{view.step_name}")
        axes.grid(alpha=0.25)
    panels[-1].set(xlabel=view.time_label, xlim=(view.edges[0], view.edges[-1]))
    figure.align_ylabels()
    return figure


def draw_signal(axes: Axes, view: SequenceView, frames: Array) -> None:
    """A sequence's frames, or others of its kind, over its time.

    Args:
        axes: where.
        view: whose time it is.
        frames: (T, D), on the scale of the raw data.
    """
    if view.sample_rate is not None:
        waveform = frames.reshape(-1)
        axes.plot(np.arange(len(waveform)) / view.sample_rate, waveform, linewidth=0.4, color="0.2")
        axes.set(ylabel="amplitude")
        return
    size = frames.shape[1]
    binary = view.data_type == "binary"
    lowest, highest = (0.0, 1.0) if binary else (view.frames.min(), view.frames.max())
    image = axes.imshow(
        frames.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="gray_r" if binary else "viridis",
        extent=(view.edges[0], view.edges[-1], 0.5, size + 0.5),
        vmin=float(lowest),
        vmax=float(highest),
    )
    if not binary:
        axes.figure.colorbar(image, ax=axes, label="value", pad=0.01)
    axes.set(ylabel="dimension")
    plots.integer_ticks(axes.yaxis)


def draw_image(axes: Axes, view: SequenceView, frames: Array) -> None:
    """Draw a picture's frames, (T, D), as the picture; 1 black on 0 white."""
    assert view.image_shape is not None
    _map(axes, view.image_shape, frames, "gray_r", 0.0, 1.0)
    axes.set(xlabel="column", ylabel="row")


def _map(
    axes: Axes, shape: tuple[int, int], values: Array, colors: str, lowest: float, highest: float
) -> AxesImage:
    """Draw a number a pixel, rows and columns counted from 1."""
    rows, columns = shape
    axes.set_box_aspect(rows / columns)
    return axes.imshow(
        values.reshape(shape),
        aspect="auto",
        cmap=colors,
        vmin=lowest,
        vmax=highest,
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )


def _of_image(view: SequenceView) -> Figure:
    """The picture with its terms beside it: a bar a row, or a map of the pixels."""
    shown = terms(view)
    assert view.image_shape is not None
    rows, columns = view.image_shape
    by_row = view.steps == rows
    panels = 1 + len(shown)
    side = (WIDTH - 0.6) / panels * rows / columns
    figure = plots.new_figure(WIDTH, side + (0.5 if by_row else 0.85), "compressed")
    first, *others = figure.subplots(1, panels, sharey=True, squeeze=False).flat
    draw_image(first, view, view.frames)
    for axes, (label, values, color) in zip(others, shown, strict=True):
        if by_row:
            axes.set_box_aspect(rows / columns)
            axes.barh(np.arange(1, rows + 1), values, height=0.9, color=color)
            axes.set(xlabel=f"{label}, nats/row")
            axes.grid(axis="x", alpha=0.25)
        else:
            image = _map(axes, view.image_shape, values, "magma", 0.0, float(values.max()))
            bar = figure.colorbar(image, ax=axes, location="bottom", pad=0.04)
            bar.set_label(f"{label}, nats/pixel")
            axes.set_xticks([])
    return figure


def _of_tokens(view: SequenceView) -> Figure:
    """The words in lines, each with the bars of its terms above it."""
    shown = terms(view)
    characters = view.unit == "character"
    lines = -(-view.steps // (CHARACTERS_A_LINE if characters else WORDS_A_LINE))
    each = -(-view.steps // lines)
    figure = plots.new_figure(WIDTH, 0.5 + (1.2 if characters else 1.7) * lines)
    names = view.words or tuple(str(int(token)) for token in view.frames)
    highest = max(float(values.max()) for _, values, _ in shown)
    width = 0.8 / len(shown)
    for line, axes in enumerate(figure.subplots(lines, 1, squeeze=False, sharey=True).flat):
        part = slice(line * each, min((line + 1) * each, view.steps))
        places = np.arange(part.start, part.stop)
        for number, (label, values, color) in enumerate(shown):
            shift = (number - (len(shown) - 1) / 2) * width
            axes.bar(places + shift, values[part], width, color=color, label=label)
        axes.set_xticks(places, [_short(name) for name in names[part]])
        if not characters:
            axes.tick_params(axis="x", rotation=40)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        axes.set(
            xlim=(part.start - 0.6, part.start + each - 0.4),
            ylim=(0.0, 1.05 * max(highest, 1e-6)),
            ylabel=f"nats/{view.step_name}",
        )
        axes.grid(axis="y", alpha=0.25)
    figure.axes[-1].set(xlabel=f"{view.step_name}s in their order")
    figure.axes[0].legend(fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _short(word: str) -> str:
    # A dollar sign would begin a formula.
    return (word if len(word) <= 14 else f"{word[:13]}…").replace("$", r"\$")


def reconstruction_figure(view: SequenceView) -> Figure:
    """What went in above, or beside, what the model makes of it: see ``SequenceView.answers``.

    Raises:
        UserError: if matplotlib is missing.
        ValueError: for tokens, which are better read than looked at.
    """
    shown = [("input", view.frames), *view.answers]
    if view.data_type == "tokens":
        raise ValueError("tokens have no picture of a reconstruction")
    if view.image_shape is not None:
        rows, columns = view.image_shape
        height = (WIDTH - 0.6) / len(shown) * rows / columns + 0.7
        figure = plots.new_figure(WIDTH, height, "compressed")
        panels = figure.subplots(1, len(shown), sharey=True)
        for axes, (title, frames) in zip(panels, shown, strict=True):
            draw_image(axes, view, frames)
            axes.set_title(title, fontsize=10)
            axes.label_outer()
        return figure
    if view.sample_rate is not None:
        figure = plots.new_figure(WIDTH, 2.5 * len(shown))
        sounds = [(title, frames.reshape(-1)) for title, frames in shown]
        draw_sounds(figure, sounds, view.sample_rate)
        return figure
    figure = plots.new_figure(WIDTH, 1.6 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True)
    for axes, (title, frames) in zip(panels, shown, strict=True):
        draw_signal(axes, view, frames)
        axes.set_title(title, fontsize=10)
    panels[-1].set(xlabel=view.time_label)
    return figure


def draw_sounds(figure: Figure, sounds: list[tuple[str, Array]], rate: int) -> None:
    """Waveform above spectrogram of each sound, under its title, all on one scale of amplitude.

    Args:
        figure: an empty one.
        sounds: title and samples (N,) of each.
        rate: samples a second.
    """
    panels = figure.subplots(
        2 * len(sounds), 1, sharex=True, squeeze=False, height_ratios=[0.8, 1.0] * len(sounds)
    ).flat
    loudest = max((float(np.abs(sound).max()) for _, sound in sounds), default=0.0)
    for number, (title, sound) in enumerate(sounds):
        upper, lower = panels[2 * number], panels[2 * number + 1]
        upper.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4, color="0.2")
        upper.set(
            ylabel="amplitude", title=title, ylim=(-1.05 * loudest or -1, 1.05 * loudest or 1)
        )
        plots.plot_spectrogram(lower, sound, rate)
        lower.set(ylabel="kHz")
    longest = max(len(sound) for _, sound in sounds)
    panels[len(sounds) * 2 - 1].set(xlabel="time, s", xlim=(0, longest / rate))
    figure.align_ylabels()
