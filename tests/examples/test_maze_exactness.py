"""The benchmark that compares maze solvers on held-out mazes of the training's size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import maze_exactness
from tests.examples.test_board_commands import run
from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import exactness, mazes
from zpyro_examples.easy_to_hard.networks import IteratedNetwork
from zpyro_examples.easy_to_hard.tasks import Examples


class Oracle(IteratedNetwork):
    """Answers with given paths, the same after every iteration."""

    def __init__(self, paths: torch.Tensor) -> None:
        super().__init__(2, 3, 2)
        self.paths = paths

    def iterate(self, state: torch.Tensor, image: torch.Tensor, iteration: int) -> torch.Tensor:
        del image, iteration
        return state

    def answer(self, state: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(self.paths[: len(state)].long(), 2).movedim(-1, 1)


@pytest.mark.fast
@pytest.mark.parametrize(("across", "maze"), [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3)])
def test_a_wrong_square_fails_its_maze_alone(across: int, maze: int) -> None:
    made = mazes.Mazes(9, 8, seed=0)
    paths = mazes.mosaics(made.masks("compact"), across, "compact")
    row, column = divmod(maze, across)
    # A cell, which is a passage in every maze.
    paths[0, 10 * row + 1, 10 * column + 1] ^= 1
    examples = Examples(made.images("compact"), made.masks("compact"))
    failed = exactness.failing(Oracle(paths), examples, 2, across=across)
    assert failed.nonzero().tolist() == [[maze]]
    assert len(failed) == 8


def test_it_reads_runs_of_mazes_alone(tmp_path: Path) -> None:
    folder, options = tmp_path / "mazes", ("--max-minutes", 0.001, "--device", "cpu")
    done = run("mazes", "train", "--out", folder, *options)
    assert done.exit_code == 0, done.output
    lines = list(maze_exactness.measure(folder, 6, 2))
    assert [line["count"] for line in lines] == [8] * 4
    assert "in mosaics of 2 x 2, from random states" in str(lines[-1]["what"])
    # It was hardly trained.
    assert all(line["failed"] for line in lines)
    with pytest.raises(UserError, match="is not a run directory"):
        list(maze_exactness.measure(tmp_path, 6, 2))


@pytest.mark.fast
def test_too_few_mazes_and_unknown_starts_are_refused() -> None:
    made = mazes.Mazes(9, 3, seed=0)
    examples = Examples(made.images("compact"), made.masks("compact"))
    oracle = Oracle(examples.targets)
    with pytest.raises(ValueError, match="3 mazes do not fill a mosaic of 4"):
        exactness.failing(oracle, examples, 2, across=2)
    with pytest.raises(ValueError, match="start 'last' is unknown; choose one of first, random"):
        exactness.failing(oracle, examples, 2, across=1, start="last")
    with pytest.raises(UserError, match="geometry 'round' is unknown"):
        mazes.mosaics(examples.inputs, 1, "round")


class Alternating(Oracle):
    """Is wrong in every square after every second iteration."""

    def __init__(self, paths: torch.Tensor, wrong: int) -> None:
        super().__init__(paths)
        self.wrong, self.done = wrong, 0

    def iterate(self, state: torch.Tensor, image: torch.Tensor, iteration: int) -> torch.Tensor:
        self.done += 1
        return super().iterate(state, image, iteration)

    def answer(self, state: torch.Tensor) -> torch.Tensor:
        right = super().answer(state)
        return 1 - right if self.done % 2 == self.wrong else right


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [0, 1])
def test_looks_see_both_states_of_a_pair(wrong: int) -> None:
    made = mazes.Mazes(9, 4, seed=0)
    examples = Examples(made.images("compact"), made.masks("compact"))
    for iterations in (5, 16):
        network = Alternating(examples.targets, wrong)
        assert exactness.failing(network, examples, iterations, across=1).all()
