"""Solvers: what is trained on a task, behind one small interface.

The networks of :mod:`.networks` with a fixed number of iterations, with a latent one
(:mod:`.depth`), and Z-Forcing as a learned sequential automaton (:mod:`.zforcing_solver`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from zpyro.errors import UserError

from . import networks
from .programs import Thinker
from .tasks import Preset, Task

SOLVERS = (*networks.NETWORKS, "zforcing")
DEPTHS = ("fixed", "latent")


class Answer(NamedTuple):
    """What a solver says after an iteration.

    Attributes:
        logits: (B, classes, *cells).
        stop: the probability that it stops here if it has not before, (B,); None where it has no
            opinion.
    """

    logits: Tensor
    stop: Tensor | None = None


class Solver(nn.Module):
    """The interface."""

    @property
    def longest(self) -> int | None:
        """The most iterations it can do; None where there is no limit."""
        return None

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What to minimise, nats per scored cell, for one batch."""
        raise NotImplementedError

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        """The answer after each iteration, one after another."""
        raise NotImplementedError


class ThinkingSolver(Solver):
    """A thinking network trained with the progressive loss through stock ``Trace_ELBO``.

    Args:
        thinker: the Pyro programs.
        precision: "bfloat16" computes the convolutions of the training in that type.
    """

    def __init__(self, thinker: Thinker, precision: str = "float32") -> None:
        super().__init__()
        self.thinker = thinker
        self.precision = precision
        self.elbo = Trace_ELBO(max_plate_nesting=2)

    @property
    def longest(self) -> int | None:
        return self.thinker.network.longest

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        thinker = self.thinker
        with autocast(inputs.device, self.precision):
            loss = self.elbo.differentiable_loss(
                thinker.training_model, thinker.guide, inputs, targets
            )
        return torch.as_tensor(loss) / thinker.num_scored(inputs)

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        network = self.thinker.network
        for thought in network.thoughts(inputs, iterations):
            yield Answer(network.answer(thought))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Computing in bfloat16 where asked for."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def build(task: Task, preset: Preset, solver: str = "recall", depth: str = "fixed") -> Solver:
    """A fresh solver.

    Args:
        task: gives the shape of problems and answers.
        preset: gives the size of the network and the loss.
        solver: one of :data:`SOLVERS`.
        depth: "fixed", or "latent" for thinking depth as a latent variable.

    Raises:
        UserError: for a solver that does not fit the task or the depth.
    """
    if solver not in SOLVERS:
        raise UserError(f"--solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    if depth not in DEPTHS:
        raise UserError(f"--depth {depth!r} is unknown; choose one of {', '.join(DEPTHS)}")
    if solver == "zforcing":
        return _zforcing(task, preset, depth)
    if depth == "latent":
        return _latent_depth(task, preset, solver)
    network = _network(task, preset, solver)
    weight, linger = preset.progressive_weight, _linger(preset, network)
    thinker = Thinker(network, preset.iterations, weight, task.scored, linger)
    return ThinkingSolver(thinker, preset.precision)


def _network(task: Task, preset: Preset, solver: str) -> networks.ThinkingNetwork:
    network = networks.build(
        solver, task.dimensions, task.channels, preset.width, task.classes, preset.iterations
    )
    if preset.initialization == "keep-sizes":
        networks.keep_sizes(network)
    return network


def _linger(preset: Preset, network: networks.ThinkingNetwork) -> int:
    """A network that has an end cannot go on beyond it."""
    return preset.linger if network.longest is None else 0


def _latent_depth(task: Task, preset: Preset, solver: str) -> Solver:
    from .depth import DepthSolver, DepthThinker

    # The evidence needs a share of the weight, and L_max is not computed beside it.
    weight = min(preset.progressive_weight, 0.5)
    network = _network(task, preset, solver)
    linger = _linger(preset, network)
    thinker = DepthThinker(network, preset.iterations, weight, task.scored, linger)
    return DepthSolver(thinker, preset.precision)


def _zforcing(task: Task, preset: Preset, depth: str) -> Solver:
    from .zforcing_solver import ZForcingSolver

    if task.dimensions != 1 or task.channels != 1 or task.classes != 2:
        raise UserError(f"--solver zforcing reads sequences of bits, and {task.name} has none")
    if depth != "fixed":
        raise UserError("--depth latent needs a network that iterates; leave out --solver zforcing")
    return ZForcingSolver(preset.width)
