"""Answers that no longer change: those of whole iterations, computed where states change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zpyro_examples.easy_to_hard import local_updates
from zpyro_examples.easy_to_hard.local_updates import stable_answers
from zpyro_examples.easy_to_hard.networks import IteratedNetwork, RecurrentNetwork

from . import small


def images(network: IteratedNetwork, *cells: int) -> Tensor:
    channels = network.projection.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(3, channels, *cells, generator=generator) > 0.5).double()


@pytest.mark.parametrize("name", ["recall", "recurrent"])
@pytest.mark.parametrize("cells", [(90,), (7,), (41, 53), (11, 11), (33, 16), (1, 70)])
def test_states_are_those_of_whole_iterations(name: str, cells: tuple[int, ...]) -> None:
    network = small.network(name, len(cells))
    inputs = images(network, *cells)
    with torch.no_grad():
        want = network.initial_state(inputs)
        for _ in range(9):
            want = want.lerp(network.iterate_from(want, inputs, 1), local_updates.STEP)
    found = stable_answers(network, inputs, 9, tolerance=0.0)
    torch.testing.assert_close(found.state, want, rtol=1e-12, atol=0)
    assert found.iterations.tolist() == [9, 9, 9]


class Filling(RecurrentNetwork):
    """A cell is on if its input is, or if its left neighbor is and its input is not a wall."""

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        del iteration
        computed.append(len(state) * state[0, 0].numel())
        left = torch.nn.functional.pad(state, (1, 0))[..., :-1]
        return torch.maximum(state, left).minimum(image[:, 1:2]).maximum(image[:, :1])


class Alternating(RecurrentNetwork):
    """States of 0 and 1 in turn."""

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        del image, iteration
        return 1 - state


class StateAsAnswer(torch.nn.Module):
    """The state as the log-odds of the second answer."""

    def forward(self, state: Tensor) -> Tensor:
        odds = 8 * (state[:, :1] - 0.0253)
        return torch.cat([-odds, odds], 1)


computed: list[int] = []


def with_head(kind: type[RecurrentNetwork]) -> RecurrentNetwork:
    network = kind(2, 2, 1)
    network.head = StateAsAnswer()
    torch.nn.init.zeros_(network.projection.weight)
    return network


def test_only_what_changes_is_computed() -> None:
    network = with_head(Filling)
    inputs = torch.zeros(2, 2, 40, 400)
    inputs[0, 0, 20, 5] = 1  # a front that moves to the right through one row
    inputs[0, 1, 20, 5:300] = 1
    computed.clear()
    found = stable_answers(network, inputs, 1000, step=1.0)
    assert found.stable.all()
    # The answers of the second problem never change; the first rests when the front is at the wall.
    assert found.iterations.tolist() == [296, 1]
    answers = found.probabilities.argmax(1)
    assert answers[0].sum() == 295
    assert answers[0, 20, 5:300].all()
    assert answers[1].sum() == 0
    # Of the whole iterations, each of 32,000 cells, less than a tenth.
    assert sum(computed) < 0.1 * 296 * 32_000


def test_answers_are_the_mean_of_a_window() -> None:
    network = with_head(Alternating)
    inputs = torch.zeros(1, 2, 5, 5)
    found = stable_answers(network, inputs, 1000, step=1.0)
    # The probability is 1.0 in state 1 and 0.4 in state 0, so 0.7 in the mean.
    assert found.stable.all()
    torch.testing.assert_close(found.probabilities[0, 1], torch.full((5, 5), 0.7), rtol=0, atol=0.1)
    assert int(found.iterations) == 96
    # Half steps rest at one half at once.
    rested = stable_answers(network, inputs, 1000, step=0.5)
    assert rested.iterations.tolist() == [2]
    assert torch.equal(rested.state, torch.full((1, 1, 5, 5), 0.5))


def test_cells_that_do_not_count_do_not_keep_a_problem_open() -> None:
    class Drifting(RecurrentNetwork):
        """The cells of the first row turn on one after another, those of the second stay off."""

        def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
            del iteration
            on = torch.nn.functional.pad(state, (1, 0))[..., :-1].maximum(image[:, :1])
            return on.maximum(state) * image[:, 1:2]

    network = with_head(Drifting)
    inputs = torch.zeros(1, 2, 2, 600)
    inputs[0, 0, 0, 0] = 1
    inputs[0, 1, 0] = 1
    scored = torch.zeros(1, 2, 600, dtype=torch.bool)
    scored[:, 1] = True
    found = stable_answers(network, inputs, 1000, scored=scored, step=1.0)
    assert found.stable.all()
    assert int(found.iterations) == 96
    whole = stable_answers(network, inputs, 1000, step=1.0)
    assert int(whole.iterations) > 500


def test_an_end_before_answers_are_stable_is_told() -> None:
    network = with_head(Filling)
    inputs = torch.zeros(1, 2, 3, 400)
    inputs[0, 0, 1, 5] = 1
    inputs[0, 1, 1, 5:300] = 1
    found = stable_answers(network, inputs, 100, step=1.0)
    assert not found.stable.any()
    assert found.iterations.tolist() == [100]
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(1, 3, 400))


def test_a_network_with_a_last_iteration_is_refused() -> None:
    network = small.network("feed-forward", 2)
    with pytest.raises(ValueError, match="applies one block"):
        stable_answers(network, images(network, 9, 9), 10)
