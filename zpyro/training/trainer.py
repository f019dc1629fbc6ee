"""What happens at each turn of the training loop."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from zpyro.datasets.batching import groups
from zpyro.distributed.processes import BatchShard, ProcessGroup, full_batch
from zpyro.distributed.seeding import random_states, restore_random_states
from zpyro.errors import UserError
from zpyro.evaluation import evaluate
from zpyro.models import SequenceModel
from zpyro.training import checkpoint
from zpyro.training.accumulator import MetricAccumulator, means
from zpyro.training.anomaly import AnomalyDetection, shown_names
from zpyro.training.building import build_objective
from zpyro.training.checkpoint import Checkpoint, data_spec, some_start_frames
from zpyro.training.config import Config
from zpyro.training.interruption import Interruption
from zpyro.training.loggers import Reporter
from zpyro.training.metrics import Metrics, finite_numbers
from zpyro.training.optimizer import Optimizer
from zpyro.training.runs import Run
from zpyro.training.step import TrainingStep
from zpyro.training.train_state import Budget, Clock, TrainState, due

if TYPE_CHECKING:
    from zpyro.datasets.batching import Batch
    from zpyro.datasets.sequences import Dataset

VALIDATION_SEED = 1
"""Of the noise in every validation, whatever the training's seed, so that curves compare."""


class ValidationInterrupted(Exception):
    """A signal came within a validation, which is left for later."""


class Training:
    """One training: where it stands, and what happens at each turn of the loop."""

    def __init__(
        self,
        module: SequenceModel,
        dataset: Dataset,
        config: Config,
        run: Run | None,
        reporter: Reporter,
        process_group: ProcessGroup,
    ) -> None:
        if len(dataset.valid) == 0 or len(dataset.train) == 0:
            raise UserError(
                f"data set {dataset.name}: training and validation both need sequences; "
                "give more data or set other fractions"
            )
        if config.train.carry_state and not module.carries_state:
            raise UserError(
                f"train.carry_state means nothing to the model {config.model.name}; leave it out"
            )
        if config.train.carry_state and process_group.world_size > 1:
            raise UserError("train.carry_state is for one process; start it without torchrun")
        self.process_group = process_group
        self.module = module.train()
        self.module.skip_gradient = config.objective.skip_gradient
        self.dataset = dataset
        self.train = config.train
        self.config = config
        self.run = run
        # The others read checkpoints, and write nothing.
        self.writes = run if process_group.is_main_process else None
        self.steps_per_epoch = dataset.train.num_batches(config.train.batch_size)
        self.metrics = Metrics(self.writes, reporter, self.steps_per_epoch)
        self.budget = Budget(config.train, self.steps_per_epoch)
        self.elbo = build_objective(config.objective, self.steps_per_epoch)
        self.optimizer = Optimizer(module, config.train)
        self.tally = MetricAccumulator(next(module.parameters()).device)
        self.take_step = TrainingStep(
            module,
            self.elbo(module.model, module.active_guide),
            self.optimizer,
            self.tally,
            config.train,
            dataset.train.lengths,
            process_group,
        )
        self.position = TrainState()
        self.saved: int | None = None
        self.rate = config.train.learning_rate
        self.clock = Clock(0.0)
        self.anomalies: AnomalyDetection | None = None
        self.interruption = Interruption()
        self._agreed: signal.Signals | None = None

    def restore(self) -> None:
        """Take up the position, the optimizer and the random states of the last checkpoint."""
        assert self.run is not None
        folder = self.run.last
        state = checkpoint.load_state(folder)
        if "position" not in state:
            raise UserError(
                f"{self.run.folder}: holds a model without a training to go on with; "
                "start a new one"
            )
        last = checkpoint.load(folder)
        known = last.data, last.vocabulary
        if known != (data_spec(self.dataset), self.dataset.vocabulary):
            raise UserError(
                f"{self.run.folder}: the data are not those it was trained on; "
                "point --data at those, unchanged"
            )
        try:
            self.position = TrainState.from_state(state["position"])
            self.tally.restore(state["tally"])
            self.take_step.restore(state["carried"])
            self.optimizer.restore(state["optimizer"])
            restore_random_states(state["random"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{self.run.last}: its state does not fit this run ({error}); start a new one"
            ) from error
        self.saved = self.position.step
        self.clock = Clock(self.position.seconds)

    def batches(self) -> Iterator[BatchShard]:
        """Batches without end, from the present position on."""
        first = self.position.batch
        for epoch in itertools.count(self.position.epoch):
            yield from self._pass(epoch, first)
            first = 0

    def _pass(self, epoch: int, first: int) -> Iterator[BatchShard]:
        size, seed, sequences = self.train.batch_size, self.train.seed, self.dataset.train
        if self.train.carry_state:
            rows = sequences.stream_batches(size, seed=seed, epoch=epoch)
            return map(full_batch, itertools.islice(rows, first, None))
        bucketed = self.train.bucketed
        lengths = sequences.lengths
        order = groups(lengths, size, shuffle=True, seed=seed, epoch=epoch, bucketed=bucketed)
        return map(partial(self.process_group.shard, sequences, lengths), order[first:])

    def step(self, share: BatchShard) -> None:
        """One step of the optimizer, or none if its loss or gradient is not finite."""
        batch = share.batch
        started = time.monotonic()
        position = self.position
        self.elbo.step = position.step
        anomalies = self.anomalies
        with nullcontext() if anomalies is None else anomalies.watching(position.step + 1, batch):
            self.rate = self.optimizer.learning_rate(self.budget.fraction(position))
            self.take_step(share, self.rate)
        position.advance(self.steps_per_epoch)
        logs = position.step % self.train.log_every == 0
        if logs:
            self._check_skipped(batch)
        position.interval_seconds += time.monotonic() - started
        self._agree()
        done, left = self.budget.fraction(position), self.budget.seconds_left(position)
        self.metrics.reporter.step(position, done, left)
        if logs:
            self._tell_of_steps()

    def _agree(self) -> None:
        """One time and one signal for all processes, so that all take the same turns."""
        heard = self.interruption.signal or 0
        seconds, number = self.process_group.all_reduce_max(self.clock.seconds(), heard)
        self.position.seconds = seconds
        self._agreed = signal.Signals(int(number)) if number else None

    @property
    def heard(self) -> signal.Signals | None:
        """The signal to stop at: of several processes the one that all know of."""
        return self.interruption.signal if self.process_group.world_size == 1 else self._agreed

    def run_pending_validation(self) -> None:
        """The validation that a signal put off, if it did."""
        if self.position.step and self.due(self.train.validate_every):
            self.validate()

    def validate(self) -> None:
        """Score the held-out sequences, and keep the weights if they are the best so far."""
        position = self.position
        if position.validated == position.step:
            return
        self._check_signal()
        average = self.optimizer.average
        with nullcontext() if average is None else average.applied():
            result = evaluate(
                self.module,
                self.dataset.valid,
                batch_size=self.train.batch_size,
                seed=VALIDATION_SEED,
                on_batch=self._validating if self.process_group.world_size == 1 else None,
                process_group=self.process_group,
            )
            numbers = finite_numbers(result)
            better = numbers["elbo"] is not None and (
                position.best is None or result.elbo > position.best
            )
            if better and self.writes is not None:
                best = self._checkpoint(numbers, averaged=average is not None)
                checkpoint.save(self.writes.best, best)
        position.validated = position.step
        self._agree()
        if better:
            position.best, position.evals_without_improvement = result.elbo, 0
        else:
            position.evals_without_improvement += 1
            self._follow_plateau()
        self.metrics.valid(position, {**numbers, "best": better})

    def save(self) -> None:
        """Write the last checkpoint."""
        if self.writes is None or self.saved == self.position.step:
            return
        self.metrics.flush()
        self.position.seconds = self.clock.seconds()
        state = {
            "position": self.position.state(),
            "tally": self.tally.state(),
            "carried": self.take_step.state(),
            "optimizer": self.optimizer.state(),
            "random": random_states(),
        }
        last = self._checkpoint({}, averaged=False)
        checkpoint.save(self.writes.last, last, state, keep_previous=True)
        self.saved = self.position.step

    def due(self, every: int | None) -> bool:
        """Whether what happens every so many steps happens now."""
        return due(self.position, every, self.steps_per_epoch)

    def finished(self) -> bool:
        """Whether the budget is spent, or patience is."""
        patience = self.train.patience
        tired = patience is not None and self.position.evals_without_improvement >= patience
        return tired or self.budget.fraction(self.position) >= 1.0

    # -- parts of a turn --------------------------------------------------------------------------

    def _validating(self, done: int, total: int) -> None:
        self.metrics.reporter.validating(done, total)
        self._check_signal()

    def _check_signal(self) -> None:
        if self.heard is not None:
            raise ValidationInterrupted

    def _check_skipped(self, batch: Batch) -> None:
        """The one place where a training waits for the device: once an interval of the log."""
        in_a_row = self.tally.skipped()[1]
        if in_a_row < self.train.skip_limit:
            return
        first = self.tally.first_nonfinite(in_a_row=True)
        assert first is not None
        raise UserError(
            f"{in_a_row} steps in a row had a loss or gradient that is not finite, "
            f"the first of them step {first[0]} in its {first[1]}, "
            f"the last one on {shown_names(batch.names)}; "
            "look at these, lower train.learning_rate or search with --detect-anomaly"
        )

    def _tell_of_steps(self) -> None:
        """Means over the steps since the last time."""
        self.elbo.step = self.position.step - 1
        first_nonfinite = self.tally.first_nonfinite()
        record = {
            **means(self.tally.read(), self.position.interval_seconds),
            **self.elbo.weights(),
            "learning_rate": self.rate,
            "skipped": self.tally.skipped()[0],
            **(
                {}
                if first_nonfinite is None
                else {"bad_step": first_nonfinite[0], "bad_term": first_nonfinite[1]}
            ),
        }
        self.tally.clear()
        self.position.interval_seconds = 0.0
        self.metrics.train(self.position, record)

    def _follow_plateau(self) -> None:
        plateau = self.train.learning_rate_schedule == "plateau"
        if plateau and self.position.evals_without_improvement % self.train.plateau_patience == 0:
            self.optimizer.reduce()

    def _checkpoint(self, metrics: dict[str, float | int | None], *, averaged: bool) -> Checkpoint:
        return Checkpoint(
            module=self.module,
            model=self.config.model,
            data=data_spec(self.dataset),
            start=some_start_frames(self.dataset.train, self.train.seed),
            step=self.position.step,
            epoch=self.position.epoch,
            metrics=metrics,
            averaged=averaged,
            vocabulary=self.dataset.vocabulary,
        )
