"""Solvers: the interface of everything that is trained on a task.

Here are networks with a fixed number of iterations. ``depth.py`` has those with a latent number,
and ``zforcing_solver.py`` has Z-Forcing as a learned sequential automaton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from .networks import IteratedNetwork
from .programs import RecurrentSolver

EXTRA_GROWN_AT = 0.2
"""The share of a training with path independence at which it does all extra iterations."""


class Answer(NamedTuple):
    """The output of a solver after an iteration.

    Attributes:
        logits: (B, classes, *cells).
        stop: the probability of stopping here if it has not stopped before, (B,); None for
            solvers that do not decide when to stop.
    """

    logits: Tensor
    stop: Tensor | None = None


class Solver(nn.Module):
    """The interface of a solver.

    Subclasses define :meth:`loss` and :meth:`answers`; the others are optional.

    Example::

        solver = building.build(task, task.preset("quick"))
        loss = solver.loss(inputs, targets)
        logits = [answer.logits for answer in solver.answers(inputs, iterations=30)]
    """

    @property
    def longest(self) -> int | None:
        """The most iterations it can do; None where there is no limit."""
        return None

    def at(self, fraction: float, *, grown: bool) -> None:
        """Called before each training step.

        Args:
            fraction: the share of the training that is done.
            grown: whether the problems have their full size.
        """
        del fraction, grown

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of one batch, nats per scored cell."""
        raise NotImplementedError

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        """Yield the answer after each iteration."""
        raise NotImplementedError

    @property
    def repeated_network(self) -> IteratedNetwork | None:
        """The network that applies one block in every iteration, for as many as are wanted.

        None for other solvers, and for those that stop by themselves.
        """
        return None


class FixedDepthSolver(Solver):
    """A recurrent network trained with the progressive loss through stock ``Trace_ELBO``.

    Args:
        recurrent: the Pyro programs.
    """

    def __init__(self, recurrent: RecurrentSolver) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.elbo = Trace_ELBO(max_plate_nesting=2)
        self.extra_iterations = recurrent.extra_iterations

    def at(self, fraction: float, *, grown: bool) -> None:
        super().at(fraction, grown=grown)
        # Early in training, states grow without bound over extra iterations.
        share = 1.0 if grown else 0.0
        if self.recurrent.path_independence:
            share *= min(1.0, fraction / EXTRA_GROWN_AT)
        self.recurrent.extra_iterations = int(share * self.extra_iterations)

    @property
    def longest(self) -> int | None:
        return self.recurrent.network.longest

    def objective(self) -> tuple[Trace_ELBO | TraceEnum_ELBO, Callable[..., None]]:
        """The objective and the model of the current training step."""
        return self.elbo, self.recurrent.training_model

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        elbo, model = self.objective()
        loss = elbo.differentiable_loss(model, self.recurrent.guide, inputs, targets)
        return torch.as_tensor(loss) / self.recurrent.num_scored(inputs)

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        network = self.recurrent.network
        for state in network.states(inputs, iterations):
            yield Answer(network.answer(state))

    @property
    def repeated_network(self) -> IteratedNetwork | None:
        return self.recurrent.network if self.longest is None else None
