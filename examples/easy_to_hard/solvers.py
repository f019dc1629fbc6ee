"""Solvers: what is trained on a task, behind one small interface.

The networks with a fixed number of iterations; those with a latent one stand in ``depth.py``, and
Z-Forcing as a learned sequential automaton in ``zforcing_solver.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from .programs import RecurrentSolver


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

    def at(self, fraction: float, *, grown: bool) -> None:
        """Told before each step which share of the training is done.

        Args:
            fraction: that share.
            grown: whether the problems have their full size.
        """
        del fraction, grown

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What to minimize, nats per scored cell, for one batch."""
        raise NotImplementedError

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        """The answer after each iteration, one after another."""
        raise NotImplementedError


class FixedDepthSolver(Solver):
    """A thinking network trained with the progressive loss through stock ``Trace_ELBO``.

    Args:
        recurrent: the Pyro programs.
        precision: "bfloat16" computes the convolutions of the training in that type.
    """

    def __init__(self, recurrent: RecurrentSolver, precision: str = "float32") -> None:
        super().__init__()
        self.recurrent = recurrent
        self.precision = precision
        self.elbo = Trace_ELBO(max_plate_nesting=2)
        self.extra_iterations = recurrent.extra_iterations

    def at(self, fraction: float, *, grown: bool) -> None:
        super().at(fraction, grown=grown)
        # A state that leads nowhere yet grows beyond bounds when it lingers.
        self.recurrent.extra_iterations = self.extra_iterations if grown else 0

    @property
    def longest(self) -> int | None:
        return self.recurrent.network.longest

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        recurrent = self.recurrent
        with autocast(inputs.device, self.precision):
            loss = self.elbo.differentiable_loss(
                recurrent.training_model, recurrent.guide, inputs, targets
            )
        return torch.as_tensor(loss) / recurrent.num_scored(inputs)

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        network = self.recurrent.network
        for state in network.states(inputs, iterations):
            yield Answer(network.answer(state))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Computing in bfloat16 where asked for."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
