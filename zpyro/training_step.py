"""One training step as a function of tensors: on CUDA it is recorded and replayed as a graph.

Nothing in it waits for the device. Numbers that change from step to step (the weights of the
objective, the step size) come in as tensors, whether a step is finite is decided on the device, and
what the steps gave is summed there (:mod:`zpyro.tally`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyro
import torch
from torch import Tensor

from zpyro import precision
from zpyro.config import TrainConfig
from zpyro.cuda_graph import Captured, Tensors
from zpyro.elbo import ObjectiveModule
from zpyro.evaluation import in_type_of
from zpyro.optimizer import Optimizer
from zpyro.tally import Tally

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Batch

MOST_LENGTHS = 16
"""Lengths that batches are padded to where steps are recorded, each with a graph of its own."""


class TrainingStep:
    """Forward, backward, clipping, the optimiser's move, and the sums.

    Args:
        objective: the loss as a module, e.g. of :class:`zpyro.ZForcingELBO`.
        optimizer: moves the parameters.
        tally: takes in the terms.
        train: precision, and whether steps are recorded.
        lengths: of the sequences to train on, (N,).
    """

    def __init__(
        self,
        objective: ObjectiveModule,
        optimizer: Optimizer,
        tally: Tally,
        train: TrainConfig,
        lengths: np.ndarray,
    ) -> None:
        self._objective = objective
        self._optimizer = optimizer
        self._tally = tally
        self._train = train
        self._like = next(objective.parameters())
        self._recorded = train.cuda_graph and self._like.is_cuda
        self._edges = length_edges(lengths) if self._recorded else None
        self._functions: dict[tuple[bool, ...], Captured] = {}
        self._checked = False

    def __call__(self, batch: Batch, rate: float) -> None:
        """Take one step at the objective's present schedule step.

        Args:
            batch: as the data set gives it.
            rate: the optimiser's step size.
        """
        weights = self._objective.objective.weights()
        controls = torch.tensor([*weights, rate], dtype=torch.float64)
        x = in_type_of(self._padded(batch.x), self._like)
        inputs = [self._moved(x), self._moved(batch.lengths)]
        if batch.start is not None:
            inputs.append(self._moved(in_type_of(batch.start, self._like)))
        # Pyro's own checks read values back; the first step passes them for all.
        with precision.products(self._train.precision), pyro.validation_enabled(not self._checked):
            self._function(weights)(self._moved(controls), *inputs)
        self._checked = True

    def _function(self, weights: tuple[float, ...]) -> Captured:
        """The step for weights that are zero in these places: terms without weight cost nothing."""
        needed = tuple(bool(weight) for weight in weights)
        if needed not in self._functions:
            self._functions[needed] = Captured(
                self._compute, most=2 * MOST_LENGTHS, enabled=self._recorded
            )
        return self._functions[needed]

    def _compute(
        self, controls: Tensor, x: Tensor, lengths: Tensor, start: Tensor | None = None
    ) -> Tensors:
        weighted = self._objective.objective.weighted(controls.to(self._like.dtype))
        with precision.autocast(self._train.precision, x.device), weighted:
            loss = self._objective(x, lengths, start) / len(x)
        norm = self._optimizer.gradients(loss)
        assert self._objective.terms is not None
        good = self._tally.add(self._objective.terms, norm, len(x), lengths.sum())
        self._optimizer.step(controls[-1], good)
        return ()

    def _padded(self, x: Tensor) -> Tensor:
        """x with zeros up to the next of the lengths that are recorded: padding changes nothing."""
        if self._edges is None:
            return x
        steps = x.shape[1]
        wanted = int(self._edges[np.searchsorted(self._edges, steps)])
        filler = x.new_zeros(x.shape[0], wanted - steps, *x.shape[2:])
        return torch.cat([x, filler], dim=1)

    def _moved(self, values: Tensor) -> Tensor:
        """On the parameters' device, without waiting for it."""
        if not self._like.is_cuda:
            return values
        return values.pin_memory().to(self._like.device, non_blocking=True)


def length_edges(lengths: np.ndarray) -> np.ndarray:
    """At most :data:`MOST_LENGTHS` lengths to pad to, equally often used; the last is the longest.

    Args:
        lengths: of all sequences, (N,).
    """
    shares = np.linspace(0.0, 1.0, MOST_LENGTHS + 1)[1:]
    return np.unique(np.quantile(lengths, shares, method="higher"))
