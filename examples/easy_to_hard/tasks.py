"""The interface of a task: its problems, the shape of its network, and which answers are right.

Each task has a module that defines ``TASK``; the registry below names the modules, so
that ``--help`` needs no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import IteratedNetwork

MODULES = {
    "prefix-sums": "zpyro_examples.easy_to_hard.prefix_sums",
    "mazes": "zpyro_examples.easy_to_hard.mazes_task",
    "chess": "zpyro_examples.easy_to_hard.chess_task",
}
"""The module of every task, by the task's name."""

SIZES = {"prefix-sums": "64,128,512", "mazes": "9,13,33", "chess": "held-out,harder,1600"}
"""An example of ``--sizes`` for every task."""

MOST_CELLS = 1 << 31
"""Of all problems that are generated at once; at least 1,000 problems are counted."""

Option = str | int | float | bool | None


@dataclass(frozen=True)
class Preset:
    """Everything that decides a training besides task, solver and seed.

    Attributes:
        width: channels of a state.
        blocks: residual blocks in an iteration.
        iterations: m, the number of iterations in training.
        progressive_weight: a, the weight of the progressive term.
        extra_iterations: see :class:`zpyro_examples.easy_to_hard.programs.RecurrentSolver`.
        path_independence: the share of batches that start from the state of another problem, see
            :class:`zpyro_examples.easy_to_hard.programs.RecurrentSolver`.
        state_noise: noise of the states in training, see there.
        state_bound: largest value of a state, see
            :class:`zpyro_examples.easy_to_hard.networks.RecurrentNetwork`; None for any.
        label_smoothing: the share of the target that is spread over all classes.
        stop_on_change: with a latent depth, see
            :class:`zpyro_examples.easy_to_hard.depth.LatentDepthSolver`.
        symmetries: turn and reflect each batch of square images at random.
        train_size: the size of the problems to train on.
        train_count: how many of them.
        epochs: passes over them.
        most_epochs: where the task can find failures (:attr:`Task.failures`), the training goes on
            pass by pass until there are none, up to so many passes; the step size is that of the
            longer training. None for no such test.
        batch_size: problems in a step.
        learning_rate: of the first steps.
        throttle: divide the learning rate of the iterated layers by the iterations, as published
            for mazes.
        optimizer: "adam", or "sgd" (momentum 0.9).
        weight_decay: added to the gradients, as torch's Adam and SGD do it.
        clip_norm: largest norm of the gradient of all weights together; None for any.
        schedule: of the learning rate, "cosine" to zero or "steps" (a tenth at each milestone).
        milestones: epochs at which "steps" steps.
        warmup: epochs over which the learning rate warms up, as 1 - exp(-epoch / warmup).
        average: decay of the moving average of the weights that is kept and tested; 0 for none.
        initialization: "torch" as published, or "keep-sizes", see
            :func:`zpyro_examples.easy_to_hard.networks.keep_sizes`.
        growing: the share of the training by which sequences have grown to their full length, from
            ``shortest`` cells, as soon as those are mastered; the answer to the first cells of a
            sequence must not depend on what follows. 0 for full length throughout.
        shortest: see ``growing``.
        precision: of the training, see :data:`zpyro.nn.precision.PRECISIONS`; a run records what
            "auto" was resolved to.
        valid_sizes: sizes on whose held-out problems the number of iterations is chosen.
        valid_count: how many problems of each.
        test_sizes: what ``test`` tests by default.
        max_minutes: the training stops there; the cosine ends there too if that is sooner.
        options: settings of this task for its data builder.
    """

    width: int
    iterations: int
    progressive_weight: float
    train_size: int
    train_count: int
    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    throttle: bool = False
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    warmup: float = 0.0
    average: float = 0.0
    initialization: str = "torch"
    blocks: int = 2
    most_epochs: int | None = None
    growing: float = 0.0
    shortest: int = 8
    extra_iterations: int = 0
    path_independence: float = 0.0
    state_noise: float = 0.0
    state_bound: float | None = None
    label_smoothing: float = 0.0
    stop_on_change: bool = False
    symmetries: bool = False
    precision: str = "float32"
    valid_sizes: tuple[int, ...] = ()
    valid_count: int = 500
    test_sizes: tuple[int, ...] = ()
    max_minutes: float | None = None
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)


class Examples(NamedTuple):
    """Problems and answers.

    Attributes:
        inputs: (N, channels, *cells), of any type; networks get them as float32.
        targets: (N, *cells), whole numbers.
    """

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Request:
    """A request for problems.

    Attributes:
        split: "train", "valid" or "test"; problems of different splits differ.
        size: how hard: bits, or the side of a maze, or another measure.
        count: how many at most.
        seed: of the problems.
        source: a file or folder that the user named, or None.
        options: those of the preset.
    """

    split: str
    size: int
    count: int
    seed: int
    source: Path | None = None
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    def check_cells(self, cells: int) -> None:
        """Make sure that generated problems of so many cells each fit in memory.

        Raises:
            UserError: if they do not.
        """
        from zpyro.errors import UserError  # here, as --help needs no torch

        if max(self.count, 1000) * cells > MOST_CELLS:
            raise UserError(
                f"size {self.size}: {self.count:,} problems of {cells:,} cells do not fit in "
                "memory; choose a smaller size or count"
            )

    def part(self, held_out: int) -> tuple[int, int]:
        """First and end of the problems in one stream: test, valid, then train.

        Args:
            held_out: problems of the stream in each of "test" and "valid".
        """
        first = ("test", "valid", "train").index(self.split) * held_out
        count = self.count if self.split == "train" else min(self.count, held_out)
        return first, first + count


@dataclass(frozen=True)
class SolutionTrace:
    """One problem and the answers after every iteration.

    Attributes:
        inputs: (1, channels, *cells).
        targets: (1, *cells).
        logits: after iterations 1, 2, ...: each (1, classes, *cells).
        out: the file to write a picture to, or None.
    """

    inputs: Tensor
    targets: Tensor
    logits: Sequence[Tensor]
    out: Path | None


OnBatch = Callable[[int, int], None]
"""Receives (problems done, problems)."""


@dataclass(frozen=True)
class Failures:
    """A sharper test of a network on held-out problems of the training's size.

    Attributes:
        what: how the problems are solved, for messages.
        count: how many problems it takes.
        find: from the network, the problems and the preset to how many fail.
    """

    what: str
    count: int
    find: Callable[[IteratedNetwork, Examples, Preset, OnBatch], int]


@dataclass(frozen=True)
class Task:
    """A family of problems that come in sizes.

    Attributes:
        name: as on the command line.
        dimensions: 1 for sequences of cells, 2 for images.
        channels: of the inputs.
        classes: answers to choose from in each cell.
        presets: settings by name; "quick" and "published".
        build: makes the problems of a request.
        correct: from inputs, logits (B, classes, *cells) and targets to whether each problem is
            solved wholly, (B,).
        show: returns the lines to print, and writes pictures if the trace has a file.
        sources: classes whose docstrings hold the BibTeX of the data and of its networks.
        difficulty: from a size to what the number of iterations is proportional to.
        scored: the cells that count, (B, *cells), from inputs; None where all do.
        players: the fraction of a request's problems that players without learning solve, by
            player; None where there are none.
        expected: the share of held-out problems of the training's size that a trained solver
            solves; None where that is not known.
        failures: a sharper test than that; None where there is none.
        unit: the unit of a size, for tables ("bits").
        named_sizes: sizes that are no measure, by the name that users write for them.
        size_error: why there is no problem of a request's size, and what to do; None if there is.
        summary: one line for the help.
    """

    name: str
    dimensions: int
    channels: int
    classes: int
    presets: Mapping[str, Preset]
    build: Callable[[Request], Examples]
    correct: Callable[[Tensor, Tensor, Tensor], Tensor]
    show: Callable[[SolutionTrace], list[str]]
    sources: tuple[object, ...]
    difficulty: Callable[[int], float] = float
    scored: Callable[[Tensor], Tensor] | None = None
    players: Callable[[Request], Mapping[str, float]] | None = None
    expected: float | None = None
    failures: Failures | None = None
    unit: str = "size"
    named_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    size_error: Callable[[Request], str | None] = lambda _: None
    summary: str = ""

    def size_name(self, size: int) -> str | None:
        """The name of a size, if it has one."""
        return next((name for name, value in self.named_sizes.items() if value == size), None)

    def preset(self, name: str) -> Preset:
        """A preset by name.

        Raises:
            UserError: if it does not exist.
        """
        from zpyro.errors import UserError

        if name not in self.presets:
            choices = ", ".join(self.presets)
            raise UserError(f"preset {name!r} is unknown; {self.name} has {choices}")
        return self.presets[name]


def load(name: str) -> Task:
    """A task by name.

    Raises:
        UserError: if it does not exist.
    """
    from zpyro.errors import UserError

    if name not in MODULES:
        raise UserError(f"task {name!r} is unknown; choose one of {', '.join(MODULES)}")
    return importlib.import_module(MODULES[name]).TASK
