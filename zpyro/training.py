"""The training loop."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zpyro import checkpoint
from zpyro.anomalies import AnomalyDetection, shown_names
from zpyro.building import build_objective
from zpyro.checkpoint import Checkpoint, data_facts, some_start_frames
from zpyro.config import Config
from zpyro.errors import UserError
from zpyro.evaluation import Evaluation, evaluate
from zpyro.interruption import Interruption
from zpyro.models import SequenceModel
from zpyro.optimizer import Optimizer
from zpyro.position import Budget, Clock, Position, due
from zpyro.ranks import ALONE, Ranks, Share, whole
from zpyro.reporting import Reporter, Silent
from zpyro.runs import MetricsLog, Run
from zpyro.seeding import random_states, restore_random_states
from zpyro.tally import Tally, means
from zpyro.training_step import TrainingStep

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Batch, Dataset

VALIDATION_SEED = 1
"""Of the noise in every validation, whatever the training's seed, so that curves compare."""


def fit(
    module: SequenceModel,
    dataset: Dataset,
    config: Config,
    *,
    run: Run | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    detect_anomaly: bool = False,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train a model on a data set.

    Several processes (see :mod:`zpyro.ranks`) give the weights of one: batches are dealt out among
    them, noise is that of the whole batch, gradients have one normaliser. The first one alone
    writes and reports; time and signals are agreed upon after every step.

    Args:
        module: the model, on the device to train on; it is left with the last weights.
        dataset: gives the batches and, held out, the validation.
        config: objective, optimiser and budget.
        run: the run directory for metrics and checkpoints; nothing is written without one.
        resume: go on from the run's last checkpoint, which the module's weights came from.
        reporter: told about progress.
        detect_anomaly: stop at the first number that is not finite and name it; slow.
        ranks: this process among those that train together, all with the same arguments.

    Raises:
        UserError: if many steps in a row are not finite, there is nothing to train or validate
            on, another training writes into the run directory, or it cannot be written.
    """
    with nullcontext() if run is None else run.locked():
        if detect_anomaly:
            # A recorded step cannot be looked into.
            config = replace(config, train=replace(config.train, cuda_graph=False))
        reporter = reporter if reporter is not None and ranks.leader else Silent()
        training = _Training(module, dataset, config, run, reporter, ranks)
        if detect_anomaly:
            training.anomalies = AnomalyDetection(module, training.tally)
        if resume:
            training.restore()
        return _loop(training, config)


def _loop(training: _Training, config: Config) -> Outcome:
    """Steps, with validations and checkpoints between them, up to the end or a signal."""
    with training.interruption, training.reporter, training.open_log():
        try:
            training.catch_up()
            batches = training.batches()
            while not training.finished() and not training.heard:
                training.step(next(batches))
                if training.due(config.train.validate_every):
                    training.validate()
                if training.due(config.train.checkpoint_every):
                    training.save()
            if not training.heard:
                training.validate()
        except _PutOffError:
            # Whoever sends a signal may not wait: resuming begins with this validation.
            pass
        training.save()
    return training.outcome(training.heard)


class _PutOffError(Exception):
    """A signal came within a validation, which is left for later."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: training steps in all.
        epoch: passes over the data completed.
        seconds: spent training.
        best: the best validation bound, nats per sequence; None before the first.
        skipped: steps skipped because they were not finite.
        interrupted: the signal that ended it early, or None.
    """

    step: int
    epoch: int
    seconds: float
    best: float | None
    skipped: int
    interrupted: signal.Signals | None


class _Training:
    """One training: where it stands, and what happens at each turn of the loop."""

    def __init__(
        self,
        module: SequenceModel,
        dataset: Dataset,
        config: Config,
        run: Run | None,
        reporter: Reporter,
        ranks: Ranks,
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
        if config.train.carry_state and ranks.count > 1:
            raise UserError("train.carry_state is for one process; start it without torchrun")
        self.ranks = ranks
        self.module = module.train()
        self.module.skip_gradient = config.objective.skip_gradient
        self.dataset = dataset
        self.train = config.train
        self.config = config
        self.run = run
        # The others read checkpoints, and write nothing.
        self.writes = run is not None and ranks.leader
        self.reporter = reporter
        self.steps_per_epoch = dataset.train.num_batches(config.train.batch_size)
        self.budget = Budget(config.train, self.steps_per_epoch)
        self.elbo = build_objective(config.objective, self.steps_per_epoch)
        self.optimizer = Optimizer(module, config.train)
        self.tally = Tally(next(module.parameters()).device)
        self.take_step = TrainingStep(
            module,
            self.elbo(module.model, module.chosen_guide),
            self.optimizer,
            self.tally,
            config.train,
            dataset.train.lengths,
            ranks,
        )
        self.position = Position()
        self.saved: int | None = None
        self.clock = Clock(0.0)
        self.log: MetricsLog | None = None
        self.anomalies: AnomalyDetection | None = None
        self.interruption = Interruption()
        self._agreed: signal.Signals | None = None

    def restore(self) -> None:
        """Take up the position, the optimiser and the random states of the last checkpoint."""
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
        if known != (data_facts(self.dataset), self.dataset.vocabulary):
            raise UserError(
                f"{self.run.folder}: the data are not those it was trained on; "
                "point --data at those, unchanged"
            )
        try:
            self.position = Position.from_state(state["position"])
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

    def open_log(self) -> AbstractContextManager[object]:
        """Go on with the metrics from the present step."""
        if self.run is None or not self.writes:
            return nullcontext()
        self.log = MetricsLog(self.run, self.position.step)
        return contextlib.closing(self.log)

    def batches(self) -> Iterator[Share]:
        """Batches without end, from the present position on."""
        first = self.position.batch
        for epoch in itertools.count(self.position.epoch):
            yield from self._pass(epoch, first)
            first = 0

    def _pass(self, epoch: int, first: int) -> Iterator[Share]:
        size, seed, sequences = self.train.batch_size, self.train.seed, self.dataset.train
        if self.train.carry_state:
            rows = sequences.stream_batches(size, seed=seed, epoch=epoch)
            return map(whole, itertools.islice(rows, first, None))
        bucketed = self.train.bucketed
        groups = sequences.groups(size, shuffle=True, seed=seed, epoch=epoch, bucketed=bucketed)
        return map(partial(self.ranks.share, sequences), groups[first:])

    def step(self, share: Share) -> None:
        """One step of the optimiser, or none if its loss or gradient is not finite."""
        batch = share.batch
        started = time.monotonic()
        position = self.position
        self.elbo.step = position.step
        anomalies = self.anomalies
        with nullcontext() if anomalies is None else anomalies.watching(position.step + 1, batch):
            self.take_step(share, self.optimizer.learning_rate(self.budget.fraction(position)))
        position.advance(self.steps_per_epoch)
        logs = position.step % self.train.log_every == 0
        if logs:
            self._check_skipped(batch)
        position.interval_seconds += time.monotonic() - started
        self._agree()
        if logs:
            self._record()
        done, left = self.budget.fraction(position), self.budget.seconds_left(position)
        self.reporter.step(position, done, left)

    def _agree(self) -> None:
        """One time and one signal for all processes, so that all take the same turns."""
        heard = self.interruption.signal or 0
        seconds, number = self.ranks.largest(self.clock.seconds(), heard)
        self.position.seconds = seconds
        self._agreed = signal.Signals(int(number)) if number else None

    @property
    def heard(self) -> signal.Signals | None:
        """The signal to stop at: of several processes the one that all know of."""
        return self.interruption.signal if self.ranks.count == 1 else self._agreed

    def catch_up(self) -> None:
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
                on_batch=self._validating if self.ranks.count == 1 else None,
                ranks=self.ranks,
            )
            numbers = _numbers(result)
            better = numbers["elbo"] is not None and (
                position.best is None or result.elbo > position.best
            )
            if better and self.run is not None and self.writes:
                best = self._checkpoint(numbers, averaged=average is not None)
                checkpoint.save(self.run.best, best)
        position.validated = position.step
        self._agree()
        if better:
            position.best, position.without_better = result.elbo, 0
        else:
            position.without_better += 1
            self._follow_plateau()
        record = {**self._stamp("valid"), **numbers, "best": better}
        self._write(record)
        self.reporter.valid(record)

    def save(self) -> None:
        """Write the last checkpoint."""
        if self.run is None or self.log is None or self.saved == self.position.step:
            return
        self.log.flush()
        self.position.seconds = self.clock.seconds()
        state = {
            "position": self.position.state(),
            "tally": self.tally.state(),
            "carried": self.take_step.state(),
            "optimizer": self.optimizer.state(),
            "random": random_states(),
        }
        last = self._checkpoint({}, averaged=False)
        checkpoint.save(self.run.last, last, state, keep_previous=True)
        self.saved = self.position.step

    def due(self, every: int | None) -> bool:
        """Whether what happens every so many steps happens now."""
        return due(self.position, every, self.steps_per_epoch)

    def finished(self) -> bool:
        """Whether the budget is spent, or patience is."""
        patience = self.train.patience
        tired = patience is not None and self.position.without_better >= patience
        return tired or self.budget.fraction(self.position) >= 1.0

    def outcome(self, interrupted: signal.Signals | None) -> Outcome:
        """How it ended."""
        position = self.position
        return Outcome(
            position.step,
            position.epoch,
            position.seconds,
            position.best,
            self.tally.skipped()[0],
            interrupted,
        )

    # -- parts of a turn --------------------------------------------------------------------------

    def _validating(self, done: int, total: int) -> None:
        self.reporter.validating(done, total)
        self._check_signal()

    def _check_signal(self) -> None:
        if self.heard is not None:
            raise _PutOffError

    def _check_skipped(self, batch: Batch) -> None:
        """The one place where a training waits for the device: once an interval of the log."""
        in_a_row = self.tally.skipped()[1]
        if in_a_row < self.train.skip_limit:
            return
        first = self.tally.first_bad(in_a_row=True)
        assert first is not None
        raise UserError(
            f"{in_a_row} steps in a row had a loss or gradient that is not finite, "
            f"the first of them step {first[0]} in its {first[1]}, "
            f"the last one on {shown_names(batch.names)}; "
            "look at these, lower train.learning_rate or search with --detect-anomaly"
        )

    def _record(self) -> None:
        kl_weight, auxiliary_weight, reverse_weight = self._newest_weights()
        record = {
            **self._stamp("train"),
            **means(self.tally.read(), self.position.interval_seconds),
            "kl_weight": kl_weight,
            "auxiliary_weight": auxiliary_weight,
            "reverse_weight": reverse_weight,
            "learning_rate": self.optimizer.learning_rate(self.budget.fraction(self.position)),
            "skipped": self.tally.skipped()[0],
            **_blame(self.tally.first_bad()),
        }
        self.tally.clear()
        self.position.interval_seconds = 0.0
        self._write(record)
        self.reporter.train(record)

    def _newest_weights(self) -> tuple[float, float, float]:
        """The objective's weights in the newest step."""
        self.elbo.step = self.position.step - 1
        return self.elbo.weights()

    def _stamp(self, kind: str) -> dict[str, Any]:
        position = self.position
        return {
            "kind": kind,
            "step": position.step,
            "epoch": position.epoch + position.batch / self.steps_per_epoch,
            "seconds": round(position.seconds, 3),
        }

    def _write(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.append(record)

    def _follow_plateau(self) -> None:
        plateau = self.train.learning_rate_schedule == "plateau"
        if plateau and self.position.without_better % self.train.plateau_patience == 0:
            self.optimizer.reduce()

    def _checkpoint(self, metrics: dict[str, float | int | None], *, averaged: bool) -> Checkpoint:
        return Checkpoint(
            module=self.module,
            model=self.config.model,
            data=data_facts(self.dataset),
            start=some_start_frames(self.dataset.train, self.train.seed),
            step=self.position.step,
            epoch=self.position.epoch,
            metrics=metrics,
            averaged=averaged,
            vocabulary=self.dataset.vocabulary,
        )


def _blame(first_bad: tuple[int, str] | None) -> dict[str, Any]:
    """What a record says of the first step in its interval that was not finite, if any."""
    return {} if first_bad is None else {"bad_step": first_bad[0], "bad_term": first_bad[1]}


def _numbers(result: Evaluation) -> dict[str, float | int | None]:
    """The scalars of an evaluation; those that are not finite as None."""
    values = {name: value for name, value in vars(result).items() if isinstance(value, int | float)}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
