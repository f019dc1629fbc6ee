"""Figures of sequences; needs matplotlib (``pip install "zpyro[plots]"``).

Figures are made without pyplot: no window system, and no state between figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.formats.midi import LOWEST
from zpyro.io.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Array = NDArray[Any]

LOWEST_DECIBEL = -80.0
IMAGE_SCALE = 4
"""Screen dots per pixel of an image."""
IMAGE_BORDER = 0.35
"""Gray level of the lines between images."""
MAX_INCHES = 100.0
ROLL_INCHES = 3.0
"""Height of a roll: two dots or more for each key."""
ROLL_ROWS, ROLL_COLUMNS = 8, 2000
"""Rows of each key, and least columns, in the image of a roll."""


def integer_ticks(axis: Axis) -> None:
    """Place the ticks of an axis at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def plot_sounds(
    sounds: Sequence[tuple[str, Array]], sample_rate: int, width: float = 8, height: float = 2.8
) -> Figure:
    """Plot the waveform of each sound above its spectrogram, amplitudes on one scale.

    Args:
        sounds: title and samples (N_i,) of each, full scale 1.
        sample_rate: Hz.
        width: of the figure, inches.
        height: of each sound, inches.

    Raises:
        UserError: if matplotlib is missing.
    """
    figure = new_figure(width, height * len(sounds))
    panels = figure.subplots(
        2 * len(sounds), 1, sharex=True, squeeze=False, height_ratios=[0.8, 1.0] * len(sounds)
    ).flat
    loudest = 1.05 * max(float(np.abs(sound).max()) for _, sound in sounds) or 1.0
    for number, (title, sound) in enumerate(sounds):
        upper, lower = panels[2 * number], panels[2 * number + 1]
        upper.plot(np.arange(len(sound)) / sample_rate, sound, linewidth=0.4, color="0.2")
        upper.set(ylabel="amplitude", ylim=(-loudest, loudest))
        upper.set_title(title, parse_math=False)
        plot_spectrogram(lower, sound, sample_rate)
        lower.set(xlabel="time, s")
    longest = max(len(sound) for _, sound in sounds)
    panels[2 * len(sounds) - 1].set_xlim(0, longest / sample_rate)
    figure.align_ylabels()
    return figure


def plot_frames(
    frames: Sequence[Array], path: Path, data_type: str = "frames", *, first: int = 1
) -> None:
    """Plot each sequence as an image, time to the right and the dimensions of a frame upward.

    Args:
        frames: (T, D) each, or (T,) tokens.
        path: the picture file.
        data_type: "binary" is plotted in black and white, "roll" with the names of notes, "tokens"
            as points.
        first: number of the first sequence in the titles.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    height = ROLL_INCHES if data_type == "roll" else 1.8
    figure = new_figure(8, min(height * len(frames), MAX_INCHES))
    panels = figure.subfigures(len(frames), 1, squeeze=False).flat
    for number, (panel, sequence) in enumerate(zip(panels, frames, strict=True), start=first):
        axes = panel.subplots()
        if data_type == "tokens":
            axes.plot(np.arange(1, len(sequence) + 1), sequence, ".", markersize=2)
            axes.set(ylabel="token")
        elif data_type == "roll":
            roll_image(axes, sequence)
        else:
            image = frames_image(axes, sequence, cmap="gray_r" if data_type == "binary" else None)
            if data_type != "binary":
                figure.colorbar(image, ax=axes, label="value")
            integer_ticks(axes.yaxis)
        integer_ticks(axes.xaxis)
        axes.set(xlabel="step", title=f"sample {number}")
    save_figure(figure, path)


def plot_images(images: Array, path: Path) -> None:
    """Plot images in a grid that is about square, 1 is black, 0 is white.

    Args:
        images: (N, R, C), values 0 to 1.
        path: the picture file.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    count, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), IMAGE_BORDER)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + 1) + 1, (number % columns) * (width + 1) + 1
        grid[top : top + height, left : left + width] = image
    figure = new_figure(8, 1)
    figure.set_layout_engine("none")
    figure.set_size_inches(grid.shape[1] * IMAGE_SCALE / 100, grid.shape[0] * IMAGE_SCALE / 100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(grid, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    save_figure(figure, path, dpi=100)


def plot_side_by_side(
    rows: Sequence[Sequence[tuple[str, Array]]],
    path: Path,
    sample_rate: int | None = None,
    *,
    images: bool = False,
    rolls: bool = False,
) -> None:
    """Plot rows of sequences; those of a row share one scale.

    Args:
        rows: (title, sequence) from left to right, the same number in each row. Sequences are
            samples (N,) with a sample rate, images (R, C) of values 0 to 1, else frames (T, D) or
            tokens (T,).
        path: the picture file.
        sample_rate: Hz of audio, which is plotted as spectrograms.
        images: whether the sequences are images, 1 is black, 0 is white.
        rolls: whether they are rolls of the 88 keys of a piano, likewise.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    columns = max(map(len, rows))
    width, height = (1.1, 1.3) if images else (3.6, ROLL_INCHES if rolls else 1.9)
    figure = new_figure(min(width * columns, MAX_INCHES), min(height * len(rows), MAX_INCHES))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, panels, strict=True):
        lowest = min(float(values.min()) for _, values in row)
        highest = max(float(values.max()) for _, values in row)
        for (title, values), axes in zip(row, line, strict=True):
            axes.set_title(title, fontsize=7 if images else 9, parse_math=False)
            if sample_rate is not None:
                plot_spectrogram(axes, values, sample_rate)
                axes.set(xlabel="time, s")
            elif images:
                axes.imshow(values, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                axes.set_axis_off()
            elif values.ndim == 1:
                axes.plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
                axes.set(xlabel="step", ylabel="token", ylim=(lowest - 1, highest + 1))
            elif rolls:
                roll_image(axes, values)
                axes.set(xlabel="step")
            else:
                frames_image(axes, values, vmin=lowest, vmax=highest)
                axes.set(xlabel="step")
    save_figure(figure, path)


def frames_image(axes: Axes, frames: Array, **style: Any) -> Any:
    """Plot frames (T, D) as an image; ``extent`` and colors may be set by keyword."""
    extent = (0.5, len(frames) + 0.5, 0.5, frames.shape[1] + 0.5)
    style = {"aspect": "auto", "interpolation": "nearest", "extent": extent, **style}
    axes.set(ylabel="dimension")
    return axes.imshow(np.asarray(frames).T, origin="lower", **style)


def roll_image(axes: Axes, roll: Array, **style: Any) -> Any:
    """Plot a roll (T, 88) of values 0 to 1 with the notes C of each octave marked.

    ``extent`` may be set by keyword; notes have their MIDI numbers. All notes are equally thick.
    """
    from matplotlib.colors import LinearSegmentedColormap

    top = LOWEST + roll.shape[1] - 0.5
    extent = (0.5, len(roll) + 0.5, LOWEST - 0.5, top)
    # Clear to black, above the lines of the octaves.
    colors = LinearSegmentedColormap.from_list("notes", [(0, 0, 0, 0), (0, 0, 0, 1)])
    style = {"extent": extent, "cmap": colors, "vmin": 0.0, "vmax": 1.0, "zorder": 2, **style}
    # Finer than the dots of the picture, which then average it. Otherwise the nearest key would
    # decide about a dot, and notes would be one or two dots thick depending on where they are.
    fine = np.repeat(roll, ROLL_ROWS, axis=1)
    fine = np.repeat(fine, -(-ROLL_COLUMNS // len(roll)), axis=0)
    image = frames_image(axes, fine, interpolation="antialiased", **style)
    octaves = range(-(-LOWEST // 12), int(top) // 12 + 1)
    axes.set_yticks([12 * octave for octave in octaves], [f"C{each - 1}" for each in octaves])
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.25)
    axes.set(ylabel="note")
    return image


def plot_spectrogram(axes: Axes, waveform: Array, sample_rate: int) -> None:
    """Plot the power of samples (N,) in decibel below the loudest point.

    Windows of 25 ms begin every 5 ms; the sample rate is in Hz.
    """
    window = min(len(waveform), max(32, sample_rate // 40))
    hop = max(1, sample_rate // 200)
    windows = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(window), axis=1)) ** 2
    power = np.maximum(power / max(float(power.max()), 1e-20), 10 ** (LOWEST_DECIBEL / 10))
    axes.imshow(
        10 * np.log10(power).T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, len(waveform) / sample_rate, 0, sample_rate / 2000),
    )
    axes.set(ylabel="kHz")
