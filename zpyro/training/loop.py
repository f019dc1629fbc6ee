"""The training loop."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.models import SequenceModel
from zpyro.training.anomaly import AnomalyDetection
from zpyro.training.config import Config
from zpyro.training.loggers import NullLogger, Reporter
from zpyro.training.runs import Run
from zpyro.training.trainer import Training, ValidationInterrupted

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Dataset


def fit(
    module: SequenceModel,
    dataset: Dataset,
    config: Config,
    *,
    run: Run | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    detect_anomaly: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Outcome:
    """Train a model on a data set.

    Several processes (see :mod:`zpyro.distributed.processes`) give the weights of one: batches are dealt out among
    them, noise is that of the whole batch, gradients have one normalizer. The first one alone
    writes and reports; time and signals are agreed upon after every step.

    Args:
        module: the model, on the device to train on; it is left with the last weights.
        dataset: gives the batches and, held out, the validation.
        config: objective, optimizer and budget.
        run: the run directory for metrics and checkpoints; nothing is written without one.
        resume: go on from the run's last checkpoint, which the module's weights came from.
        reporter: told about progress.
        detect_anomaly: stop at the first number that is not finite and name it; slow.
        process_group: this process among those that train together, all with the same arguments.

    Raises:
        UserError: if many steps in a row are not finite, there is nothing to train or validate
            on, another training writes into the run directory, or it cannot be written.
    """
    with nullcontext() if run is None else run.locked():
        if detect_anomaly:
            # A recorded step cannot be looked into.
            config = replace(config, train=replace(config.train, cuda_graph=False))
        reporter = (
            reporter if reporter is not None and process_group.is_main_process else NullLogger()
        )
        training = Training(module, dataset, config, run, reporter, process_group)
        if detect_anomaly:
            training.anomalies = AnomalyDetection(module, training.tally)
        if resume:
            training.restore()
        return _loop(training, config)


def _loop(training: Training, config: Config) -> Outcome:
    """Steps, with validations and checkpoints between them, up to the end or a signal."""
    with training.interruption, training.metrics.opened(training.position.step):
        try:
            training.run_pending_validation()
            batches = training.batches()
            while not training.finished() and not training.heard:
                training.step(next(batches))
                if training.due(config.train.validate_every):
                    training.validate()
                if training.due(config.train.checkpoint_every):
                    training.save()
            if not training.heard:
                training.validate()
        except ValidationInterrupted:
            # Whoever sends a signal may not wait: resuming begins with this validation.
            pass
        training.save()
    position = training.position
    return Outcome(
        position.step,
        position.epoch,
        position.seconds,
        position.best,
        training.tally.skipped()[0],
        training.heard,
    )


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
