"""What the commands do: train, test and show a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError
from zpyro.io.locking import locked
from zpyro.training.building import choose_device
from zpyro.training.callbacks import Pace

from . import building, tasks
from .run_folder import RunFolder, Settings
from .solvers import Solver
from .sweep import Rule, Sweep, sweep
from .tasks import Preset, SolutionTrace, Task
from .train import Trainer, request_of

BEYOND = 1.5
"""Where it matters, tests think so many times longer than the rule says."""


class ConsoleReporter:
    """A bar in a terminal, and lines in either case, on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=1.0)
        self.pace = Pace()

    def __enter__(self) -> ConsoleReporter:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, fraction: float, loss: float, epoch: float) -> None:
        now = f"epoch {epoch:.1f}  loss {loss:.4f}"
        self.bar.update(self.task, completed=fraction, description=now)
        self._now_and_then(f"{fraction:.0%}  {now}")

    def _now_and_then(self, text: str) -> None:
        """Without a terminal a line every ten seconds, where else a bar moves."""
        if not self.console.is_terminal and self.pace.due():
            self.line(text)

    def line(self, text: str) -> None:
        self.pace.written()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def searching(self, done: int, total: int) -> None:
        """So many problems of a sweep are done."""
        self.bar.update(self.task, completed=done / total, description="thinking")
        self._now_and_then(f"thinking about {done:,} of {total:,} problems")


def train(name: str, **options: Any) -> None:
    """Train a run, new or resumed; arguments are the options of the command."""
    task = tasks.load(name)
    resume: Path | None = options["resume"]
    with ConsoleReporter() as reporter:
        if resume is None:
            settings = _settings(task, options)
            device = choose_device(options["device"])
            seed_everything(settings.seed)
            solver = _solver(task, settings).to(device)
            # Before the folder is made: a mistake about the data leaves nothing behind.
            task.build(request_of(settings, "train", settings.preset.train_size, 1))
            run = RunFolder.create(options["out"], settings)
        else:
            run, settings = _opened(task, resume)
            solver = _solver(task, settings).to(choose_device(options["device"]))
        with locked(run.folder):
            trainer = Trainer(task, settings, solver, run, reporter, options["max_minutes"])
            if resume is not None:
                trainer.restore()
            weights = sum(parameter.numel() for parameter in solver.parameters())
            reporter.line(f"{name}: {settings.solver} with {weights:,} weights; run {run.folder}")
            if not trainer.fit():
                reporter.line(f"stopped and saved; continue with train --resume {run.folder}")
                raise SystemExit(130)
            skipped = trainer.progress.skipped
            reporter.line(
                f"{trainer.progress.step} steps in {trainer.progress.seconds / 60:.1f} min"
                + (f", {skipped} skipped as not finite" if skipped else "")
                + f"; next: zpyro example {name} test {run.folder}"
            )


def test(
    name: str,
    *,
    run: Path,
    sizes: str | None,
    count: int,
    iterations: int | None,
    seed: int | None,
    data: Path | None,
    skip_bad: bool,
    device: str,
    picture: Path | None,
) -> Iterator[tuple[Sweep, int]]:
    """A sweep for each size, and the number of iterations that counts for it."""
    task = tasks.load(name)
    folder, settings = _opened(task, run)
    settings = _with_data(settings, seed, data, skip_bad)
    solver = _loaded(task, folder, settings).to(choose_device(device))
    rule = None if iterations is not None else folder.rule()
    for size in _sizes(sizes, settings):
        request = request_of(settings, "test", size, count)
        examples = task.build(request)
        thinking = _iterations(iterations, rule, task, size, solver)
        # A solver that stops by itself must be free to stop later than the rule would.
        further = picture is not None or settings.depth == "latent"
        longest = math.ceil(BEYOND * thinking) if further else thinking
        with ConsoleReporter() as reporter:
            found = sweep(solver, task, examples, size, longest, reporter.searching)
        if task.players is not None:
            found = dataclasses.replace(found, players=task.players(request))
        yield found, min(thinking, len(found.accuracy))


def show(
    name: str,
    *,
    run: Path,
    size: int | None,
    number: int,
    iterations: int | None,
    out: Path | None,
    data: Path | None,
    skip_bad: bool,
) -> None:
    """Print (or draw) one problem being solved."""
    task = tasks.load(name)
    folder, settings = _opened(task, run)
    settings = _with_data(settings, None, data, skip_bad)
    size = settings.preset.train_size if size is None else size
    solver = _loaded(task, folder, settings)
    rule = None if iterations is not None else folder.rule()
    thinking = _iterations(iterations, rule, task, size, solver)
    examples = task.build(request_of(settings, "test", size, number + 1))
    if len(examples.inputs) <= number:
        raise UserError(f"--number {number}: there are only {len(examples.inputs)} problems")
    inputs, targets = examples.inputs[number : number + 1], examples.targets[number : number + 1]
    solver.eval()
    with torch.no_grad():
        answers = [answer.logits for answer in solver.answers(inputs.float(), thinking)]
    console = Console(soft_wrap=True, highlight=False)
    for line in task.show(SolutionTrace(inputs, targets, answers, out)):
        console.print(line)


# -- what test prints and draws -------------------------------------------------------------------


def record(found: Sweep, iterations: int) -> dict[str, Any]:
    """A size's line of JSON."""
    values: dict[str, Any] = {
        "size": found.size,
        "iterations": iterations,
        "accuracy": found.accuracy[iterations - 1],
        "count": found.count,
        "confident_accuracy": found.confident[iterations - 1],
    }
    if found.stopped is not None:
        values["stopped_accuracy"] = found.stopped
        values["stopped_iterations"] = found.stopped_after
    if found.players:
        values["players"] = dict(found.players)
    return values


def print_table(name: str, run: Path, found: Sequence[tuple[Sweep, int]]) -> None:
    """A row for each size."""
    own = any(each.stopped is not None for each, _ in found)
    table = Table(title=f"{name}, {run}", title_justify="left")
    for heading in ("size", "iterations", "solved", "most confident", "problems"):
        table.add_column(heading, justify="right")
    if own:
        table.add_column("own stop", justify="right")
        table.add_column("after", justify="right")
    players = list(found[0][0].players) if found else []
    for player in players:
        table.add_column(player, justify="right")
    for each, iterations in found:
        row = [str(each.size), str(iterations), f"{each.accuracy[iterations - 1]:.2%}"]
        row += [f"{each.confident[iterations - 1]:.2%}", f"{each.count:,}"]
        if own and each.stopped is not None:
            row += [f"{each.stopped:.2%}", f"{each.stopped_after:.1f}"]
        row += [f"{each.players[player]:.2%}" for player in players]
        table.add_row(*row)
    Console().print(table)


def draw(found: Sequence[tuple[Sweep, int]], task: Task, path: Path) -> None:
    """Accuracy against iterations, a curve for each size, a dot where the rule stops.

    Raises:
        UserError: if matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--picture needs matplotlib; pip install zpyro[plots]") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for each, iterations in found:
        steps = range(1, len(each.accuracy) + 1)
        (line,) = axes.plot(steps, each.accuracy, label=f"{each.size} {task.unit}")
        axes.plot([iterations], [each.accuracy[iterations - 1]], "o", color=line.get_color())
    axes.set_xlabel("iterations")
    axes.set_ylabel("solved wholly")
    axes.set_ylim(-0.02, 1.02)
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({error}); choose another file") from error


# -- helpers --------------------------------------------------------------------------------------


def _settings(task: Task, options: dict[str, Any]) -> Settings:
    preset = task.preset(options["preset"])
    if options["epochs"] is not None:
        preset = dataclasses.replace(preset, epochs=options["epochs"])
    preset = _skipping(preset, options["skip_bad"])
    data = options["data"]
    return Settings(
        task.name,
        options["preset"],
        preset,
        options["solver"],
        options["depth"],
        options["seed"],
        None if data is None else str(data.absolute()),
    )


def _solver(task: Task, settings: Settings) -> Solver:
    return building.build(task, settings.preset, settings.solver, settings.depth)


def _loaded(task: Task, folder: RunFolder, settings: Settings) -> Solver:
    solver = _solver(task, settings)
    folder.load_weights(solver, averaged=True)
    return solver


def _opened(task: Task, path: Path) -> tuple[RunFolder, Settings]:
    folder = RunFolder.open(path)
    settings = folder.settings()
    if settings.task != task.name:
        raise UserError(f"{path}: is a run of {settings.task}, not of {task.name}; choose another")
    return folder, settings


def _skipping(preset: Preset, skip_bad: bool) -> Preset:
    """A preset that leaves out bad rows of the user's file, if asked to."""
    if not skip_bad:
        return preset
    return dataclasses.replace(preset, options={**preset.options, "skip_bad": True})


def _with_data(settings: Settings, seed: int | None, data: Path | None, skip_bad: bool) -> Settings:
    settings = dataclasses.replace(settings, preset=_skipping(settings.preset, skip_bad))
    if seed is not None:
        settings = dataclasses.replace(settings, seed=seed)
    return settings if data is None else dataclasses.replace(settings, source=str(data))


def _sizes(text: str | None, settings: Settings) -> tuple[int, ...]:
    if text is None:
        return settings.preset.test_sizes or (settings.preset.train_size,)
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--sizes {text!r}: write whole numbers as in 64,128,512") from error
    return sizes


def _iterations(given: int | None, rule: Rule | None, task: Task, size: int, solver: Solver) -> int:
    if rule is not None:
        return rule.iterations(task, size)
    assert given is not None
    return given if solver.longest is None else min(given, solver.longest)
