"""Pictures: what they show, and what is said where they cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from zpyro.analysis import plots
from zpyro.errors import UserError


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collects every figure that is written."""
    figures: list[Figure] = []
    save = plots.save_figure
    monkeypatch.setattr(
        plots, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path))
    )
    return figures


def panels(figure: Figure) -> list[list[Axes]]:
    return [list(part.axes) for part in figure.subfigs]


def test_sound(tmp_path: Path) -> None:
    rate = 8000
    time = np.arange(rate) / rate
    sounds = [np.sin(2 * np.pi * 1000 * time), np.zeros(400), np.ones(3)]
    titled = [(f"sample {number}", sound) for number, sound in enumerate(sounds, start=1)]
    figure = plots.plot_sounds(titled, rate)
    plots.save_figure(figure, tmp_path / "sounds.png")
    assert (tmp_path / "sounds.png").read_bytes().startswith(b"\x89PNG")
    rows = list(zip(figure.axes[::2], figure.axes[1::2], strict=True))
    for number, (wave, spectrogram) in enumerate(rows):
        assert wave.get_title() == f"sample {number + 1}"
        assert wave.get_ylabel() == "amplitude"
        assert (spectrogram.get_xlabel(), spectrogram.get_ylabel()) == ("time, s", "kHz")
        np.testing.assert_array_equal(wave.lines[0].get_ydata(), sounds[number])
    power = rows[0][1].images[0].get_array()
    assert power is not None
    loudest = np.asarray(power).mean(1).argmax() / (len(power) - 1) * rate / 2
    assert loudest == pytest.approx(1000, abs=rate / 200)


@pytest.mark.parametrize("data_type", ["frames", "binary"])
def test_frames(drawn: list[Figure], tmp_path: Path, data_type: str) -> None:
    frames = [np.random.default_rng(0).normal(size=(steps, 4)) for steps in (7, 1)]
    plots.plot_frames(frames, tmp_path / "deep" / "frames.png", data_type)
    assert (tmp_path / "deep" / "frames.png").exists()
    for sequence, axes in zip(frames, panels(drawn[0]), strict=True):
        assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("step", "dimension")
        np.testing.assert_allclose(np.asarray(axes[0].images[0].get_array()), sequence.T)
        assert len(axes) == (2 if data_type == "frames" else 1)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_all_notes_of_a_roll_are_equally_thick(tmp_path: Path, side_by_side: bool) -> None:
    path = tmp_path / "roll.png"
    scale = np.eye(88, dtype=np.uint8)[np.repeat(np.arange(88), 2)]
    if side_by_side:
        plots.plot_side_by_side([[("input", scale), ("output", 0.5 * scale)]], path, rolls=True)
    else:
        plots.plot_frames([scale, scale[::-1]], path, "roll")
    shades = imread(path)[..., 0]
    # Within the frame of the first roll, whose lines are the longest of the picture.
    dark = shades < 0.5
    left, right = np.flatnonzero(dark.sum(0) > 0.3 * dark.sum(0).max())[[0, -1]]
    top, bottom = np.flatnonzero(dark[:, left + 1 : left + 200].mean(1) > 0.9)[:2]
    right = int(np.flatnonzero(dark[top + 1 : bottom].mean(0) > 0.9)[1])
    ink = 1.0 - shades[top + 1 : bottom, left + 1 : right]
    background = np.median(ink, axis=1, keepdims=True)
    # The frame covers part of the outermost keys.
    thickness = np.maximum(ink - background, 0.0).sum(0)[12:-12]
    assert thickness.min() > 2.0
    assert thickness.max() / thickness.min() < 1.2


def test_tokens(drawn: list[Figure], tmp_path: Path) -> None:
    plots.plot_frames([np.array([3, 1, 4])], tmp_path / "tokens.png", "tokens")
    (axes,) = panels(drawn[0])[0]
    assert axes.get_ylabel() == "token"
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [(1, 3), (2, 1), (3, 4)])


def test_without_matplotlib_the_line_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "zpyro\[plots\]"'):
        plots.plot_frames([np.zeros((2, 2))], tmp_path / "frames.png")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot be written"):
        plots.plot_frames([np.zeros((2, 2))], tmp_path / "file" / "frames.png")
