"""Pictures of samples; needs matplotlib (``pip install "zpyro[plots]"``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zpyro.analysis.plotting import new_figure, save, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUIETEST_DECIBEL = -80.0
IMAGE_SCALE = 4
"""Points of the screen for a pixel."""

IMAGE_BORDER = 0.35
"""Gray of the lines between pictures."""


def audio_picture(waveforms: Sequence[np.ndarray], sample_rate: int, path: Path) -> None:
    """Draw each sound's waveform above its spectrogram.

    Args:
        waveforms: samples, (N_i,) each, full scale 1.
        sample_rate: samples a second.
        path: the picture file; its ending tells the format.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    figure = new_figure(8, 2.8 * len(waveforms))
    for number, waveform in enumerate(waveforms):
        upper, lower = _row(figure, number, len(waveforms)).subplots(2, 1, sharex=True)
        seconds = np.arange(len(waveform)) / sample_rate
        upper.plot(seconds, waveform, linewidth=0.4)
        upper.set(ylabel="amplitude", title=f"sample {number + 1}")
        spectrogram(lower, waveform, sample_rate)
        lower.set(xlabel="time, s", ylabel="kHz", xlim=(0, len(waveform) / sample_rate))
    save(figure, path)


def frames_picture(frames: Sequence[np.ndarray], path: Path, kind: str = "frames") -> None:
    """Draw each sequence as an image, time to the right and the parts of a frame upward.

    Args:
        frames: (T, D) each, or (T,) tokens.
        path: the picture file; its ending tells the format.
        kind: "binary" draws black and white, "tokens" draws a line of token numbers.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    figure = new_figure(8, 1.8 * len(frames))
    for number, sequence in enumerate(frames):
        axes = _row(figure, number, len(frames)).subplots()
        steps = np.arange(1, len(sequence) + 1)
        if kind == "tokens":
            axes.plot(steps, sequence, ".", markersize=2)
            axes.set(ylabel="token")
        else:
            image = axes.imshow(
                np.asarray(sequence).T,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap="gray_r" if kind == "binary" else "viridis",
                extent=(0.5, len(sequence) + 0.5, 0.5, sequence.shape[1] + 0.5),
            )
            if kind != "binary":
                figure.colorbar(image, ax=axes, label="value")
            axes.set(ylabel="dimension")
            whole_numbers(axes.yaxis)
        whole_numbers(axes.xaxis)
        axes.set(xlabel="step", title=f"sample {number + 1}")
    save(figure, path)


def images_picture(images: np.ndarray, path: Path) -> None:
    """Draw pictures beside each other in a grid that is about square, 1 black on 0 white.

    Args:
        images: (N, R, C), values 0 to 1.
        path: the picture file; its ending tells the format.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    count, height, width = images.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    grid = np.full((down * (height + 1) + 1, across * (width + 1) + 1), IMAGE_BORDER)
    for number, image in enumerate(images):
        top, left = (number // across) * (height + 1) + 1, (number % across) * (width + 1) + 1
        grid[top : top + height, left : left + width] = image
    figure = new_figure(8, 1)
    figure.set_layout_engine("none")
    figure.set_size_inches(grid.shape[1] * IMAGE_SCALE / 100, grid.shape[0] * IMAGE_SCALE / 100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(grid, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    save(figure, path, dpi=100)


def spectrogram(axes: Axes, waveform: np.ndarray, sample_rate: int) -> None:
    """Draw power in decibel below the loudest point, windows of 25 ms every 5 ms.

    Args:
        axes: where.
        waveform: samples, (N,).
        sample_rate: samples a second.
    """
    window = min(len(waveform), max(32, sample_rate // 40))
    hop = max(1, sample_rate // 200)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2
    power = np.maximum(power / max(float(power.max()), 1e-20), 10 ** (QUIETEST_DECIBEL / 10))
    axes.imshow(
        10 * np.log10(power).T,
        aspect="auto",
        origin="lower",
        cmap="magma",
        extent=(0, len(waveform) / sample_rate, 0, sample_rate / 2000),
    )


def _row(figure: Figure, number: int, count: int) -> Any:
    """The panel of one sample; matplotlib gives a bare one where there is a single sample."""
    panels = figure.subfigs or figure.subfigures(count, 1, squeeze=False).flat
    return list(panels)[number]
