"""The training loop, for anything that is a :class:`~zpyro.training.task.TrainingTask`.

Read from the top: :meth:`Trainer.fit` is the loop, :meth:`Trainer.step` one step of it,
:meth:`Trainer._update` the computation of a step, which is captured as a CUDA graph where possible;
several processes capture :meth:`Trainer._differentiate` and add up their gradients. The rest is
validation, checkpoints and the agreement of several processes.

Nothing in a step waits for the device: numbers that change from step to step come in as tensors,
whether a step is finite is decided on the device, and its terms are summed there
(:mod:`zpyro.training.accumulator`).
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.distributed.seeding import random_states, restore_random_states
from zpyro.errors import UserError
from zpyro.nn import precision
from zpyro.nn.devices import sum_dtype, to_device
from zpyro.nn.kernels.cuda_graph import GraphedCallable
from zpyro.training import checkpoint
from zpyro.training.accumulator import MetricAccumulator
from zpyro.training.anomaly import AnomalyDetection, shown_names
from zpyro.training.callbacks import Callback, check_methods
from zpyro.training.config import TrainConfig
from zpyro.training.conversion import convert_state
from zpyro.training.interruption import Interruption
from zpyro.training.optimizer import Optimizer
from zpyro.training.runs import MetricsLog, Run
from zpyro.training.task import Numbers, StepTerms, Tensors, TrainingTask, TrainState

MIN_STEPS_BETWEEN_VALIDATIONS = 50
"""Where validations happen at the end of epochs, so that tiny epochs are not mostly validation."""


class ValidationInterrupted(Exception):
    """A signal came during a validation, which is then done on resuming."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: training steps in all.
        epoch: passes over the data completed.
        seconds: spent training and validating, those before a resumption included.
        best: the best validation score; None before the first.
        skipped: steps skipped because they were not finite.
        interrupted: the signal that ended it early, or None.
    """

    step: int
    epoch: int
    seconds: float
    best: float | None
    skipped: int
    interrupted: signal.Signals | None


class Trainer:
    """Trains a task.

    Args:
        task: the model, its batches, loss and validation.
        train: optimizer, budget and intervals.
        run: the run directory for metrics and checkpoints; nothing is written without one.
        callbacks: called during the training, in the main process only.
        process_group: this process among those that train together.
        detect_anomaly: stop at the first number that is not finite and name it; slow.

    Raises:
        UserError: for a callback with a method ``on_...`` that a training does not call, or for
            ``weight_noise`` in several processes.

    Attributes:
        state: where the training is.
        accumulator: sums of the terms since the last record.
        optimizer: with the averaged weights.

    Example::

        trainer = Trainer(task, TrainConfig(max_steps=1_000), run=Run(folder), callbacks=[logger])
        if resume:
            trainer.resume()
        outcome = trainer.fit()
    """

    def __init__(
        self,
        task: TrainingTask[Any],
        train: TrainConfig,
        *,
        run: Run | None = None,
        callbacks: Sequence[Callback] = (),
        process_group: ProcessGroup = SINGLE_PROCESS,
        detect_anomaly: bool = False,
    ) -> None:
        if train.weight_noise and process_group.world_size > 1:
            raise UserError(
                "train.weight_noise: processes would have different weights; train in one process"
            )
        self.task, self.train, self.process_group = task, train, process_group
        for callback in callbacks:
            check_methods(callback)
        self.callbacks = callbacks if process_group.is_main_process else ()
        self.state = TrainState(steps_per_epoch=task.steps_per_epoch)
        self.optimizer = Optimizer(task.parameter_groups(), train)
        self.device = self.optimizer.parameters[0].device
        self.accumulator = MetricAccumulator(self.device, task.term_names)
        self.interruption = Interruption()
        self._run = run
        self._writes = run is not None and process_group.is_main_process
        self._log: MetricsLog | None = None
        self._budget = Budget(train, task.steps_per_epoch)
        self._rate = train.learning_rate
        self._weights: dict[str, float] = {}
        self._best_weights: dict[str, Tensor] | None = None
        self._saved: tuple[int, int | None] | None = None
        self._started = time.monotonic()
        # Of the time that all processes agree on.
        self._saved_at = 0.0
        self._agreed_signal: signal.Signals | None = None
        anomalies = AnomalyDetection(task.model, self.accumulator) if detect_anomaly else None
        self._anomalies = anomalies
        # No graphs that anomaly detection must look into.
        on_cuda = self.device.type == "cuda"
        self._captures = train.cuda_graph and on_cuda and task.can_capture and not detect_anomaly
        self._updates: dict[Hashable, GraphedCallable] = {}
        # Which parameters the newest backward pass of each key reached.
        self._reached: dict[Hashable, list[bool]] = {}

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self) -> Outcome:
        """Train to the end of the budget, or until a signal; the model keeps the last weights.

        Raises:
            UserError: if many steps in a row are not finite, or the run cannot be written.
        """
        self.task.model.train()
        self._started = time.monotonic() - self.state.seconds
        with self.interruption, self._reporting():
            try:
                self.run_pending_validation()
                if self.train.init is not None and not self.state.step:
                    # The weights it starts from are the best so far.
                    self.validate()
                batches = self._batches()
                while not self.is_finished() and not self.stop_signal:
                    self.step(next(batches))
                    if self._is_due(self.train.validate_every):
                        self.validate()
                    if self._is_due(self.train.checkpoint_every) or self._checkpoint_is_old():
                        self.save()
                if not self.stop_signal:
                    self.validate()
            except ValidationInterrupted:
                # The sender of a signal may not wait: resuming begins with this validation.
                pass
            self.save()
        state, skipped = self.state, self.accumulator.skipped()[0]
        return Outcome(
            state.step, state.epoch, state.seconds, state.best, skipped, self.stop_signal
        )

    def step(self, batch: Any) -> None:
        """Take one training step, or skip it if its loss or gradient is not finite."""
        started = time.monotonic()
        state, task = self.state, self.task
        fraction = self._budget.fraction(state)
        task.before_step(state, fraction)
        self._rate = self.optimizer.learning_rate(fraction, state.epoch)
        self._weights = task.weights()
        numbers = [*self._weights.values(), self._rate]
        controls = torch.tensor(numbers, dtype=sum_dtype(self.device))
        key, tensors = task.inputs(batch)
        with self._checked(batch), precision.products(self.train.precision):
            update = self._update_alone if self.process_group.world_size == 1 else self._update_all
            is_finite, *outputs = update(key, to_device(controls, self.device), *tensors)
        task.after_step(is_finite, tuple(outputs))
        state.advance(task.steps_per_epoch)
        is_logged = state.step % self.train.log_every == 0
        if is_logged:
            self._check_skipped(batch)
        state.interval_seconds += time.monotonic() - started
        self._sync_ranks()
        fraction, left = self._budget.fraction(state), self._budget.seconds_left(state)
        for callback in self.callbacks:
            callback.on_step(state, fraction, left)
        if is_logged:
            self._record_steps()

    def _update_alone(self, key: Hashable, controls: Tensor, *tensors: Tensor) -> Tensors:
        """The computation of a step in one process, all of it captured.

        Returns:
            Whether the step is finite, and the task's outputs.
        """
        if key not in self._updates:
            self._updates[key] = GraphedCallable(
                partial(self._update, key),
                max_graphs=self.task.max_graphs,
                enabled=self._captures,
                state=self._updated_tensors,
            )
        is_finite, _, _, *outputs = self._updates[key](controls, *tensors)
        return is_finite, *outputs

    def _update_all(self, key: Hashable, controls: Tensor, *tensors: Tensor) -> Tensors:
        """The computation of a step in several processes, the same result in each.

        Forward and backward are captured, without any communication: a process records a graph when
        it meets a shape often enough, whatever the others do.

        Returns:
            As :meth:`_update_alone`.
        """
        if key not in self._updates:
            self._updates[key] = GraphedCallable(
                partial(self._differentiate, key),
                max_graphs=self.task.max_graphs,
                enabled=self._captures,
                state=self.task.model.buffers,
            )
        gradient, sums, examples, *outputs = self._updates[key](controls, *tensors)
        parameters, group = self.optimizer.parameters, self.process_group
        group.sum(gradient)
        *values, frames = group.sum(sums)
        reached = group.all_reduce_max(*self._reached[key])
        parts = gradient.split([parameter.numel() for parameter in parameters])
        for parameter, part, flag in zip(parameters, parts, reached, strict=True):
            # The optimizer leaves those alone that no process has a gradient of.
            parameter.grad = part.view_as(parameter) if flag else None
        named = dict(zip(self.accumulator.columns[4:], values, strict=True))
        is_finite, _ = self._apply(controls, named, examples, frames)
        return is_finite, *outputs

    def _update(self, key: Hashable, controls: Tensor, *tensors: Tensor) -> Tensors:
        """Forward, backward, clipping, sums and the optimizer's step: a function of tensors.

        Returns:
            Whether the step is finite, the loss, the gradient's length, and the task's outputs.
        """
        terms = self._backward(key, controls, *tensors)
        is_finite, norm = self._apply(controls, terms.values, terms.examples, terms.frames)
        return is_finite, terms.loss.detach(), norm.detach(), *terms.outputs

    def _differentiate(self, key: Hashable, controls: Tensor, *tensors: Tensor) -> Tensors:
        """Forward and backward of the rows of this process: a function of tensors.

        Returns:
            The gradient of all parameters as one vector, the sums of loss, terms and frames, the
            number of examples, and the task's outputs.
        """
        terms = self._backward(key, controls, *tensors)
        parameters = self.optimizer.parameters
        self._reached[key] = [parameter.grad is not None for parameter in parameters]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        values = [terms.values[name] for name in self.accumulator.columns[4:]]
        dtype = sum_dtype(self.device)
        sums = torch.stack([value.to(dtype) for value in (*values, terms.frames)])
        return torch.cat([p.flatten() for p in parts]), sums, terms.examples, *terms.outputs

    def _backward(self, key: Hashable, controls: Tensor, *tensors: Tensor) -> StepTerms:
        self.optimizer.zero_grad()
        with self.optimizer.noisy_weights():
            with precision.autocast(self.train.precision, controls.device):
                terms = self.task.loss(key, controls, *tensors)
            terms.loss.backward()
        return terms

    def _apply(
        self, controls: Tensor, values: Mapping[str, Tensor], examples: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clip the gradients, add up the terms and update the weights.

        Returns:
            Whether the step is finite, and the gradient's length before.
        """
        norm = self.optimizer.clip_gradients()
        is_finite = self.accumulator.add(values, norm, examples, frames)
        self.optimizer.step(controls[-1], is_finite)
        return is_finite, norm

    def _updated_tensors(self) -> list[Tensor]:
        """Everything that :meth:`_update` changes in place."""
        buffers = list(self.task.model.buffers())
        return [*self.optimizer.tensors(), *buffers, *self.accumulator.tensors()]

    def _batches(self) -> Iterator[Any]:
        """Batches without end, from the present state on."""
        epoch, first = self.state.epoch, self.state.batch
        while True:
            yield from self.task.batches(epoch, first)
            epoch, first = epoch + 1, 0

    def is_finished(self) -> bool:
        """Whether the budget is used up, or validations no longer improve."""
        patience = self.train.patience
        early_stopping = patience is not None and self.state.evals_without_improvement >= patience
        return early_stopping or self._budget.fraction(self.state) >= 1.0

    # -- validation -------------------------------------------------------------------------------

    def run_pending_validation(self) -> None:
        """The validation that a signal interrupted before the last checkpoint, if there is one."""
        if self.state.step and self._is_due(self.train.validate_every):
            self.validate()

    def validate(self) -> None:
        """Score the validation data, and write the weights if they are the best so far.

        Raises:
            ValidationInterrupted: after a signal.
        """
        task, state = self.task, self.state
        if task.score is None or state.validated == state.step:
            return
        self._raise_after_signal()
        with self.averaged_weights() as averaged:
            numbers = task.validate(
                self._on_validation_batch if self.process_group.world_size == 1 else None
            )
            score = numbers[task.score]
            improved = score is not None and (state.best is None or score > state.best)
            if improved:
                weights = task.model.state_dict()
                self._best_weights = {n: tensor.detach().clone() for n, tensor in weights.items()}
            if improved and self._writes:
                assert self._run is not None
                task.save(
                    self._run.best, state, metrics=numbers, averaged=averaged, training_state=None
                )
        state.validated = state.step
        self._sync_ranks()
        if improved:
            state.best, state.evals_without_improvement = score, 0
        else:
            state.evals_without_improvement += 1
            on_plateau = self.train.learning_rate_schedule == "plateau"
            if on_plateau and state.evals_without_improvement % self.train.plateau_patience == 0:
                self.optimizer.reduce()
        record = self._write_record("valid", {**numbers, "best": improved})
        for callback in self.callbacks:
            callback.on_validation(record)

    def restore_best(self) -> None:
        """Give the model the weights of the best validation; without one, it keeps the last.

        Raises:
            UserError: if they were found before a resumption and the run's are damaged.
        """
        if self._best_weights is None and self.state.best is not None and self._run is not None:
            model = self.task.model
            self._best_weights = checkpoint.load_weights(self._run.best, model)
        if self._best_weights is not None:
            self.task.model.load_state_dict(self._best_weights)

    @contextlib.contextmanager
    def averaged_weights(self) -> Generator[bool, None, None]:
        """A context in which the model has the averaged weights, if ``train.average`` is set.

        Yields:
            Whether it has.
        """
        average = self.optimizer.average
        with nullcontext() if average is None else average.applied():
            yield average is not None

    def _on_validation_batch(self, done: int, total: int) -> None:
        for callback in self.callbacks:
            callback.on_validation_progress(done, total)
        self._raise_after_signal()

    def _raise_after_signal(self) -> None:
        if self.stop_signal is not None:
            raise ValidationInterrupted

    # -- checkpoints ------------------------------------------------------------------------------

    @property
    def _progress(self) -> tuple[int, int | None]:
        """What a checkpoint must be newer than to be worth writing: steps and validations."""
        return self.state.step, self.state.validated

    def save(self) -> None:
        """Write the last checkpoint."""
        if self._run is None or self._saved == self._progress:
            return
        self._saved, self._saved_at = self._progress, self.state.seconds
        # Of all processes, each of which may hold a part.
        task_state = self.task.state_dict()
        if not self._writes:
            return
        if self._log is not None:
            self._log.flush()
        self.state.seconds = time.monotonic() - self._started
        training_state = {
            "train_state": asdict(self.state),
            "accumulator": self.accumulator.state_dict(),
            "task": task_state,
            "optimizer": self.optimizer.state_dict(),
            "random": random_states(),
        }
        self.task.save(
            self._run.last, self.state, metrics={}, averaged=False, training_state=training_state
        )

    def resume(self) -> None:
        """Restore everything but the weights from the run's last checkpoint.

        Where the run has lost its best checkpoint, the best score is forgotten.

        Raises:
            UserError: if that belongs to other data or another configuration, or is damaged.
        """
        assert self._run is not None
        state = convert_state(self.task.load_training_state(self._run.last))
        if "train_state" not in state:
            raise UserError(
                f"{self._run.folder}: holds a model without a training to resume; "
                "start a new training"
            )
        self.task.check_resumable(self._run.last)
        try:
            self.state = TrainState(**state["train_state"])
            self.state.adapt(self.task.steps_per_epoch)
            self.accumulator.load_state_dict(state["accumulator"])
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            restore_random_states(state["random"])
            if not self._run.has("best"):
                # The next validation is then the best one known.
                self.state.best = None
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{self._run.last}: its state does not fit this run ({error}); start a new training"
            ) from error
        self._saved, self._saved_at = self._progress, self.state.seconds

    def _is_due(self, every: int | None) -> bool:
        return is_due(self.state, every, self.task.steps_per_epoch)

    def _checkpoint_is_old(self) -> bool:
        seconds = self.task.seconds_between_checkpoints
        return seconds is not None and self.state.seconds - self._saved_at > seconds

    # -- several processes ------------------------------------------------------------------------

    @property
    def stop_signal(self) -> signal.Signals | None:
        """The signal to stop at; with several processes, the one that all know of."""
        alone = self.process_group.world_size == 1
        return self.interruption.signal if alone else self._agreed_signal

    def _sync_ranks(self) -> None:
        """Agree on one time and one signal, so that all processes take the same branches."""
        own_signal = self.interruption.signal or 0
        seconds = time.monotonic() - self._started
        self.state.seconds, number = self.process_group.all_reduce_max(seconds, own_signal)
        self._agreed_signal = signal.Signals(int(number)) if number else None

    # -- records ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reporting(self) -> Generator[None, None, None]:
        """A context in which callbacks are active and metrics.jsonl is open."""
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:
                stack.callback(callback.on_fit_end)
                callback.on_fit_start(self.task, self.state)
            if self._writes:
                assert self._run is not None
                log = MetricsLog(self._run, self.state.step)
                self._log = stack.enter_context(contextlib.closing(log))
            yield

    @contextlib.contextmanager
    def _checked(self, batch: Any) -> Generator[None, None, None]:
        """The task's context around a step, and anomaly detection."""
        names = self.task.batch_names(batch)
        anomalies = self._anomalies
        with (
            nullcontext() if anomalies is None else anomalies.watching(self.state.step + 1, names),
            self.task.step_context(batch),
        ):
            yield

    def _check_skipped(self, batch: Any) -> None:
        """The one place where training waits for the device: once for each record."""
        in_a_row = self.accumulator.skipped()[1]
        if in_a_row < self.train.skip_limit:
            return
        first = self.accumulator.first_nonfinite(in_a_row=True)
        assert first is not None
        raise UserError(
            f"{in_a_row} steps in a row had a loss or gradient that is not finite, "
            f"the first of them step {first[0]} in its {first[1]}, "
            f"the last one on {shown_names(self.task.batch_names(batch))}; "
            "look at these, lower train.learning_rate or search with --detect-anomaly"
        )

    def _record_steps(self) -> None:
        """Write the means over the steps since the last record."""
        first_nonfinite = self.accumulator.first_nonfinite()
        numbers: dict[str, Any] = {
            **self.task.summarize(self.accumulator.read(), self.state.interval_seconds),
            **self._weights,
            "learning_rate": self._rate,
            "skipped": self.accumulator.skipped()[0],
        }
        if first_nonfinite is not None:
            numbers["bad_step"], numbers["bad_term"] = first_nonfinite
        self.accumulator.clear()
        self.state.interval_seconds = 0.0
        record = self._write_record("train", numbers)
        for callback in self.callbacks:
            callback.on_train_record(record)

    def _write_record(self, kind: str, numbers: Numbers) -> dict[str, Any]:
        state = self.state
        record = {
            "kind": kind,
            "step": state.step,
            "epoch": state.epoch + state.batch / self.task.steps_per_epoch,
            "seconds": round(state.seconds, 3),
            **numbers,
        }
        if self._log is not None:
            self._log.append(record)
        return record


class Budget:
    """How long to train: epochs, steps or minutes, whichever ends first.

    Args:
        train: holds the limits.
        steps_per_epoch: batches in a pass over the data.
    """

    def __init__(self, train: TrainConfig, steps_per_epoch: int) -> None:
        self.epoch_steps = None if train.epochs is None else train.epochs * steps_per_epoch
        self.max_steps = train.max_steps
        self.seconds = None if train.max_minutes is None else 60.0 * train.max_minutes

    def fraction(self, state: TrainState) -> float:
        """How much of the training is done, 0 to 1; always 0 where nothing limits it."""
        limits = (
            (state.step - state.extra_steps, self.epoch_steps),
            (state.step, self.max_steps),
            (state.seconds, self.seconds),
        )
        return min(1.0, max(0.0 if limit is None else done / limit for done, limit in limits))

    def seconds_left(self, state: TrainState) -> float | None:
        """An estimate from the speed so far; None without a limit or before the first step."""
        fraction = self.fraction(state)
        return None if fraction == 0 else state.seconds * (1 - fraction) / fraction


def is_due(state: TrainState, every: int | None, steps_per_epoch: int) -> bool:
    """Whether an action that happens every so many steps happens now.

    Args:
        state: where the training is.
        every: steps between the actions; None for the end of epochs, at least 50 steps apart.
        steps_per_epoch: batches in a pass over the data.
    """
    if every is not None:
        return state.step % every == 0
    every = steps_per_epoch * -(-MIN_STEPS_BETWEEN_VALIDATIONS // steps_per_epoch)
    return (state.step - state.extra_steps) % every == 0
