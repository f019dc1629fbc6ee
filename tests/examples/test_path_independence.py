"""Training from many starts: states of other problems, noise, bounds, views and smoothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.nn import functional

from tests.examples.small import ITERATIONS, network, strings
from zpyro_examples.easy_to_hard import mazes_task, tasks
from zpyro_examples.easy_to_hard.networks import RecurrentNetwork
from zpyro_examples.easy_to_hard.programs import RecurrentSolver
from zpyro_examples.easy_to_hard.solvers import Answer, FixedDepthSolver, Solver
from zpyro_examples.easy_to_hard.sweep import sweep
from zpyro_examples.easy_to_hard.tasks import Examples, Request
from zpyro_examples.easy_to_hard.views import turned, turned_back

pytestmark = pytest.mark.fast


def test_a_bound_holds_after_every_iteration() -> None:
    torch.manual_seed(0)
    built = RecurrentNetwork(2, 3, 6, state_bound=0.5)
    for weight in built.parameters():
        weight.data.mul_(5.0)
    x = torch.rand(2, 3, 5, 5)
    for state in built.states(x, 4):
        assert state.min() >= 0.0
        assert state.max() == 0.5
    built.state_bound = None
    assert max(state.max() for state in built.states(x, 4)) > 0.5


def test_noise_is_relative_to_the_state() -> None:
    built = network("recall", 2, width=64).requires_grad_(False)
    x = torch.rand(16, 3, 8, 8, dtype=torch.float64)
    state = built.initial_state(x)
    exact = built.iterate_from(state, x, 1)
    torch.manual_seed(0)
    noisy = built.iterate_from(state, x, 1, noise=0.3)
    deviation = (noisy - exact).std() / exact.abs().mean()
    assert float(deviation) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(built.iterate_from(state, x, 1), exact)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_a_hand_made_one(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = strings()
    recurrent = RecurrentSolver(
        network(), ITERATIONS, 0.3, path_independence=1.0, label_smoothing=smoothing
    )
    start = torch.rand_like(recurrent.network.initial_state(x))
    monkeypatch.setattr(recurrent, "sample_start", lambda *_: start)
    loss = Trace_ELBO().differentiable_loss(recurrent.training_model, recurrent.guide, x, y)
    torch.as_tensor(loss).backward()
    other = network()
    states = other.initial_state(x), start
    weights = 0.7, 0.3
    expected = torch.zeros((), dtype=torch.float64)
    for state, weight in zip(states, weights, strict=True):
        logits = other.answer(other.iterate_from(state, x, ITERATIONS))
        expected = expected + weight * functional.cross_entropy(
            logits, y, reduction="sum", label_smoothing=smoothing
        )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for a, b in zip(recurrent.network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-8)


def test_starts_are_own_of_others_and_random(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = strings(count=6)
    recurrent = RecurrentSolver(network(), ITERATIONS, 0.5, path_independence=0.6)
    first = recurrent.network.initial_state(x)
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(2))
    own = recurrent.network.iterate_from(first, x, 2).detach()

    def start(lot: float) -> Tensor:
        monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(lot))
        torch.manual_seed(1)
        return recurrent.sample_start(x, first)

    assert torch.equal(start(0.9), own)
    other = start(0.1)
    assert not torch.equal(other, own)
    assert {row.sum().item() for row in other} == {row.sum().item() for row in own}
    random = start(0.5)
    assert float((random == 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    # 5 lots of the mean of states, times 0.4 for half a normal distribution.
    assert float(random.mean() / own.mean()) == pytest.approx(0.5 * 5 * 0.399, rel=0.2)


def test_extra_iterations_begin_gradually() -> None:
    recurrent = RecurrentSolver(network(), ITERATIONS, 0.5, None, 40, path_independence=0.5)
    solver = FixedDepthSolver(recurrent)
    counts = []
    for fraction in (0.0, 0.1, 0.2, 0.9):
        solver.at(fraction, grown=True)
        counts.append(recurrent.extra_iterations)
    assert counts == [0, 20, 40, 40]


def test_views_are_the_eight_symmetries_and_keep_what_is_right() -> None:
    task = tasks.load("mazes")
    examples = task.build(Request("train", 9, 3, 0, options={"geometry": "compact"}))
    views = [turned(examples.inputs, view) for view in range(8)]
    assert len({view.numpy().tobytes() for view in views}) == 8
    for view in range(8):
        targets = turned(examples.targets, view).long()
        logits = functional.one_hot(targets, 2).permute(0, 3, 1, 2).float()
        assert mazes_task.correct(views[view], logits, targets).all()
        assert torch.equal(
            mazes_task.passages(views[view]), turned(mazes_task.passages(examples.inputs), view)
        )
        assert torch.equal(turned_back(views[view], view), examples.inputs)
    strip = torch.rand(2, 1, 9)
    assert turned(strip, 0) is strip
    assert turned_back(strip, 0) is strip


class Settling(Solver):
    """Answers that no longer change after an iteration of their own."""

    def __init__(self, last: list[int]) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.last = torch.tensor(last)
        self.done = 0

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        for iteration in range(1, iterations + 1):
            self.done = iteration
            # Wrong and alternating until the last change, right from then on.
            right = iteration >= self.last
            sign = torch.where(right, 1.0, -1.0 if iteration % 2 else 1.0)
            wrong = torch.where(right, 1.0, -1.0)
            cells = torch.stack([wrong, sign], 1)
            yield Answer(torch.stack([-cells, cells], 1))


def test_a_sweep_ends_when_answers_no_longer_change() -> None:
    task = tasks.load("prefix-sums")
    examples = Examples(torch.zeros(3, 1, 2), torch.ones(3, 2, dtype=torch.long))
    solver = Settling([2, 5, 9])
    whole = sweep(solver, task, examples, 2, 60)
    assert solver.done == 60
    assert whole.stable_after is None
    ended = sweep(solver, task, examples, 2, 60, patience=6)
    assert solver.done < 20
    assert ended.accuracy == whole.accuracy
    assert ended.confident == whole.confident
    assert ended.stable_after == pytest.approx((2 + 5 + 9) / 3)
