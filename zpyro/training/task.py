"""What the trainer asks of the thing that is trained, and where a training is."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from zpyro.training import checkpoint
from zpyro.training.accumulator import means

Numbers = Mapping[str, float | int | str | None]
Tensors = tuple[Tensor, ...]
M = TypeVar("M", bound=nn.Module)


@dataclass
class TrainState:
    """Where a training is; every checkpoint holds it.

    Attributes:
        step: training steps taken.
        epoch: passes over the data completed.
        batch: batches of the present pass taken.
        seconds: time spent training.
        best: best validation score so far.
        validated: step of the newest validation.
        evals_without_improvement: validations since the best.
        interval_seconds: time spent on steps since the last record.
        steps_per_epoch: batches in a pass when this was saved; None before the first checkpoint.
        extra_steps: steps taken beyond those that ``epoch`` and ``batch`` count. It is 0 unless a
            resumed training has another number of batches in a pass.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    validated: int | None = None
    evals_without_improvement: int = 0
    interval_seconds: float = 0.0
    steps_per_epoch: int | None = None
    extra_steps: int = 0

    def advance(self, steps_per_epoch: int) -> None:
        """Count one step; the last batch of a pass begins the next pass."""
        self.step += 1
        self.batch += 1
        if self.batch == steps_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def adapt(self, steps_per_epoch: int) -> None:
        """Keep the share of the pass that is done where a pass has another number of batches."""
        before = self.steps_per_epoch or max(steps_per_epoch, self.batch + 1)
        if before != steps_per_epoch:
            self.batch = self.batch * steps_per_epoch // before
            self.extra_steps = self.step - self.epoch * steps_per_epoch - self.batch
        self.steps_per_epoch = steps_per_epoch


@dataclass(frozen=True, eq=False)
class StepTerms:
    """What a task computes of one batch, tensors on the model's device.

    With several processes, loss, values and frames are shares that are summed over the processes.

    Attributes:
        loss: what is differentiated, a mean over the batch.
        values: sums over the batch by name: "loss", then every name of ``TrainingTask.term_names``.
        examples: sequences (or other examples) in the batch, 0-dim.
        frames: steps (or cells) in the batch, 0-dim.
        outputs: passed to :meth:`TrainingTask.after_step`.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    examples: Tensor
    frames: Tensor
    outputs: Tensors = ()


class TrainingTask(abc.ABC, Generic[M]):
    """A model, its batches, its loss and its validation: what :class:`Trainer` trains.

    Required are ``model``, ``steps_per_epoch``, :meth:`batches`, :meth:`inputs`, :meth:`loss` and
    :meth:`save`; everything else has a default.

    Attributes:
        model: what is trained, on its device.
        steps_per_epoch: batches in a pass over the data.
        term_names: the numbers that :meth:`loss` reports beside the loss.
        score: the number of :meth:`validate` to maximize; None for no validation in training.
        seconds_between_checkpoints: a limit beside ``train.checkpoint_every``, or None.
        can_capture: whether steps may be captured as CUDA graphs.
        max_graphs: CUDA graphs kept for each key of :meth:`inputs`, one for each shape.

    Example::

        class Regression(TrainingTask):
            def __init__(self, model, x, y):
                self.model, self.x, self.y, self.steps_per_epoch = model, x, y, 1

            def batches(self, epoch, first):
                yield from [(self.x, self.y)][first:]

            def inputs(self, batch):
                return (), batch

            def loss(self, key, weights, x, y):
                loss = (self.model(x) - y).square().mean()
                size = torch.tensor(len(x))
                return StepTerms(loss, {"loss": loss.detach() * size}, size, size)

            def save(self, folder, state, *, metrics, averaged, training_state):
                ...

        Trainer(Regression(model, x, y), TrainConfig(max_steps=100)).fit()
    """

    model: M
    steps_per_epoch: int
    term_names: tuple[str, ...] = ()
    score: str | None = None
    seconds_between_checkpoints: float | None = None
    can_capture: bool = True
    max_graphs: int = 8

    # -- the batches and the loss -----------------------------------------------------------------

    @abc.abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of a pass from number ``first`` on; they depend on the arguments alone."""

    @abc.abstractmethod
    def inputs(self, batch: Any) -> tuple[Hashable, Tensors]:
        """What the loss reads of a batch.

        Returns:
            A key with everything that is not a tensor, and tensors on the model's device. A CUDA
            graph is captured for each key and each shape of the tensors.
        """

    @abc.abstractmethod
    def loss(self, key: Any, weights: Tensor, *tensors: Tensor) -> StepTerms:
        """The loss of one batch.

        Nothing here may read a tensor's value where steps are captured as CUDA graphs.

        Args:
            key: of :meth:`inputs`.
            weights: the numbers of :meth:`weights` in order, perhaps with more behind, as floats of
                :func:`~zpyro.nn.devices.sum_dtype`.
            tensors: of :meth:`inputs`.
        """

    def weights(self) -> dict[str, float]:
        """Numbers of the loss that change from step to step, by their names in the records."""
        return {}

    def before_step(self, state: TrainState, fraction: float) -> None:
        """Called before every step.

        Args:
            state: steps taken so far.
            fraction: of the training that is done, 0 to 1.
        """

    def step_context(self, batch: Any) -> AbstractContextManager[object]:
        """A context around the computation of a step."""
        del batch
        return contextlib.nullcontext()

    def after_step(self, is_finite: Tensor, outputs: Tensors) -> None:
        """Called after every step.

        Args:
            is_finite: whether the step changed the weights, a 0-dim bool tensor.
            outputs: of :class:`StepTerms`.
        """

    def batch_names(self, batch: Any) -> Sequence[str]:
        """Names of what a batch holds, for error messages."""
        del batch
        return ()

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters to train, each group with its share of the learning rate."""
        return [([p for p in self.model.parameters() if p.requires_grad], 1.0)]

    # -- records and validation -------------------------------------------------------------------

    def summarize(self, sums: dict[str, float], seconds: float) -> dict[str, float | None]:
        """The numbers of a record.

        Args:
            sums: over the finite steps of an interval: steps, sequences, frames, gradient_norm,
                loss, and the terms.
            seconds: spent on these steps.
        """
        return means(sums, seconds)

    def validate(self, on_batch: Callable[[int, int], None] | None) -> dict[str, Any]:
        """Score the validation data.

        Args:
            on_batch: called with the numbers of examples done and in all; it may raise.

        Returns:
            Numbers by name, :attr:`score` among them; None for those that are not finite.
        """
        del on_batch
        return {}

    def describe_record(self, record: Mapping[str, Any]) -> dict[str, str]:
        """What loggers show of a training record, by label."""
        return {"loss": f"{record['loss']:.4f}" if record["loss"] is not None else "-"}

    def describe_validation(self, record: Mapping[str, Any]) -> str:
        """What loggers show of a validation."""
        return f"step {record['step']}  {self.score} {record[self.score or 'step']}"

    # -- checkpoints ------------------------------------------------------------------------------

    @abc.abstractmethod
    def save(
        self,
        folder: Path,
        state: TrainState,
        *,
        metrics: Numbers,
        averaged: bool,
        training_state: dict[str, Any] | None,
    ) -> None:
        """Write a checkpoint of the model, as a whole or not at all.

        Args:
            folder: where to write it.
            state: where the training is.
            metrics: the validation that the weights are kept for; empty in the last checkpoint.
            averaged: whether the model holds averaged weights now.
            training_state: what resuming needs (plain values and tensors); None for the best.
        """

    def load_training_state(self, folder: Path) -> dict[str, Any]:
        """Read what :meth:`save` wrote for resuming.

        Raises:
            UserError: if it is missing or damaged.
        """
        return checkpoint.load_state(folder)

    def check_resumable(self, folder: Path) -> None:
        """Check that a checkpoint belongs to the data of this task.

        Raises:
            UserError: if it does not.
        """

    def state_dict(self) -> Any:
        """What the task itself must remember to resume; plain values and tensors.

        All processes call it, and the main process writes what it returns there.
        """
        return None

    def load_state_dict(self, state: Any) -> None:
        """Restore what :meth:`state_dict` returned."""
