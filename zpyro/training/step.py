"""One training step as a function of tensors: on CUDA it is recorded and replayed as a graph.

Nothing in it waits for the device. Numbers that change from step to step (the weights of the
objective, the step size) come in as tensors, whether a step is finite is decided on the device, and
what the steps gave is summed there (:mod:`zpyro.training.accumulator`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyro
import torch
from torch import Tensor

from zpyro.distributed.processes import SINGLE_PROCESS, BatchShard, ProcessGroup
from zpyro.evaluation import in_type_of
from zpyro.models import SequenceModel
from zpyro.nn import precision
from zpyro.nn.kernels.cuda_graph import GraphedCallable
from zpyro.nn.layers import State
from zpyro.nn.noise import NoiseSource, ShardNoise
from zpyro.objectives.elbo import ObjectiveModule, ObjectiveTerms
from zpyro.training.accumulator import MetricAccumulator
from zpyro.training.config import TrainConfig
from zpyro.training.optimizer import Optimizer

if TYPE_CHECKING:
    from zpyro.datasets.batching import Batch

MOST_LENGTHS = 16
"""Lengths that batches are padded to where steps are recorded, each with a graph of its own."""


class TrainingStep:
    """Forward, backward, clipping, the optimizer's move, and the sums.

    Args:
        module: the model.
        objective: the loss as a module, e.g. of :class:`zpyro.ZForcingELBO`.
        optimizer: moves the parameters.
        tally: takes in the terms.
        train: precision, and whether steps are recorded.
        lengths: of the sequences to train on, (N,).
        process_group: the processes that take each step together; only one alone is recorded.
    """

    def __init__(
        self,
        module: SequenceModel,
        objective: ObjectiveModule,
        optimizer: Optimizer,
        tally: MetricAccumulator,
        train: TrainConfig,
        lengths: np.ndarray,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._module = module
        self._objective = objective
        self._process_group = process_group
        self._loss = process_group.parallel(objective)
        self._optimizer = optimizer
        self._tally = tally
        self._train = train
        self._like = next(objective.parameters())
        self._recorded = train.cuda_graph and self._like.is_cuda and process_group.world_size == 1
        self._edges = length_edges(lengths) if self._recorded else None
        self._functions: dict[tuple[bool, ...], GraphedCallable] = {}
        self._checked = False
        # The state after the newest batch, where rows of streams go on with it.
        self._carried: State = ()

    def __call__(self, share: BatchShard, rate: float) -> None:
        """Take one step at the objective's present schedule step.

        Args:
            share: what this process has of the batch.
            rate: the optimizer's step size.
        """
        batch = share.batch
        weights = self._objective.objective.weights()
        controls = torch.tensor([*weights.values(), rate], dtype=torch.float64)
        x = in_type_of(self._padded(batch.x), self._like)
        inputs = [self._moved(x), self._moved(batch.lengths)]
        if batch.start is not None:
            inputs.append(self._moved(in_type_of(batch.start, self._like)))
        first = self._first(batch)
        function = self._function(tuple(weights.values()), with_start=batch.start is not None)
        sizes = torch.tensor([share.own, share.total], dtype=torch.float64)
        # Pyro's own checks read values back; the first step passes them for all.
        checking = pyro.validation_enabled(not self._checked)
        if share.rows is not None:
            self._module.set_noise_source(ShardNoise(share.rows, share.total))
        try:
            with precision.products(self._train.precision), checking:
                self._carried = function(self._moved(controls), self._moved(sizes), *inputs, *first)
        finally:
            self._module.set_noise_source(NoiseSource())
        self._checked = True

    def state(self) -> list[Tensor]:
        """What a checkpoint must hold."""
        return list(self._carried)

    def restore(self, state: list[Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        self._carried = tuple(part.to(self._like.device) for part in state)

    def _first(self, batch: Batch) -> State:
        """The state before each row of a stream: that after the row before, or the initial one."""
        if batch.continues is None:
            return ()
        initial = self._module.initial_state(len(batch))
        if not self._carried:
            return initial
        continues = self._moved(batch.continues).unsqueeze(-1)
        # Lanes end together but for the last: what is left of the state are its first rows.
        return tuple(
            before[: len(batch)].where(continues, start)
            for before, start in zip(self._carried, initial, strict=True)
        )

    def _function(self, weights: tuple[float, ...], *, with_start: bool) -> GraphedCallable:
        """The step for weights that are zero in these places: terms without weight cost nothing."""
        needed = (*(bool(weight) for weight in weights), with_start)
        if needed not in self._functions:
            function = partial(self._compute, with_start)
            self._functions[needed] = GraphedCallable(
                function, max_graphs=2 * MOST_LENGTHS, enabled=self._recorded
            )
        return self._functions[needed]

    def _compute(
        self,
        with_start: bool,
        controls: Tensor,
        sizes: Tensor,
        x: Tensor,
        lengths: Tensor,
        *rest: Tensor,
    ) -> State:
        start = rest[0] if with_start else None
        first = rest[with_start:]
        weighted = self._objective.objective.weighted(controls.to(self._like.dtype))
        carrying = self._module.with_initial_state(first) if first else nullcontext(None)
        with precision.autocast(self._train.precision, x.device), weighted, carrying as carried:
            loss = self._loss(x, lengths, start)
            counts = (sizes[0] > 0).to(loss.dtype)
            # One normalizer for all processes, whose gradients are averaged afterwards.
            loss = loss * counts * (self._process_group.world_size / sizes[1]).to(loss.dtype)
        norm = self._optimizer.gradients(loss)
        assert self._objective.terms is not None
        terms, frames = self._of_all(self._objective.terms, lengths.sum(), counts)
        good = self._tally.add(terms, norm, sizes[1], frames)
        self._optimizer.step(controls[-1], good)
        return () if carried is None or carried.final is None else carried.final

    def _of_all(
        self, terms: ObjectiveTerms, frames: Tensor, counts: Tensor
    ) -> tuple[ObjectiveTerms, Tensor]:
        """Terms and frames summed over all processes."""
        if self._process_group.world_size == 1:
            return terms, frames
        names = list(terms.values)
        parts = [terms.loss.double(), *(value.double() for value in terms.values.values())]
        summed = self._process_group.sum(torch.stack([*parts, frames.to(parts[0])]) * counts)
        values = dict(zip(names, summed[1:-1], strict=True))
        return replace(terms, values=values, loss=summed[0]), summed[-1]

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
