"""``zpyro example TASK train|test|show``: the same three commands for every task.

torch is imported when a command runs, so that help needs no time.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from zpyro_cli.paths import PATH  # pyright: ignore[reportMissingImports]

from . import tasks

if TYPE_CHECKING:
    from .sweep import Sweep

HELP = {
    "prefix-sums": "Prefix sums modulo 2 of bits, learned on 32 bits and tested on 512.",
    "mazes": "Paths through mazes, learned on 9 x 9 and tested on 59 x 59.",
    "chess": "Best moves of chess puzzles, learned on easy ones and tested on hard ones.",
}
DATA = {"chess": " --data lichess_db_puzzle.csv"}


def group(name: str) -> click.Group:
    """The commands of one task."""
    commands = click.Group(
        name,
        short_help=HELP[name],
        help=f"""{HELP[name]}

        \b
        Example:
          zpyro example {name} train{DATA.get(name, "")} --preset quick --out runs/{name}
          zpyro example {name} test runs/{name} --sizes {tasks.SIZES[name]}
        """,
    )
    for make in (_train, _test, _show):
        commands.add_command(make(name))
    return commands


def _check_resumed() -> None:
    """Refuse options that only a new run can have.

    Raises:
        UserError: naming the first that was given.
    """
    from zpyro.errors import UserError

    context = click.get_current_context()
    for name in context.params:
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("resume", "epochs", "max_minutes", "device"):
            raise UserError(
                f"--{name.replace('_', '-')}: is for a new run; leave it out with --resume"
            )


def _train(name: str) -> click.Command:
    @click.command(
        "train",
        help=f"""Train on the easy problems of {name} and leave a run directory.

        Ctrl-C saves; --resume RUN continues from there.

        \b
        Example:
          zpyro example {name} train{DATA.get(name, "")} --out runs/{name}
          zpyro example {name} train{DATA.get(name, "")} --solver feed-forward --seed 1
        """,
    )
    @click.option("--preset", default="quick", show_default=True, help="quick or published.")
    @click.option("--out", type=PATH, help="The run directory to make.")
    @click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 31) - 1))
    @click.option(
        "--max-minutes",
        type=click.FloatRange(0, min_open=True),
        help="Of training in all, those of a resumed run too.",
    )
    @click.option(
        "--epochs", type=click.IntRange(1), help="In place of the preset's, or the run's."
    )
    @click.option(
        "--solver",
        default="recall",
        show_default=True,
        help="recall, recurrent (without recall), feed-forward, or zforcing.",
    )
    @click.option(
        "--depth",
        default="fixed",
        show_default=True,
        help="fixed, or latent: the number of iterations as a latent variable.",
    )
    @click.option("--data", type=PATH, help="Your own file or folder.")
    @click.option("--skip-bad", is_flag=True, help="Leave out bad rows of it, and count them.")
    @click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu.")
    @click.option("--resume", type=PATH, help="Continue this run.")
    def train(**options: Any) -> None:
        from . import running

        if options["resume"] is not None:
            _check_resumed()
        elif options["out"] is None:
            stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
            options["out"] = Path("runs") / f"{name}-{stamp}"
        running.train(name, **options)

    return train


def _test(name: str) -> click.Command:
    @click.command(
        "test",
        help=f"""Test RUN on problems of other sizes: a table, and accuracy against iterations.

        The number of iterations is chosen on held-out problems of the training's sizes; the
        documentation says how. With --json a line {{"size", "iterations", "accuracy", "count"}}
        for each size.

        \b
        Example:
          zpyro example {name} test runs/{name} --sizes {tasks.SIZES[name]} --count 1000 --json
          zpyro example {name} test runs/{name} --picture accuracy.png
        """,
    )
    @click.argument("run", type=PATH)
    @click.option("--sizes", help="Comma-separated; by default the preset's.")
    @click.option("--count", default=1000, show_default=True, type=click.IntRange(1))
    @click.option("--iterations", type=click.IntRange(1), help="In place of the rule's.")
    @click.option(
        "--until-stable",
        is_flag=True,
        help="Iterate until answers no longer change, at most twice the rule's iterations or "
        "--iterations; with --picture by whole iterations of all problems, and without views.",
    )
    @click.option(
        "--views",
        type=click.IntRange(1, 8),
        help="With --until-stable: turned and reflected views of a maze whose mean is taken where "
        "two of them differ; by default 8.",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON line for each size.")
    @click.option("--picture", type=PATH, help="Plot accuracy to this file.")
    @click.option("--seed", type=click.IntRange(0, (1 << 31) - 1), help="Of the problems.")
    @click.option("--data", type=PATH, help="Your own file or folder.")
    @click.option("--skip-bad", is_flag=True, help="Leave out bad rows of it, and count them.")
    @click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu.")
    def test(as_json: bool, **options: Any) -> None:
        from . import running

        task = tasks.load(name)
        report = running.test(name, **options)
        found: list[tuple[Sweep, int]] = []
        try:
            for sweep, iterations in report:
                found.append((sweep, iterations))
                if as_json:
                    click.echo(json.dumps(running.record(task, sweep, iterations)))
        finally:
            # Sizes before a mistake, or an interruption, are not lost.
            if found and not as_json:
                running.print_table(task, options["run"], found)
        if options["picture"] is not None:
            running.draw(found, task, options["picture"])

    return test


def _show(name: str) -> click.Command:
    @click.command(
        "show",
        help=f"""Show RUN solving one problem, iteration by iteration.

        \b
        Example:
          zpyro example {name} show runs/{name}
        """,
    )
    @click.argument("run", type=PATH)
    @click.option("--size", type=click.IntRange(1), help="By default the training's.")
    @click.option("--number", default=0, show_default=True, type=click.IntRange(0))
    @click.option("--iterations", type=click.IntRange(1), help="In place of the rule's.")
    @click.option(
        "--picture",
        "--out",
        "out",
        type=PATH,
        help="Plot it to this file, .png or .gif.",
    )
    @click.option("--data", type=PATH, help="Your own file or folder.")
    @click.option("--skip-bad", is_flag=True, help="Leave out bad rows of it, and count them.")
    def show(**options: Any) -> None:
        from . import running

        running.show(name, **options)

    return show
