"""``zpyro data list`` and ``zpyro data info``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import load_data


@click.group("data")
def command() -> None:
    """Show the data sets.

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
    from rich.console import Console
    from rich.table import Table

    from zpyro import datasets

    table = Table("name", "--data", "what it is")
    for name in datasets.names():
        entry = datasets.entry(name)
        table.add_row(name, "needed" if entry.needs_data else "built in", entry.summary)
    Console().print(table)


@command.command("info")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), help="Where it is: a folder or a file.")
@click.option("--preset", help="Settings by name, or a TOML file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.NAME=VALUE",
    help="One setting, e.g. data.frame_size=100; again for another.",
)
def info(name: str, data: Path | None, preset: str | None, assignments: tuple[str, ...]) -> None:
    """Describe the data set NAME as training would read it.

    \b
    Example:
      zpyro data info wav --data recordings --set data.sample_rate=16000
    """
    from rich.console import Console
    from rich.table import Table

    from zpyro import config, datasets

    settled = config.resolve(
        name,
        datasets.entry(name).settings,
        preset=config.read_preset(preset) if preset else config.default_preset(name),
        assignments=assignments,
        data_folder=None if data is None else str(data),
    )
    table = Table(show_header=False)
    for row in datasets.describe(load_data(settled)):
        table.add_row(*row)
    Console().print(table)
