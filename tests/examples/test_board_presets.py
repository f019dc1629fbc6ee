"""The presets of mazes and chess: shapes that fit their data, and the released settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from zpyro_examples.easy_to_hard import building, chess_task, mazes_task, tasks
from zpyro_examples.easy_to_hard.tasks import Request, Task


@pytest.mark.fast
@pytest.mark.parametrize("task", [mazes_task.TASK, chess_task.TASK], ids=["mazes", "chess"])
def test_published_settings_are_those_released(task: Task) -> None:
    preset = task.preset("published")
    mazes = task.name == "mazes"
    # config/problem/hyp and launch/*.sh of github.com/aks2203/deep-thinking.
    assert preset.width == (128 if mazes else 512)
    assert preset.iterations == 30
    assert preset.progressive_weight == (0.01 if mazes else 0.5)
    assert preset.optimizer == ("adam" if mazes else "sgd")
    assert preset.learning_rate == (0.001 if mazes else 0.01)
    assert preset.throttle == mazes
    assert preset.batch_size == (50 if mazes else 300)
    assert preset.clip_norm is None


@pytest.mark.parametrize("name", ["quick", "published"])
@pytest.mark.parametrize("solver", ["recall", "recurrent", "feed-forward"])
def test_a_step_on_mazes(name: str, solver: str) -> None:
    task = tasks.load("mazes")
    # Narrow and short: the full width is for a GPU.
    preset = dataclasses.replace(task.preset(name), width=8, iterations=2)
    examples = task.build(Request("train", 9, 4, 0, options=preset.options))
    # Weights that keep the size of states start with logits around 1, larger ones for some seeds.
    torch.manual_seed(3)
    built = building.build(task, preset, solver)
    loss = built.loss(examples.inputs.float(), examples.targets.long())
    loss.backward()
    # Two answers, not told apart yet.
    assert 0.5 < loss.item() < 1.0
    assert all(
        parameter.grad is not None and bool(parameter.grad.isfinite().all())
        for parameter in built.parameters()
    )


@pytest.mark.fast
def test_maze_iterations_grow_with_the_cells() -> None:
    task = tasks.load("mazes")
    assert [task.difficulty(size) for size in (9, 13, 59)] == [25, 49, 900]
    assert {tasks.load("chess").difficulty(rating) for rating in (0, 800, 2400)} == {1.0}


@pytest.mark.fast
def test_published_chess_wants_the_full_export(data_folder: Path) -> None:
    from zpyro.errors import UserError

    path = data_folder / "lichess" / "lichess_db_puzzle_dailydate.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    options = chess_task.PRESETS["published"].options
    with pytest.raises(UserError, match="has 1,000 puzzles; this preset needs 700,000"):
        chess_task.build(Request("train", 0, 10, 0, path, options))


@pytest.mark.fast
def test_turning_the_board_keeps_the_kings_side_right(data_folder: Path) -> None:
    """Castling kings stand on files e, g or c for either side: the board is not rotated."""
    path = data_folder / "lichess" / "lichess_db_puzzle_dailydate.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    puzzles = chess_task.chosen(Request("train", 0, 10_000, 0, path))
    black = torch.from_numpy(puzzles.black)
    for side in (black, ~black):
        files = puzzles.planes()[side, 0, 0].sum(0)
        assert int(files.argmax()) == 6
