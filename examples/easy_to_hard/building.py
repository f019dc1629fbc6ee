"""From a task, a preset and the names of a solver and a depth to a fresh solver."""

from __future__ import annotations

from zpyro.errors import UserError

from . import networks
from .depth import LatentDepthSolver, LatentDepthTrainer
from .programs import RecurrentSolver
from .solvers import FixedDepthSolver, Solver
from .tasks import Preset, Task
from .zforcing_solver import ZForcingSolver

SOLVERS = (*networks.NETWORKS, "zforcing")
"""What ``--solver`` takes."""
DEPTHS = ("fixed", "latent")
"""What ``--depth`` takes."""


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
    # The networks of 2021 learn from their last answer alone, as published.
    progressive = solver == "recall"
    weight = preset.progressive_weight if progressive else 0.0
    extra_iterations = preset.extra_iterations if progressive else 0
    recurrent = RecurrentSolver(network, preset.iterations, weight, task.scored, extra_iterations)
    return FixedDepthSolver(recurrent)


def _network(task: Task, preset: Preset, solver: str) -> networks.IteratedNetwork:
    network = networks.build(
        solver, task.dimensions, task.channels, preset.width, task.classes, preset.iterations
    )
    if preset.initialization == "keep-sizes":
        networks.keep_sizes(network)
    return network


def _extra_iterations(preset: Preset, network: networks.IteratedNetwork) -> int:
    """A network that has an end cannot go on beyond it."""
    return preset.extra_iterations if network.longest is None else 0


def _latent_depth(task: Task, preset: Preset, solver: str) -> Solver:
    network, weight = _network(task, preset, solver), preset.progressive_weight
    extra_iterations = _extra_iterations(preset, network)
    recurrent = LatentDepthSolver(
        network,
        preset.iterations,
        weight,
        task.scored,
        extra_iterations,
        evidence_weight=max(1 - weight, 0.5),
    )
    return LatentDepthTrainer(recurrent)


def _zforcing(task: Task, preset: Preset, depth: str) -> Solver:
    if task.dimensions != 1 or task.channels != 1 or task.classes != 2:
        raise UserError(f"--solver zforcing reads sequences of bits, and {task.name} has none")
    if depth != "fixed":
        raise UserError("--depth latent needs a network that iterates; leave out --solver zforcing")
    return ZForcingSolver(preset.width)
