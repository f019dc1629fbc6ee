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
"""Values of ``--solver``."""
DEPTHS = ("fixed", "latent")
"""Values of ``--depth``."""


def build(task: Task, preset: Preset, solver: str = "recall", depth: str = "fixed") -> Solver:
    """A fresh solver.

    Args:
        task: gives the shape of problems and answers.
        preset: gives the size of the network and the loss.
        solver: one of :data:`SOLVERS`.
        depth: "fixed", or "latent" for the number of iterations as a latent variable.

    Raises:
        UserError: for a solver that does not fit the task or the depth.
    """
    if solver not in SOLVERS:
        raise UserError(f"--solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    if depth not in DEPTHS:
        raise UserError(f"--depth {depth!r} is unknown; choose one of {', '.join(DEPTHS)}")
    if solver == "zforcing":
        if task.dimensions != 1 or task.channels != 1 or task.classes != 2:
            raise UserError(f"--solver zforcing reads sequences of bits, and {task.name} has none")
        if depth != "fixed":
            raise UserError(
                "--depth latent needs a network that iterates; leave out --solver zforcing"
            )
        return ZForcingSolver(preset.width)
    network = networks.build(
        solver,
        task.dimensions,
        task.channels,
        preset.width,
        task.classes,
        preset.iterations,
        preset.state_bound,
        preset.blocks,
    )
    if preset.initialization == "keep-sizes":
        networks.keep_sizes(network)
    weight, extra = preset.progressive_weight, preset.extra_iterations
    if depth == "latent":
        # A feed-forward network cannot do more iterations than it has layers.
        extra = extra if network.longest is None else 0
        latent = LatentDepthSolver(
            *(network, preset.iterations, weight, task.scored, extra),
            evidence_weight=max(1 - weight, 0.5),
            stop_on_change=preset.stop_on_change,
        )
        return LatentDepthTrainer(latent)
    # The networks of 2021 learn from their last answer only, as published.
    weight, extra = (weight, extra) if solver == "recall" else (0.0, 0)
    recurrent = RecurrentSolver(
        network,
        preset.iterations,
        weight,
        task.scored,
        extra,
        preset.path_independence if solver == "recall" else 0.0,
        preset.state_noise,
        preset.label_smoothing,
    )
    return FixedDepthSolver(recurrent)
