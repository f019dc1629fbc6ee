"""Solvers as a :class:`~zpyro.training.TrainingTask`, which the library's trainer runs.

It defines the order of batches, sequences that grow during the training, learning rates of parts,
and the content of checkpoints. The loop, optimizer and averaged weights are the library's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.io import files, manifest, tensor_files, torch_files
from zpyro.nn.devices import to_device
from zpyro.training import StepTerms, TrainConfig, TrainingTask, TrainState
from zpyro.training.checkpoint import MODEL, STATE
from zpyro.training.task import Numbers, Tensors

from .run_folder import AVERAGE, Settings, plain
from .solvers import Solver
from .tasks import Examples, Preset, Task
from .views import turned

SECONDS_BETWEEN_CHECKPOINTS = 60.0
STEPS_BETWEEN_RECORDS = 50
MASTERED = 0.1
"""Nats per scored cell; guessing between two answers is 0.69."""
SCHEDULES = {"cosine": "cosine", "steps": "milestones"}
"""The library's name for each schedule of a preset."""


class SolverTask(TrainingTask[Solver]):
    """A solver and the easy problems of a run.

    Args:
        task: the family of problems.
        settings: of the run.
        solver: the solver, on the device to train on.

    Attributes:
        recent_loss: a moving mean of the loss, nats per scored cell; only if sequences grow.
        mastered: steps at which ``recent_loss`` was below :data:`MASTERED`.

    Example::

        task = SolverTask(tasks.load("prefix-sums"), settings, solver)
        Trainer(task, train_config(settings, task.steps_per_epoch)).fit()
    """

    seconds_between_checkpoints = SECONDS_BETWEEN_CHECKPOINTS

    def __init__(self, task: Task, settings: Settings, solver: Solver) -> None:
        self.task, self.settings, self.model = task, settings, solver
        self.preset = settings.preset
        size, count = self.preset.train_size, self.preset.train_count
        self.examples = task.build(settings.request("train", size, count))
        self.steps_per_epoch = math.ceil(len(self.examples.inputs) / self.preset.batch_size)
        self.device = next(solver.parameters()).device
        self.recent_loss, self.mastered = 1.0, 0
        self._length = self.examples.targets.shape[-1]

    def batches(self, epoch: int, first: int) -> Iterator[Examples]:
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.examples.inputs), generator=generator)
        views = torch.randint(8, (self.steps_per_epoch,), generator=generator).tolist()
        batches = zip(order.split(self.preset.batch_size), views, strict=True)
        for rows, view in itertools.islice(batches, first, None):
            shown = view if self.preset.symmetries else 0
            inputs, targets = self.examples.inputs[rows], self.examples.targets[rows]
            yield Examples(turned(inputs, shown), turned(targets, shown))

    def before_step(self, state: TrainState, fraction: float) -> None:
        del state
        full = self.examples.targets.shape[-1]
        self._length = grown_length(self.preset, fraction, self.mastered, full)
        grown = not self.preset.growing or self._length >= self.preset.train_size
        self.model.at(fraction, grown=grown)

    def inputs(self, batch: Examples) -> tuple[None, Tensors]:
        """No key; inputs (B, channels, *cells) in float32 and targets (B, *cells)."""
        inputs, targets = (to_device(part[..., : self._length], self.device) for part in batch)
        return None, (inputs.float(), targets.long())

    def loss(self, key: None, weights: Tensor, *tensors: Tensor) -> StepTerms:
        del key, weights
        inputs, targets = tensors
        loss = self.model.loss(inputs, targets)
        examples = torch.tensor(len(inputs), device=self.device)
        cells = torch.tensor(targets.numel(), device=self.device)
        detached = loss.detach()
        return StepTerms(loss, {"loss": detached * examples}, examples, cells, (detached,))

    def after_step(self, is_finite: Tensor, outputs: Tensors) -> None:
        # Reading the loss waits for the device, so it is read only if the length depends on it.
        if self.preset.growing and bool(is_finite):
            self.recent_loss += 0.2 * (float(outputs[0]) - self.recent_loss)
            self.mastered += self.recent_loss < MASTERED

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters used once, and those of the iterated layers with their share of the rate."""
        iterated: list[nn.Parameter] = []
        once: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (iterated if {"recall", "block"} & set(name.split(".")) else once).append(parameter)
        return [(once, 1.0), (iterated, 1 / self.preset.iterations if self.preset.throttle else 1)]

    def summarize(self, sums: dict[str, float], seconds: float) -> dict[str, float | None]:
        examples, steps = sums["sequences"], sums["steps"]
        return {
            "loss": sums["loss"] / examples if examples else None,
            "gradient_norm": sums["gradient_norm"] / steps if steps else None,
            "problems_per_second": examples / seconds if seconds else None,
        }

    # -- checkpoints ------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        state: TrainState,
        *,
        metrics: Numbers,
        averaged: bool,
        training_state: dict[str, Any] | None,
    ) -> None:
        training_state = training_state or {}
        average = training_state["optimizer"]["average"] if training_state else None

        def fill(place: Path) -> None:
            parameters = dict(self.model.named_parameters())
            tensor_files.write(place / MODEL, parameters)
            if average is not None:
                names = {parameter: name for name, parameter in parameters.items()}
                ordered = [each for group, _ in self.parameter_groups() for each in group]
                pairs = zip(ordered, average["averages"], strict=True)
                tensor_files.write(place / AVERAGE, {names[each]: value for each, value in pairs})
            torch_files.write(place / STATE, training_state)
            entries = {"step": state.step, "epoch": state.epoch, "averaged": averaged}
            entries = {**entries, "settings": plain(self.settings)}
            manifest.write(place, {**entries, "metrics": dict(metrics)})

        files.replace_folder(folder, fill, keep_previous=bool(training_state))

    def state_dict(self) -> dict[str, float]:
        return {"recent_loss": self.recent_loss, "mastered": self.mastered}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.recent_loss, self.mastered = state["recent_loss"], int(state["mastered"])


def train_config(
    settings: Settings, steps_per_epoch: int, max_minutes: float | None = None
) -> TrainConfig:
    """The library's training settings for a run.

    Args:
        settings: of the run.
        steps_per_epoch: batches in a pass over the data.
        max_minutes: replaces the preset's limit, unless it is None.

    Raises:
        UserError: for an unknown optimizer or schedule.
    """
    preset = settings.preset
    if preset.optimizer not in ("adam", "sgd"):
        raise UserError(f"optimizer {preset.optimizer!r} is unknown; choose adam or sgd")
    if preset.schedule not in SCHEDULES:
        raise UserError(f"schedule {preset.schedule!r} is unknown; choose cosine or steps")
    return TrainConfig(
        epochs=preset.epochs,
        max_minutes=preset.max_minutes if max_minutes is None else max_minutes,
        batch_size=preset.batch_size,
        optimizer=preset.optimizer,
        weight_decay=preset.weight_decay,
        learning_rate=preset.learning_rate,
        learning_rate_schedule=SCHEDULES[preset.schedule],
        milestones=preset.milestones,
        warmup_epochs=preset.warmup,
        learning_rate_floor=0.0,
        adam_epsilon=1e-8,
        clip_norm=math.inf if preset.clip_norm is None else preset.clip_norm,
        average=preset.average,
        log_every=min(steps_per_epoch, STEPS_BETWEEN_RECORDS),
        seed=settings.seed,
        precision=preset.precision,
        # The number of iterations is sampled on the host in every step.
        cuda_graph=False,
    )


def grown_length(preset: Preset, fraction: float, mastered: int, full: int) -> int:
    """How many cells of its sequences a training uses.

    The length grows by one with every step at which shorter sequences were mastered: a network
    that has not found the rule on few cells does not find it on many. Sequences also grow without
    mastery, slowly at first.

    Args:
        preset: the first length, and the share of the training at which the length is full.
        fraction: of the training that is done.
        mastered: see :class:`SolverTask`.
        full: cells of the sequences.
    """
    if fraction >= preset.growing:
        return full
    shortest = min(preset.shortest, full)
    due = int((full - shortest) * (fraction / preset.growing) ** 2)
    return min(full, shortest + max(due, mastered))
