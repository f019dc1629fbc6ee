"""Pictures of answers, and the plot of accuracy against iterations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from zpyro.analysis import plots
from zpyro_examples.easy_to_hard import chess_task, pictures, running, tasks
from zpyro_examples.easy_to_hard.sweep import Sweep


@pytest.mark.parametrize(
    ("count", "shown", "size"),
    [
        (1, "iteration 1, and the end", (400 + 8 + 400, 418)),
        (8, "iterations 1, 2, 3, 4, 5, 6, 7, 8, and the end", (4 * 408 - 8, 3 * 426 - 8)),
        (
            22,
            "iterations 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21 of 22, and the end",
            (4 * 408 - 8, 3 * 426 - 8),
        ),
    ],
)
def test_rows_of_pictures_say_which_they_are(
    tmp_path: Path, count: int, shown: str, size: tuple[int, int]
) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = pictures.enlarged(np.zeros((10, 10, 3), np.uint8), pictures.scale_of(10))
    path = tmp_path / "rows.png"
    assert pictures.save([picture] * count, picture, "the end", path) == f"{path}: after {shown}"
    with image.open(path) as written:
        assert written.size == size


@pytest.mark.fast
@pytest.mark.parametrize(("columns", "scale"), [(5, 80), (11, 37), (61, 7), (1000, 1)])
def test_pictures_of_few_squares_are_enlarged(columns: int, scale: int) -> None:
    assert pictures.scale_of(columns) == scale


def test_small_probabilities_can_be_seen() -> None:
    pytest.importorskip("matplotlib")
    probability = torch.zeros(8, 8)
    probability[3, 3], probability[4, 3] = 0.05, 0.5
    drawn, plain = (
        chess_task._picture(torch.zeros(12, 8, 8), each, None).astype(int)
        for each in (probability, torch.zeros(8, 8))
    )
    differs = np.abs(drawn - plain).max(-1)
    rank = [slice((7 - n) * 40, (8 - n) * 40) for n in range(8)]
    assert differs[rank[3], 120:160].min() > 35
    assert differs[rank[4], 120:160].min() > 130
    assert (differs > 0).sum() == 2 * 40**2


def test_curves_that_coincide_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: kept.append(figure))
    found = [(Sweep(size, 9, (0.0, 0.5, 1.0), ()), 2) for size in (16, 24, 32)]
    running.draw(found, tasks.load("prefix-sums"), tmp_path / "accuracy.png")
    (axes,) = kept[0].axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == ["16 bits", "24 bits", "32 bits"]
    assert len({line.get_marker() for line in lines}) == 3
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3
    # All but the one at the bottom have gaps.
    assert [line.is_dashed() for line in lines] == [False, True, True]
    assert all(line.get_markevery() == [1] for line in lines)
    kept[0].canvas.draw()
    assert all(tick == int(tick) for tick in axes.get_xticks())
