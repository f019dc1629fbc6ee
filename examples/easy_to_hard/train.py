"""The training loop: one page, resumable at any step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.training.interruption import Interruption

from . import sweep
from .run_folder import RunFolder, Settings
from .solvers import Solver
from .tasks import Examples, Preset, Request, Task

SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Reporter(Protocol):
    """Told how it goes."""

    def step(self, fraction: float, loss: float, epoch: float) -> None:
        """A step was taken; ``fraction`` of the training is done."""

    def line(self, text: str) -> None:
        """Something worth a line."""


MASTERED = 0.1
"""Nats per scored cell; guessing between two answers is 0.69."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: steps taken.
        seconds: spent on them, over all sessions.
        skipped: steps whose loss or gradient was not finite, and which changed no weight.
        recent_loss: a moving mean of the loss, nats per scored cell.
        mastered: steps at which that was below :data:`MASTERED`.
    """

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    recent_loss: float = 1.0
    mastered: int = 0


class Trainer:
    """Trains a solver on a task's easy problems.

    Args:
        task: what to learn.
        settings: of the run.
        solver: what learns.
        run: where checkpoints and metrics go.
        reporter: receives progress.
        max_minutes: in place of the preset's, if not None.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        solver: Solver,
        run: RunFolder,
        reporter: Reporter,
        max_minutes: float | None = None,
    ) -> None:
        self.task, self.settings, self.solver = task, settings, solver
        self.run, self.reporter = run, reporter
        self.preset = settings.preset
        self.limit = self.preset.max_minutes if max_minutes is None else max_minutes
        self.device = next(solver.parameters()).device
        self.parameters = list(solver.parameters())
        self.optimizer = make_optimizer(solver, self.preset)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.progress = Progress()
        self.total = 0
        self._order: tuple[int, Tensor] = -1, torch.empty(0)

    def fit(self) -> bool:
        """Train to the end of the epochs or the minutes; False where Ctrl-C came first."""
        data = self.examples("train", self.preset.train_size, self.preset.train_count)
        batches = math.ceil(len(data.inputs) / self.preset.batch_size)
        self.total = self.preset.epochs * batches
        saved = time.monotonic()
        with Interruption() as interruption:
            while self.fraction() < 1 and interruption.signal is None:
                started = time.monotonic()
                epoch, batch = divmod(self.progress.step, batches)
                loss = self._step(self._batch(data, epoch, batch), epoch)
                self.progress.seconds += time.monotonic() - started
                self.reporter.step(self.fraction(), loss, self.progress.step / batches)
                if self.progress.step % batches == 0:
                    self._log(epoch + 1, loss)
                if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self.fraction() < 1:
            return False
        self.choose_rule()
        return True

    def fraction(self) -> float:
        """How much of the training is done, 0 to 1, by steps or by minutes."""
        steps = self.progress.step / self.total
        minutes = 0.0 if self.limit is None else self.progress.seconds / 60 / self.limit
        return min(1.0, max(steps, minutes))

    def examples(self, split: str, size: int, count: int) -> Examples:
        """Problems of this run."""
        return self.task.build(request_of(self.settings, split, size, count))

    def choose_rule(self) -> None:
        """Find on validation problems how long to think, with the weights that are tested."""
        self.run.load_weights(self.solver, averaged=True)
        limit = sweep.LONGEST_SEARCH * self.preset.iterations
        sweeps = []
        for size in self.preset.valid_sizes or (self.preset.train_size,):
            held_out = self.examples("valid", size, self.preset.valid_count)
            found = sweep.sweep(self.solver, self.task, held_out, size, limit)
            best = max(found.accuracy)
            self.reporter.line(
                f"held-out {self.task.unit} {size}: {best:.1%} solved, "
                f"first after {found.first_best} iterations"
            )
            self.run.log({"valid": size, "accuracy": best, "iterations": found.first_best})
            sweeps.append(found)
        self.run.write_rule(sweep.choose(self.task, sweeps, self.solver.longest))
        self.run.load_weights(self.solver, averaged=False)

    # -- one step -----------------------------------------------------------------------------

    def _batch(self, data: Examples, epoch: int, batch: int) -> Examples:
        """Batch number ``batch`` of an epoch's own order."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(data.inputs), generator=generator)
        size = self.preset.batch_size
        rows = self._order[1][batch * size : (batch + 1) * size]
        inputs, targets = data.inputs[rows].to(self.device), data.targets[rows].to(self.device)
        progress = self.fraction(), self.progress.mastered
        length = grown_length(self.preset, *progress, targets.shape[-1])
        return Examples(inputs[..., :length].float(), targets[..., :length].long())

    def _step(self, batch: Examples, epoch: int) -> float:
        for group in self.optimizer.param_groups:
            rate = group["share"] * self.preset.learning_rate
            group["lr"] = rate * rate_factor(self.preset, epoch, self.fraction())
        grown = not self.preset.growing or batch.targets.shape[-1] >= self.preset.train_size
        self.solver.at(self.fraction(), grown=grown)
        loss = self.solver.loss(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip = math.inf if self.preset.clip_norm is None else self.preset.clip_norm
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        self.progress.step += 1
        value = float(loss.detach())
        if math.isfinite(value) and bool(norm.isfinite()):
            self.optimizer.step()
            self._update_average()
            self.progress.recent_loss += 0.2 * (value - self.progress.recent_loss)
            self.progress.mastered += self.progress.recent_loss < MASTERED
        else:
            self.progress.skipped += 1
        return value

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.preset.average:
            return
        # Young averages forget fast: the weights of the start are worth nothing.
        decay = min(self.preset.average, self.progress.step / (self.progress.step + 10))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter, 1 - decay)

    def _log(self, epoch: int, loss: float) -> None:
        record = {"epoch": epoch, "step": self.progress.step, "loss": loss}
        self.run.log({**record, "seconds": round(self.progress.seconds, 1)})
        minutes = self.progress.seconds / 60
        self.reporter.line(f"epoch {epoch}  {minutes:.1f} min  loss {loss:.4f}")

    # -- checkpoints --------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        names = [name for name, _ in self.solver.named_parameters()]
        average = dict(zip(names, self.average, strict=True)) if self.preset.average else {}
        state = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": vars(self.progress),
        }
        self.run.save(self.solver, average, state)

    def restore(self) -> None:
        """Go on from the checkpoint, as if it had never stopped.

        Raises:
            UserError: if there is none, or it was damaged.
        """
        self.run.load_weights(self.solver, averaged=False)
        average, state = self.run.load_state(self.solver)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.progress = Progress(**state["progress"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.run.folder}: its checkpoint is damaged ({error})") from error
        for kept, (name, _) in zip(self.average, self.solver.named_parameters(), strict=True):
            if name in average:
                kept.copy_(average[name])


def request_of(settings: Settings, split: str, size: int, count: int) -> Request:
    """The request for problems of a run."""
    source = None if settings.source is None else Path(settings.source)
    return Request(split, size, count, settings.seed, source, settings.preset.options)


def make_optimizer(solver: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """The preset's optimizer; groups carry their ``share`` of the learning rate.

    Raises:
        UserError: for an optimizer that is neither "adam" nor "sgd".
    """
    rate, decay = preset.learning_rate, preset.weight_decay
    iterated, once = [], []
    for name, parameter in solver.named_parameters():
        (iterated if {"recall", "block"} & set(name.split(".")) else once).append(parameter)
    share = 1 / preset.iterations if preset.throttle else 1.0
    parameters = [
        {"params": group, "share": each}
        for group, each in ((once, 1.0), (iterated, share))
        if group
    ]
    if preset.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    if preset.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9)
    raise UserError(f"optimizer {preset.optimizer!r} is unknown; choose adam or sgd")


def grown_length(preset: Preset, fraction: float, mastered: int, full: int) -> int:
    """How many cells of its sequences a training uses.

    One more with every step at which the shorter ones were mastered: a network that has not found
    the rule on few cells does not find it on many. Where it never does, sequences grow all the
    same, slowly at first.

    Args:
        preset: says from how many cells, and by which share of the training at the latest.
        fraction: of the training that is done.
        mastered: see :class:`Progress`.
        full: cells of the sequences.
    """
    if fraction >= preset.growing:
        return full
    shortest = min(preset.shortest, full)
    due = int((full - shortest) * (fraction / preset.growing) ** 2)
    return min(full, shortest + max(due, mastered))


def rate_factor(preset: Preset, epoch: int, fraction: float) -> float:
    """The learning rate relative to the preset's, after a fraction of the training."""
    warm = 1 - math.exp(-(epoch + 1) / preset.warmup) if preset.warmup else 1.0
    if preset.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * fraction))
    return warm * 0.1 ** sum(epoch >= milestone for milestone in preset.milestones)
