"""Several views of a problem: their mean counts until they agree."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zpyro_examples.easy_to_hard.networks import RecurrentNetwork
from zpyro_examples.easy_to_hard.views import turned, turned_back, viewed_answers

from . import small
from .test_board_commands import run


class WrongAtTheRight(RecurrentNetwork):
    """The answer is the input, but the opposite in the last column of marked problems.

    The second channel of the input is the mark.
    """

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        del iteration
        answer = image[:, :1].clone()
        wrong = image[:, 1:2, :, -1:].bool()
        answer[..., -1:] = torch.where(wrong, 1 - answer[..., -1:], answer[..., -1:])
        return answer + 0 * state


class EvenOdds(torch.nn.Module):
    """States 0 and 1 as equally sure answers."""

    def forward(self, state: Tensor) -> Tensor:
        return torch.cat([1 - state, state], 1)


def network() -> RecurrentNetwork:
    built = WrongAtTheRight(2, 2, 1)
    built.head = EvenOdds()
    return built


def problems() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, of which the network errs in the first, answers, and cells that count."""
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(2, 2, 9, 9, generator=generator) > 0.5).float()
    inputs[0, 1], inputs[1, 1] = 1, 0
    # In a corner, half of the views err.
    scored = torch.ones(2, 9, 9, dtype=torch.bool)
    scored[:, ::8, ::8] = False
    return inputs, inputs[:, 0].long(), scored


def test_the_mean_of_several_views_counts_where_two_differ() -> None:
    inputs, targets, scored = problems()
    done: list[int] = []
    found = viewed_answers(network(), inputs, 200, scored=scored, on_iteration=done.append)
    assert done == sorted(done)
    assert (min(done), max(done), done[-1]) == (0, 2, 2)
    # The mean of the first three views is right, and two more leave it so.
    assert found.views.tolist() == [5, 2]
    assert not torch.equal(found.first.probabilities[0].argmax(0), targets[0])
    right = (found.probabilities.argmax(1) == targets) | ~scored
    assert right.all()
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2, 9, 9))


def test_no_more_views_than_asked_for() -> None:
    inputs, _, scored = problems()
    found = viewed_answers(network(), inputs, 200, views=3, scored=scored)
    assert found.views.tolist() == [3, 2]
    found = viewed_answers(network(), inputs, 200, views=1, scored=scored)
    assert torch.equal(found.probabilities, found.first.probabilities)
    assert found.views.tolist() == [1, 1]
    assert not found.differs.any()
    found = viewed_answers(network(), inputs, 200, views=2, scored=scored)
    assert found.views.tolist() == [2, 2]
    assert found.differs.tolist() == [True, False]


def test_the_mean_is_that_of_the_views_one_by_one() -> None:
    solver = small.network("recall", 2)
    generator = torch.Generator().manual_seed(1)
    inputs = (torch.rand(4, 3, 8, 8, generator=generator) > 0.5).double()
    found = viewed_answers(solver, inputs, 40)
    for row in range(4):
        one = inputs[row : row + 1]
        each = [
            turned_back(viewed_answers(solver, turned(one, view), 40, views=1).probabilities, view)
            for view in range(int(found.views[row]))
        ]
        mean = torch.stack(each).mean(0)
        torch.testing.assert_close(found.probabilities[row : row + 1], mean)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    done = run("prefix-sums", "train", "--out", sums, "--max-minutes", 0.01, "--device", "cpu")
    assert done.exit_code == 0, done.output
    refused = run("prefix-sums", "test", sums, "--until-stable", "--views", 8)
    assert refused.exit_code == 2
    assert "--views: this solver was not trained on turned problems" in refused.stderr
    unstable = run("prefix-sums", "test", sums, "--views", 1)
    assert unstable.exit_code == 2
    assert "--views: it needs --until-stable" in unstable.stderr


def test_views_need_a_network_that_can_go_on(tmp_path: Path) -> None:
    folder, options = tmp_path / "mazes", ("--max-minutes", 0.001, "--device", "cpu")
    done = run("mazes", "train", "--out", folder, "--solver", "feed-forward", *options)
    assert done.exit_code == 0, done.output
    refused = run("mazes", "test", folder, "--until-stable", "--views", 2, "--sizes", 9)
    assert refused.exit_code == 2
    assert "a solver that repeats one network" in refused.stderr


def test_data_for_a_task_that_makes_its_own_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sums"
    refused = run("prefix-sums", "train", "--out", folder, "--data", tmp_path, "--device", "cpu")
    assert refused.exit_code == 2
    assert "--data: prefix-sums makes its own strings; leave the option out" in refused.stderr
    assert not folder.exists()
