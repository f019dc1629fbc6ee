"""``zpyro data list``, ``info``, ``prepare`` and ``verify``."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import console, load_data, log, print_table
from .options import backend_options, connect
from .paths import PATH
from .user_code import load_plugins, plugin_option

if TYPE_CHECKING:
    from zpyro.datasets.prepared import Progress


@click.group("data")
def command() -> None:
    """Show the data sets, and prepare large ones.

    \b
    Example:
      zpyro data info wav --data recordings
    """


@command.command("list")
def list_names() -> None:
    """List the data sets.

    \b
    Example:
      zpyro data list
    """
    from rich.table import Table

    from zpyro import datasets

    table = Table("name", "--data", "what it is")
    for name in datasets.names():
        entry = datasets.entry(name)
        table.add_row(name, "needed" if entry.needs_data else "built in", entry.summary)
    print_table(table)


@command.command("info")
@click.argument("name")
@click.option("--data", type=PATH, help="Where it is: a folder or a file.")
@click.option("--preset", help="Settings by name, or a TOML file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.NAME=VALUE",
    help="One setting, e.g. data.frame_size=100; again for another.",
)
@plugin_option
def info(
    name: str,
    data: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    plugins: tuple[Path, ...],
) -> None:
    """Describe the data set NAME as training would read it.

    \b
    Example:
      zpyro data info wav --data recordings --set data.sample_rate=16000
    """
    from rich.table import Table

    from zpyro import datasets
    from zpyro.analysis.scores import describe_baselines
    from zpyro.training import config

    load_plugins(plugins)
    settled = config.resolve(
        name,
        datasets.entry(name).settings,
        preset=config.read_preset(preset) if preset else config.default_preset(name),
        assignments=assignments,
        data_folder=None if data is None else str(data),
    )
    table = Table(show_header=False)
    dataset = load_data(settled)
    for row in (*datasets.describe(dataset), *describe_baselines(dataset)):
        table.add_row(*row)
    print_table(table)


@command.command("prepare")
@click.argument("name")
@click.argument("source", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder to write.")
@click.option(
    "--workers", type=click.IntRange(1, 1024), help="Processes that read; by default every core."
)
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be used.")
@click.option(
    "--part", metavar="I/N", help="Read only part I of N into --out, for example in a job array."
)
@click.option("--join", is_flag=True, help="Put together the parts in --out.")
@backend_options
@click.option("--preset", help="Settings by name, or a TOML file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.NAME=VALUE",
    help="One setting, e.g. data.frame_size=100; again for another.",
)
def prepare(
    name: str,
    source: Path,
    out: Path,
    workers: int | None,
    skip_bad: bool,
    part: str | None,
    join: bool,
    backend: str,
    ray_address: str | None,
    preset: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Read the data set NAME in its original files below SOURCE once, for training at any size.

    The result is read through memory maps. After an interruption the same command continues.
    Files that cannot be used are listed at the end; nothing is trained on
    before they are repaired, removed, or left out with --skip-bad.

    Many machines with a common file system prepare a part each, at the same time, with --part 1/N
    to --part N/N and the same --out; --join then makes the whole, as one machine would. With
    --backend ray, the machines of a Ray cluster do all of it.

    \b
    Example:
      zpyro data prepare blizzard /corpora/blizzard --out prepared/blizzard
      zpyro data prepare blizzard /corpora/blizzard --out prepared/blizzard --part 1/8
      zpyro train --dataset blizzard --data prepared/blizzard
    """
    from rich.table import Table

    from zpyro import datasets
    from zpyro.datasets import corpora
    from zpyro.datasets.prepared import BadFiles, prepare_part
    from zpyro.datasets.prepared import prepare as run
    from zpyro.distributed.processes import available_cores
    from zpyro.errors import UserError, pluralize
    from zpyro.training import config

    number, parts = (None, None) if part is None else _part(part)
    if join and part is not None:
        raise UserError("--part and --join: give one of them; --join comes after all parts")
    if backend == "ray" and part is not None:
        raise UserError("--part and --backend ray: give one of them; Ray reads all parts")
    if backend == "ray" and workers is not None:
        raise UserError("--workers and --backend ray: give one of them; Ray uses every core")
    entry = datasets.entry(name)
    corpus = entry.corpus
    if corpus is None:
        raise UserError(f"data set {name} needs no preparation; give its files to --data")
    settled = config.resolve(
        name,
        entry.settings,
        preset=config.read_preset(preset) if preset else config.default_preset(name),
        assignments=assignments,
    )
    common: dict[str, Any] = {"workers": workers or available_cores(), "skip_bad": skip_bad}
    try:
        with (
            _progress(f"{'joining the parts of' if join else 'reading'} {source}") as progress,
            connect(backend, ray_address) as cluster,
        ):
            common["progress"] = progress
            if number is not None and parts is not None:
                made = prepare_part(corpus, source, out, settled.data, number, parts, **common)
                log(f"part {part}: {pluralize(made, 'shard')}; after all parts, --join")
                return
            executor = None if cluster is None else cluster.executor()
            store = run(corpus, source, out, settled.data, join=join, executor=executor, **common)
    except BadFiles as error:
        _show_problems(error.problems, "cannot be used")
        raise
    skipped = [(entry["key"], entry["problem"]) for entry in store.index["skipped"]]
    if skipped:
        _show_problems(skipped, "left out")
    corpora.check_usable(store, source)
    table = Table(show_header=False)
    for row in datasets.describe(corpus.dataset(store)):
        table.add_row(*row)
    print_table(table)
    log(f"next: {shlex.join(['zpyro', 'train', '--dataset', name, '--data', str(out)])}")


@command.command("verify")
@click.argument("folder", type=PATH)
def verify(folder: Path) -> None:
    """Compare every file of the prepared data set FOLDER with its checksum.

    \b
    Example:
      zpyro data verify prepared/blizzard
    """
    from zpyro.datasets.prepared import Store, is_prepared
    from zpyro.errors import UserError, pluralize

    if not is_prepared(folder):
        raise UserError(f"{folder}: holds no prepared data set; make one with zpyro data prepare")
    store = Store(folder)
    store.verify()
    log(f"{folder}: {pluralize(len(store.index['shards']), 'shard')} verified, all whole")


def _part(text: str) -> tuple[int, int]:
    """The numbers of I/N."""
    from zpyro.errors import UserError

    number, slash, parts = text.partition("/")
    if slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts):
        return int(number), int(parts)
    raise UserError(f"--part {text}: is not I/N with 1 <= I <= N; give for example --part 1/8")


@contextlib.contextmanager
def _progress(what: str) -> Generator[Progress, None, None]:
    """A bar in a terminal; elsewhere a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    screen = console()
    if not screen.is_terminal:
        yield _Lines(what)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Says every tenth of the way."""

    def __init__(self, what: str) -> None:
        log(what)
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        from zpyro.errors import pluralize

        if done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            log(f"{done} of {pluralize(total, 'file')}")


def _show_problems(problems: Sequence[tuple[str, Any]], title: str) -> None:
    """Every file that is not used, and why."""
    from rich.table import Table

    from zpyro.errors import pluralize

    table = Table("file", "what is wrong", title=f"{pluralize(len(problems), 'file')} {title}")
    for key, problem in problems:
        table.add_row(key, str(problem))
    console().print(table)
