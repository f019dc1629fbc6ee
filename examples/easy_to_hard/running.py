"""The commands: train, test and show a run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from zpyro.analysis import plots
from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError, pluralize
from zpyro.nn.precision import resolve_precision
from zpyro.training import Outcome, Trainer, choose_device, logger_for
from zpyro.training.runs import MetricsLog, describe_example
from zpyro_cli import common  # pyright: ignore[reportMissingImports]

from . import building, tasks
from .run_folder import RunFolder, Settings
from .solvers import Solver
from .sweep import LONGEST_SEARCH, Rule, Sweep, choose, sweep, sweep_stable
from .tasks import Request, SolutionTrace, Task
from .training_task import SolverTask, train_config
from .views import VIEWS

BEYOND = 1.5
"""Factor on the rule's iterations, for pictures and for solvers that stop by themselves."""


PATIENCE = 2
"""With ``--until-stable``: answers are stable that stay for this many times the iterations of
training."""

_MARKERS = "osD^vPX*"
"""Of the curves in a plot, by number."""

LIMIT = 2
"""With ``--until-stable``: the most iterations, as a multiple of those of the rule."""


def train(name: str, **options: Any) -> None:
    """Train a run, new or resumed; arguments are the options of the command."""
    task = tasks.load(name)
    console = common.console(highlight=False, soft_wrap=True)
    device = choose_device(options["device"])
    resume: Path | None = options["resume"]
    if resume is None:
        settings = _settings(task, options, device)
        seed_everything(settings.seed)
        solver = _solver(task, settings).to(device)
        # Errors in the data appear before the folder is made.
        with common.status(f"{name}: loading problems"):
            task.build(settings.request("train", settings.preset.train_size, 1))
        folder = RunFolder.create(options["out"], settings)
    else:
        folder, settings = open_run(task, resume)
        with folder.run.locked():
            damage = folder.recover()
            if damage is not None:
                console.print(damage)
            folder.check_resumable(settings)
            if options["epochs"] is not None:
                settings = settings.with_epochs(options["epochs"], at_most=True)
                folder.write_settings(settings)
        solver = _solver(task, settings).to(device)
    with folder.run.locked():
        if resume is not None:
            folder.load_weights(solver, averaged=False)
        weights = sum(parameter.numel() for parameter in solver.parameters())
        console.print(f"{name}: {settings.solver} with {weights:,} weights; run {folder.folder}")
        while True:
            solver_task, epochs = SolverTask(task, settings, solver), settings.preset.epochs
            done = _train_pass(solver_task, folder, options["max_minutes"], console)
            if done.exact or done.out_of_time or epochs >= (settings.preset.most_epochs or 0):
                break
            settings = settings.with_epochs(epochs + 1)
            folder.write_settings(settings)
            console.print("training goes on for another pass")
        quoted = shlex.quote(str(folder.folder))
        if not done.exact:
            console.print(f"warning: {_advice(done, task, settings, folder)}")
        console.print(
            f"{pluralize(done.outcome.step, 'step')} in {done.outcome.seconds / 60:.1f} min"
            + (f", {done.outcome.skipped} skipped as not finite" if done.outcome.skipped else "")
            + f"; next: zpyro example {name} test {quoted}"
        )


class _Pass(NamedTuple):
    """What a training up to the end of its passes, or of its time, came to.

    Attributes:
        outcome: of the training.
        learned: whether it solves as many held-out problems as a trained solver does.
        failed: how many failed in the task's sharper test; 0 where there was none.
        limit: minutes that it may take, None for any.
    """

    outcome: Outcome
    learned: bool
    failed: int
    limit: float | None

    @property
    def exact(self) -> bool:
        return self.learned and not self.failed

    @property
    def out_of_time(self) -> bool:
        return self.limit is not None and self.outcome.seconds >= 60 * self.limit


def _train_pass(
    solver_task: SolverTask, folder: RunFolder, max_minutes: float | None, console: Console
) -> _Pass:
    """Train to the end of the passes in the settings, and test on held-out problems.

    A signal ends the process; the run can be resumed.
    """
    config = train_config(solver_task.settings, solver_task.steps_per_epoch, max_minutes)
    trainer = Trainer(solver_task, config, run=folder.run, callbacks=[logger_for(console)])
    if folder.run.has("last"):
        trainer.resume()
    if trainer.is_finished():
        console.print("nothing is left to train in the passes, and the minutes in all, of this run")
    else:
        folder.remove_rule()
    outcome = trainer.fit()
    stopped = f"continue with {folder.resume_command}"
    if outcome.interrupted and not trainer.is_finished():
        console.print(f"stopped and saved; {stopped}")
        raise SystemExit(128 + outcome.interrupted)
    try:
        lines, learned = choose_rule(trainer, folder)
        for line in lines:
            console.print(line)
        failed = count_failures(trainer, folder, console) if learned else 0
    except KeyboardInterrupt:
        console.print(f"stopped; the training is saved, and held-out problems are left; {stopped}")
        raise SystemExit(128 + signal.SIGINT) from None
    return _Pass(outcome, learned, failed, config.max_minutes)


def _advice(done: _Pass, task: Task, settings: Settings, folder: RunFolder) -> str:
    """What a training came short of, and how to go on from it."""
    # Minutes count in all, so that further passes need more of them too.
    more = "" if done.limit is None else f" --max-minutes {2 * done.limit:g}"
    if not done.out_of_time:
        more = f" --epochs {settings.preset.epochs + 1}{more}"
    go_on = f"go on with {folder.resume_command}{more}"
    if done.learned:
        return f"larger problems will not all be solved; {go_on}"
    other = "" if done.out_of_time else ", or start again with another --seed"
    return (
        f"this solver did not learn the task, it solves less than {task.expected:.0%} of the "
        f"problems of the size it was trained on; {go_on}{other}"
    )


def count_failures(trainer: Trainer, folder: RunFolder, console: Console) -> int:
    """How many held-out problems fail in the task's own test of the weights that are tested.

    Args:
        trainer: of a :class:`SolverTask`, after the training.
        folder: for the record.
        console: for the number.

    Returns:
        The number; 0 if the task has no such test, or the solver does not repeat one network.
    """
    solver_task = trainer.task
    assert isinstance(solver_task, SolverTask)
    task, preset = solver_task.task, solver_task.preset
    network = solver_task.model.repeated_network
    if task.failures is None or preset.most_epochs is None or network is None:
        return 0
    held_out = task.build(
        solver_task.settings.request("valid", preset.train_size, task.failures.count)
    )
    with trainer.averaged_weights(), common.progress("checking held-out problems") as on_batch:
        failed = task.failures.find(network, held_out, preset, on_batch)
    log = MetricsLog(folder.run, trainer.state.step)
    with contextlib.closing(log):
        log.append({"kind": "failures", "step": trainer.state.step, "failed": failed})
    count = pluralize(len(held_out.inputs), "held-out problem")
    console.print(f"{failed:,} of {count} failed in the test of {task.failures.what}")
    return failed


def choose_rule(trainer: Trainer, folder: RunFolder) -> tuple[list[str], bool]:
    """Choose the number of iterations on held-out problems, with the weights that are tested.

    Args:
        trainer: of a :class:`SolverTask`, after the training.
        folder: for the rule and the records.

    Returns:
        Lines to print, and whether as many problems were solved as a trained solver solves.
    """
    solver_task = trainer.task
    assert isinstance(solver_task, SolverTask)
    task, solver, settings = solver_task.task, solver_task.model, solver_task.settings
    preset, sweeps = settings.preset, []
    lines, learned = [], True
    log = MetricsLog(folder.run, trainer.state.step)
    with contextlib.closing(log), trainer.averaged_weights():
        for size in preset.valid_sizes or (preset.train_size,):
            held_out = task.build(settings.request("valid", size, preset.valid_count))
            most = LONGEST_SEARCH * preset.iterations
            which = "problems" if task.size_name(size) else f"{task.unit} {size}"
            with common.progress(
                f"choosing iterations on held-out {which}", "problems"
            ) as on_batch:
                found = sweep(solver, task, held_out, size, most, on_batch)
            accuracy = max(found.accuracy)
            iterations = found.first_best if accuracy else None
            record = {"kind": "valid", "step": trainer.state.step, "valid": size}
            log.append({**record, "accuracy": accuracy, "iterations": iterations})
            sweeps.append(found)
            learned = learned and (task.expected is None or accuracy >= task.expected)
            if iterations is None:
                tried = pluralize(len(found.accuracy), "iteration")
                lines.append(f"held-out {which}: none solved in {tried}")
            else:
                first = pluralize(iterations, "iteration")
                lines.append(f"held-out {which}: {accuracy:.1%} solved, first after {first}")
    rule = choose(task, sweeps, solver.longest, preset)
    folder.write_rule(rule)
    if not any(max(found.accuracy) for found in sweeps):
        count = pluralize(rule.iterations(task, preset.train_size), "iteration")
        lines.append(
            "no held-out problem was solved; in tests a problem of the training's size gets the "
            f"{count} of the training"
        )
    return lines, learned


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
    until_stable: bool,
    views: int | None,
) -> Iterator[tuple[Sweep, int]]:
    """A sweep for each size, and the number of iterations that counts for it."""
    task = tasks.load(name)
    folder, settings = open_run(task, run)
    settings = settings.with_data(data, skip_bad)
    if seed is not None:
        settings = dataclasses.replace(settings, seed=seed)
    solver = load_solver(task, folder, settings).to(choose_device(device))
    # Without an end, and without a picture of every iteration.
    stable = until_stable and solver.repeated_network is not None and picture is None
    num_views = _views(views, stable, settings)
    rule = None if iterations is not None else folder.rule()
    requests = [settings.request("test", size, count) for size in _sizes(task, sizes, settings)]
    for request in requests if sizes is not None else ():
        _check_size(task, request, "--sizes")
    for request in requests:
        size = request.size
        shown = task.size_name(size) or f"size {size}"
        # The preset's sizes need not all occur in the user's data.
        if sizes is None and task.size_error(request) is not None:
            common.log(f"{shown}: left out, the data hold no such problems for testing")
            continue
        examples = task.build(request)
        if len(examples.inputs) < count:
            there = pluralize(len(examples.inputs), "problem")
            common.log(f"note: {shown} has {there} for testing, fewer than --count {count:,}")
        num_iterations = _iterations(iterations, rule, task, size, solver)
        # A solver with its own stopping rule may stop later than the rule of the run.
        further = picture is not None or settings.depth == "latent"
        longest = math.ceil(BEYOND * num_iterations) if further else num_iterations
        patience = None
        if until_stable:
            patience = PATIENCE * settings.preset.iterations
            # A number of iterations that the user gives is the limit.
            longest = num_iterations if rule is None else LIMIT * num_iterations
            num_iterations = longest
        with common.progress(f"solving {shown}", "problems") as on_batch:
            if stable:
                found = sweep_stable(
                    solver, task, examples, size, longest, on_batch, num_views, _log_solved
                )
                num_iterations = found.iterations or longest
            else:
                found = sweep(solver, task, examples, size, longest, on_batch, patience)
        if task.players is not None:
            found = dataclasses.replace(found, players=task.players(request))
        if found.iterations is None:
            num_iterations = min(num_iterations, len(found.accuracy))
        yield found, num_iterations


def _log_solved(solved: int, done: int) -> None:
    common.log(f"{solved:,} of the first {done:,} are solved")


def _views(given: int | None, stable: bool, settings: Settings) -> int:
    """How many views of a problem a test takes.

    Raises:
        UserError: for several views of what the solver was not trained to see turned, or where
            answers are not iterated until they are stable.
    """
    if given is not None and given > 1 and not settings.preset.symmetries:
        raise UserError(
            "--views: this solver was not trained on turned problems; leave the option out"
        )
    if given is not None and not stable:
        raise UserError(
            "--views: it needs --until-stable, a solver that repeats one network, and no "
            "--picture; change the options"
        )
    return (VIEWS if settings.preset.symmetries else 1) if given is None else given


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
    folder, settings = open_run(task, run)
    settings = settings.with_data(data, skip_bad)
    size = settings.preset.train_size if size is None else size
    request = settings.request("test", size, number + 1)
    _check_size(task, request, "--size")
    solver = load_solver(task, folder, settings)
    rule = None if iterations is not None else folder.rule()
    num_iterations = _iterations(iterations, rule, task, size, solver)
    examples = task.build(request)
    if len(examples.inputs) <= number:
        raise UserError(f"--number {number}: there are only {len(examples.inputs)} problems")
    inputs, targets = examples.inputs[number : number + 1], examples.targets[number : number + 1]
    solver.eval()
    with torch.no_grad():
        answers = list(solver.answers(inputs.float(), num_iterations))
    logits = [answer.logits for answer in answers]
    stops = [float(answer.stop) for answer in answers if answer.stop is not None]
    console = common.console(stderr=False, soft_wrap=True, highlight=False)
    for line in task.show(SolutionTrace(inputs, targets, logits, out)):
        # The boards are in rich's markup; paths among the lines are escaped.
        console.print(line, markup=True)
    if stops:
        iteration = next((n for n, stop in enumerate(stops, 1) if stop >= 0.5), len(stops))
        chance = f"a probability of {stops[iteration - 1]:.0%} to stop"
        console.print(f"stops after {pluralize(iteration, 'iteration')}, at {chance}")


# -- what test prints and draws -------------------------------------------------------------------


def record(task: Task, found: Sweep, iterations: int) -> dict[str, Any]:
    """A size's line of JSON."""
    name = task.size_name(found.size)
    values: dict[str, Any] = {
        "size": found.size,
        **({} if name is None else {"name": name}),
        "iterations": iterations,
        "accuracy": found.after(iterations),
        "count": found.count,
        "confident_accuracy": found.confident_after(iterations),
    }
    if found.stopped is not None:
        values["stopped_accuracy"] = found.stopped
        values["stopped_iterations"] = found.stopped_after
    if found.stable_after is not None:
        values["stable_iterations"] = found.stable_after
    if found.unstable is not None:
        values["unstable"] = found.unstable
    if found.one_view is not None:
        values["one_view_accuracy"] = found.one_view
        values["differing_views"] = found.differing
    if found.players:
        values["players"] = dict(found.players)
    return values


def print_table(task: Task, run: Path, found: Sequence[tuple[Sweep, int]]) -> None:
    """A row for each size; columns without any value are left out."""
    table = Table(title=f"{task.name}, {run}", title_justify="left")
    rows = [_table_row(task, each, iterations) for each, iterations in found]
    columns = [key for key in (rows[0] if rows else ()) if any(row[key] for row in rows)]
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(row[key] for key in columns))
    common.print_table(table)


def _table_row(task: Task, found: Sweep, iterations: int) -> dict[str, str]:
    """Texts by column, empty where the sweep has no such value."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}"

    def mean(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    # Only the last answers of a sweep until they are stable are known.
    confident = found.confident_after(iterations) if found.iterations is None else None
    return {
        "size": task.size_name(found.size) or str(found.size),
        "iterations": str(iterations),
        "solved": share(found.after(iterations)),
        "most confident": share(confident),
        "problems": f"{found.count:,}",
        "own stop": share(found.stopped),
        "after": mean(found.stopped_after),
        "stable after": mean(found.stable_after),
        "unstable": f"{found.unstable:,}" if found.unstable else "",
        "by one view": share(found.one_view),
    } | {player: share(solved) for player, solved in found.players.items()}


def draw(found: Sequence[tuple[Sweep, int]], task: Task, path: Path) -> None:
    """Accuracy against iterations, a curve for each size, a marker where the rule stops.

    Raises:
        UserError: if matplotlib is not installed, or the file cannot be written.
    """
    figure = plots.new_figure(7, 4)
    axes = figure.add_subplot()
    for number, (each, iterations) in enumerate(found):
        steps = range(1, len(each.accuracy) + 1)
        label = task.size_name(each.size) or f"{each.size} {task.unit}"
        # Later curves are narrower and broken, so that those below them can be seen.
        width = 1.2 + 3.0 * (len(found) - 1 - number) / max(1, len(found) - 1)
        (line,) = axes.plot(
            *(steps, each.accuracy),
            label=label,
            linewidth=width,
            linestyle="-" if number == 0 else (0, (4, 1 + number)),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5 + width,
            markevery=[iterations - 1],
        )
        line.set_markerfacecolor("white" if number % 2 else line.get_color())
    axes.locator_params(axis="x", integer=True)
    axes.set_xlim(0, 1 + max(len(each.accuracy) for each, _ in found))
    axes.set_xlabel("iterations")
    axes.set_ylabel("solved wholly")
    axes.set_ylim(-0.02, 1.02)
    axes.legend()
    plots.save_figure(figure, path)


# -- opening runs ---------------------------------------------------------------------------------


def _settings(task: Task, options: dict[str, Any], device: torch.device) -> Settings:
    preset = task.preset(options["preset"])
    precision = resolve_precision(preset.precision, device)
    preset = dataclasses.replace(preset, precision=precision)
    data: Path | None = options["data"]
    names = (options[name] for name in ("solver", "depth", "seed"))
    settings = Settings(task.name, options["preset"], preset, *names)
    if options["epochs"] is not None:
        settings = settings.with_epochs(options["epochs"], at_most=True)
    return settings.with_data(None if data is None else data.absolute(), options["skip_bad"])


def _solver(task: Task, settings: Settings) -> Solver:
    return building.build(task, settings.preset, settings.solver, settings.depth)


def load_solver(task: Task, folder: RunFolder, settings: Settings) -> Solver:
    """The solver of a run, with the weights that are tested."""
    solver = _solver(task, settings)
    folder.load_weights(solver, averaged=True)
    return solver


def open_run(task: Task, path: Path) -> tuple[RunFolder, Settings]:
    """The folder of a run of a task, and its settings.

    Raises:
        UserError: if it is no run, or one of another task.
    """
    folder = RunFolder.open(path)
    settings = folder.settings()
    if settings.task != task.name:
        raise UserError(f"{path}: {describe_example(path)}")
    return folder, settings


def _sizes(task: Task, text: str | None, settings: Settings) -> tuple[int, ...]:
    if text is None:
        return settings.preset.test_sizes or (settings.preset.train_size,)
    names = task.named_sizes
    try:
        parts = [part.strip() for part in text.split(",")]
        return tuple(names[part] if part in names else int(part) for part in parts)
    except ValueError as error:
        what = f"whole numbers, {' or '.join(names)}," if names else "whole numbers"
        raise UserError(f"--sizes {text!r}: write {what} as in {tasks.SIZES[task.name]}") from error


def _check_size(task: Task, request: Request, option: str) -> None:
    """Make sure that there are problems of a size that the user gave.

    Raises:
        UserError: naming the option.
    """
    error = task.size_error(request)
    if error is not None:
        raise UserError(f"{option} {task.size_name(request.size) or request.size}: {error}")


def _iterations(given: int | None, rule: Rule | None, task: Task, size: int, solver: Solver) -> int:
    if rule is not None:
        return rule.iterations(task, size)
    assert given is not None
    return given if solver.longest is None else min(given, solver.longest)
