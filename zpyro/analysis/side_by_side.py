"""Pictures of sequences in rows, to be compared: inputs beside what was made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zpyro.errors import UserError
from zpyro.io import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
Row = Sequence[tuple[str, Array]]
"""(title, sequence) from left to right."""

QUIETEST_DECIBEL = -80.0
MOST_INCHES = 100.0


def draw(rows: Sequence[Row], path: Path, sample_rate: int | None, *, images: bool) -> None:
    """Draw rows of sequences, all of one row on the same scale.

    Args:
        rows: each with the same number of sequences: samples (N,) with a sample rate, pictures
            (R, C) of values 0 to 1, else frames (T, D) or tokens (T,).
        path: the picture file; its ending tells the format.
        sample_rate: samples a second of sound: spectrograms are drawn.
        images: whether they are pictures, 1 black on 0 white.

    Raises:
        UserError: if matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('pictures need matplotlib; pip install "zpyro[plots]"') from error
    across = max(len(row) for row in rows)
    wide, high = (1.1, 1.3) if images else (3.6, 1.9)
    size = (min(wide * across, MOST_INCHES), min(high * len(rows), MOST_INCHES))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), across, squeeze=False)
    for row, line in zip(rows, panels, strict=True):
        limits = _limits(row)
        for (title, values), axes in zip(row, line, strict=True):
            axes.set_title(title, fontsize=7 if images else 9)
            if sample_rate is not None:
                _sound(axes, values, sample_rate)
            elif images:
                axes.imshow(values, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                axes.set_axis_off()
            else:
                _frames(axes, values, limits)
    with files.translate_os_errors(path):
        figure.savefig(path, dpi=120)


def _limits(row: Row) -> tuple[float, float]:
    return min(float(v.min()) for _, v in row), max(float(v.max()) for _, v in row)


def _frames(axes: Axes, values: Array, limits: tuple[float, float]) -> None:
    if values.ndim == 1:
        axes.plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
        axes.set(xlabel="step", ylabel="token", ylim=(limits[0] - 1, limits[1] + 1))
        return
    extent = (0.5, len(values) + 0.5, 0.5, values.shape[1] + 0.5)
    low, high = limits
    axes.imshow(
        values.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=extent,
        vmin=low,
        vmax=high,
    )
    axes.set(xlabel="step", ylabel="dimension")


def _sound(axes: Axes, samples: Array, rate: int) -> None:
    """A spectrogram, windows of 25 ms every 5 ms, decibel below the loudest point."""
    window = min(len(samples), max(32, rate // 40))
    hop = max(1, rate // 200)
    windows = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(window), axis=1)) ** 2
    power = np.maximum(power / max(float(power.max()), 1e-20), 10 ** (QUIETEST_DECIBEL / 10))
    extent = (0, len(samples) / rate, 0, rate / 2000)
    axes.imshow(10 * np.log10(power).T, aspect="auto", origin="lower", cmap="magma", extent=extent)
    axes.set(xlabel="time, s", ylabel="kHz")
