"""The command ``zpyro``: finds the commands, and turns a user's mistake into one line.

Command modules import torch only when they run, so that help is there at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = (
    "train",
    "evaluate",
    "sample",
    "reconstruct",
    "interpolate",
    "inspect",
    "plot",
    "compare",
    "data",
    "import-reference",
    "example",
    "cite",
)


class UserMistake(click.ClickException):
    """One plain line on standard error, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        line = " ".join(self.format_message().split())
        click.echo(f"error: {line}", file=file or sys.stderr)


class Commands(click.Group):
    """The group of all commands, each in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"zpyro_cli.{cmd_name.replace('-', '_')}").command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "zpyro"
            raise UserMistake(f"{error.format_message()} See {path} --help.") from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # whatever the code of a user's guide may raise
            line = _mistake(error)
            if line is None:
                raise
            raise UserMistake(line) from error


def _mistake(error: Exception) -> str | None:
    """What a user did wrong, or None where the fault is not theirs."""
    from zpyro.errors import UserError

    if isinstance(error, UserError):
        return str(error)
    # Loaded only by commands that can run one.
    own_guides = sys.modules.get("zpyro.own_guides")
    return None if own_guides is None else own_guides.blame(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zpyro", prog_name="zpyro")
def main() -> None:
    """Stochastic recurrent networks with Z-Forcing: train, evaluate, sample.

    \b
    Example:
      zpyro train --dataset vowels --out runs/vowels
      zpyro evaluate runs/vowels
      zpyro sample runs/vowels -n 8 --seconds 3 --out samples
    """
