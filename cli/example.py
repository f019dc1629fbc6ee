"""``zpyro example``: the tasks of ``zpyro_examples.easy_to_hard``."""

from __future__ import annotations

import importlib

import click

# By name: the package lies in examples/, where a type checker does not look for it.
_commands = importlib.import_module("zpyro_examples.easy_to_hard.commands")


@click.group("example")
def command() -> None:
    """Train on easy problems, solve harder ones by thinking longer.

    \b
    Example:
      zpyro example prefix-sums train --preset quick --out runs/sums
      zpyro example prefix-sums test runs/sums --sizes 64,128,512
      zpyro example prefix-sums show runs/sums
    """


for _name in _commands.HELP:
    command.add_command(_commands.group(_name))
