"""Accuracy against iterations, and the rule that chooses their number before any test.

The rule: on held-out problems of every validation size v, let t_v be the first number of
iterations at which most problems are solved wholly. A problem of size n then gets
``ceil(MARGIN * max_v(t_v / difficulty(v)) * difficulty(n))`` iterations. Nothing else is used.
If no problem is solved, n of the training's size gets the iterations of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zpyro.nn import evaluation_mode

from .solvers import Solver
from .tasks import Examples, Preset, Task
from .views import viewed_answers

MARGIN = 1.5
"""Factor on the iterations for validation problems of the same difficulty, fixed before tests."""

LONGEST_SEARCH = 6
"""Validation tries up to this many times the iterations of training."""

ROWS = 1 << 15
"""Cells in a batch of a sweep on a CPU, so that its states stay in the caches."""

ACCELERATOR_ROWS = 1 << 21
"""The same on an accelerator, which needs more of them at once."""

STABLE_CELLS = 1 << 18
"""Cells in a batch of a sweep of stable answers, in which few cells are computed at a time."""


@dataclass(frozen=True)
class Sweep:
    """How many of ``count`` problems of one size are solved wholly, by number of iterations.

    Attributes:
        size: of the problems.
        count: of the problems.
        accuracy: after iterations 1, 2, ...: the fraction solved; only the last one where
            ``iterations`` is given.
        confident: the fraction solved if each problem's most confident answer so far counts, after
            iterations 1, 2, ...
        stopped: the fraction solved where every problem stops by the solver's own rule (the first
            iteration whose probability to stop is 1/2 or more, at the latest the last); None
            where it has none.
        stopped_after: the mean number of iterations of that rule, or None.
        stable_after: the mean number of iterations after which answers no longer changed; None
            where that was not looked for.
        iterations: the most iterations of any problem, where only the last answers were looked at.
        unstable: how many problems still changed at the last iteration, or None.
        one_view: the fraction solved by the first of several views, or None.
        differing: how many problems had other answers in their first two views, or None.
        players: the fraction that players without learning solve, by player.
    """

    size: int
    count: int
    accuracy: tuple[float, ...]
    confident: tuple[float, ...]
    stopped: float | None = None
    stopped_after: float | None = None
    stable_after: float | None = None
    iterations: int | None = None
    unstable: int | None = None
    one_view: float | None = None
    differing: int | None = None
    players: Mapping[str, float] = field(default_factory=dict)

    def after(self, iterations: int) -> float:
        """The fraction solved after a number of iterations."""
        return self.accuracy[min(iterations, len(self.accuracy)) - 1]

    def confident_after(self, iterations: int) -> float:
        """The entry of ``confident`` after a number of iterations."""
        return self.confident[min(iterations, len(self.confident)) - 1]

    @property
    def first_best(self) -> int:
        """The first number of iterations with the highest accuracy."""
        return 1 + max(range(len(self.accuracy)), key=lambda i: (self.accuracy[i], -i))


@dataclass(frozen=True)
class Rule:
    """Iterations per unit of difficulty, as found on validation problems.

    Attributes:
        rate: MARGIN * max_v(t_v / difficulty(v)), see :func:`choose`.
        longest: the most iterations that the solver can do, or None.
    """

    rate: float
    longest: int | None

    def iterations(self, task: Task, size: int) -> int:
        """The number of iterations for problems of a size."""
        # Rounding first: 1.5 * 32 / 64 * 128 must not become 97 through the last binary digit.
        count = max(1, math.ceil(round(self.rate * task.difficulty(size), 9)))
        return count if self.longest is None else min(count, self.longest)


def choose(task: Task, sweeps: Sequence[Sweep], longest: int | None, preset: Preset) -> Rule:
    """The rule from sweeps over validation problems; sizes without any success do not count.

    Args:
        task: measures the difficulty of sizes.
        sweeps: over validation problems.
        longest: the most iterations that the solver can do, or None.
        preset: of the training; without any success, problems of its size get its number of
            iterations.
    """
    solved = [sweep for sweep in sweeps if max(sweep.accuracy) > 0]
    if not solved:
        return Rule(preset.iterations / task.difficulty(preset.train_size), longest)
    rate = max(sweep.first_best / task.difficulty(sweep.size) for sweep in solved)
    return Rule(MARGIN * rate, longest)


def sweep(
    solver: Solver,
    task: Task,
    examples: Examples,
    size: int,
    iterations: int,
    on_batch: Callable[[int, int], None] | None = None,
    patience: int | None = None,
) -> Sweep:
    """Count the problems that a solver solves after every iteration.

    Args:
        solver: the solver.
        task: defines which answers are right.
        examples: the problems.
        size: of the problems, for the record.
        iterations: how many, at most; limited to what the solver can do.
        on_batch: receives (problems done, problems) after each iteration of a batch, with the batch
            in proportion to its iterations.
        patience: end a batch when no answer has changed for so many iterations; None for never.
    """
    count = len(examples.inputs)
    if solver.longest is not None:
        iterations = min(iterations, solver.longest)
    like = next(solver.parameters())
    counts = _Counts(iterations, patience)
    cells = ROWS if like.device.type == "cpu" else ACCELERATOR_ROWS
    rows = max(1, cells // examples.targets[0].numel())
    with evaluation_mode(solver):
        for first in range(0, count, rows):
            inputs = examples.inputs[first : first + rows].to(like)
            targets = examples.targets[first : first + rows].to(like.device)

            def on_iteration(done: int, first: int = first, batch: int = len(inputs)) -> None:
                if on_batch is not None:
                    on_batch(first + batch * done // iterations, count)

            counts.add(solver, task, inputs, targets, on_iteration)
            on_iteration(iterations)
    return counts.result(size, count)


def sweep_stable(
    solver: Solver,
    task: Task,
    examples: Examples,
    size: int,
    iterations: int,
    on_batch: Callable[[int, int], None] | None = None,
    views: int = 1,
    on_part: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Count the problems that a solver solves once its answers no longer change.

    Args:
        solver: one with a :attr:`~.solvers.Solver.repeated_network`.
        task: defines which answers are right.
        examples: the problems.
        size: of the problems, for the record.
        iterations: how many, at most.
        on_batch: receives (problems done, problems) after each iteration.
        views: of each problem, see :func:`.views.viewed_answers`.
        on_part: receives (solved, done) after every part but the last.
    """
    count, network = len(examples.inputs), solver.repeated_network
    assert network is not None
    like = next(solver.parameters())
    rows = max(1, STABLE_CELLS // examples.targets[0].numel())
    solved = one_view = differing = unstable = total = longest = 0
    with evaluation_mode(solver):
        for first in range(0, count, rows):
            inputs = examples.inputs[first : first + rows].to(like)
            targets = examples.targets[first : first + rows].to(like.device)
            scored = None if task.scored is None else task.scored(inputs)

            def on_iteration(stable: int, first: int = first) -> None:
                if on_batch is not None:
                    on_batch(first + stable, count)

            found = viewed_answers(
                network,
                inputs,
                iterations,
                views=views,
                scored=scored,
                on_iteration=on_iteration,
            )
            solved += int(task.correct(inputs, found.probabilities, targets).sum())
            one_view += int(task.correct(inputs, found.first.probabilities, targets).sum())
            differing += int(found.differs.sum())
            unstable += int((~found.first.stable).sum())
            total += int(found.first.iterations.sum())
            longest = max(longest, int(found.first.iterations.max()))
            if on_part is not None and first + rows < count:
                on_part(solved, first + rows)
    share = (solved / count,)
    result = Sweep(size, count, share, share, stable_after=total / count)
    result = replace(result, iterations=longest, unstable=unstable)
    return result if views == 1 else replace(result, one_view=one_view / count, differing=differing)


class _Counts:
    """Running counts of one sweep."""

    def __init__(self, iterations: int, patience: int | None) -> None:
        self.iterations = iterations
        self.patience = patience
        self.stable_after = 0
        self.solved = torch.zeros(iterations, dtype=torch.long)
        self.confident = torch.zeros(iterations, dtype=torch.long)
        self.stopped: int | None = None
        self.stopped_after = 0

    def add(
        self,
        solver: Solver,
        task: Task,
        inputs: Tensor,
        targets: Tensor,
        on_iteration: Callable[[int], None],
    ) -> None:
        best = torch.full((len(inputs),), -math.inf, device=inputs.device)
        best_right = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        stopped = torch.zeros_like(best_right)
        stopped_right = torch.zeros_like(best_right)
        scored = None if task.scored is None else task.scored(inputs)
        before: Tensor | None = None
        changed = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
        right = best_right
        iteration = -1
        for iteration, (logits, stop) in enumerate(solver.answers(inputs, self.iterations)):
            on_iteration(iteration)
            if self.patience is not None:
                answers = logits.argmax(1) if scored is None else logits.argmax(1) * scored
                if before is not None:
                    differs = (answers != before).flatten(1).any(1)
                    changed = torch.where(differs, iteration, changed)
                before = answers
                # A solver that stops by itself goes on until it does.
                if stop is None and iteration - int(changed.max()) >= self.patience:
                    break
            right = task.correct(inputs, logits, targets)
            self.solved[iteration] += int(right.sum())
            confidence = confidence_of(logits, scored)
            better = confidence > best
            best = torch.where(better, confidence, best)
            best_right = torch.where(better, right, best_right)
            self.confident[iteration] += int(best_right.sum())
            if stop is not None:
                last = iteration + 1 == self.iterations
                now = ((stop >= 0.5) | last) & ~stopped
                stopped_right = torch.where(now, right, stopped_right)
                stopped |= now
                self.stopped_after += int(now.sum()) * (iteration + 1)
        else:
            iteration += 1
        # Answers that no longer change count for all further iterations.
        self.solved[iteration:] += int(right.sum())
        self.confident[iteration:] += int(best_right.sum())
        self.stable_after += int((changed + 1).sum())
        if bool(stopped.any()):
            self.stopped = (self.stopped or 0) + int(stopped_right.sum())

    def result(self, size: int, count: int) -> Sweep:
        accuracy, confident = (
            tuple((each.cpu().double() / count).tolist()) for each in (self.solved, self.confident)
        )
        found = Sweep(size, count, accuracy, confident)
        if self.patience is not None:
            found = replace(found, stable_after=self.stable_after / count)
        if self.stopped is None:
            return found
        after = self.stopped_after / count
        return replace(found, stopped=self.stopped / count, stopped_after=after)


def confidence_of(logits: Tensor, scored: Tensor | None) -> Tensor:
    """The summed probability of the most probable answers of all scored cells, (B,)."""
    confidence = logits.float().softmax(1).amax(1)
    if scored is not None:
        confidence = confidence * scored
    return confidence.flatten(1).sum(1)
