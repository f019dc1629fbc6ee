"""The command ``zpyro``: finds the commands, and turns a user's mistake into one line.

Command modules import torch only when they run, so that help is shown at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from . import streams
from .user_code import FILES

COMMANDS = (
    "train",
    "evaluate",
    "sample",
    "forecast",
    "impute",
    "reconstruct",
    "interpolate",
    "inspect",
    "plot",
    "compare",
    "data",
    "import-reference",
    "example",
    "doctor",
    "cite",
)
DISTRIBUTED = ("train", "evaluate", "compare")
"""Commands that torchrun may start in several processes."""

SECONDS_TO_PRINT = 60.0
"""How long a process waits for torchrun to end it, after the first process printed an error."""

SIGPIPE = 13
"""The number of the signal, which Windows does not have."""


class CliError(click.ClickException):
    """An error of one line on standard error, with exit code 2.

    Args:
        message: the line.
        everywhere: whether every process that torchrun started has this error; then only the first
            one of each machine prints it.
    """

    exit_code = 2

    def __init__(self, message: str, *, everywhere: bool = True) -> None:
        super().__init__(message)
        self.everywhere = everywhere

    def show(self, file: Any = None) -> None:
        if self.everywhere and _is_distributed() and os.environ["LOCAL_RANK"] != "0":
            if "TORCHELASTIC_RUN_ID" in os.environ:
                # torchrun ends all processes when the first one does, also the one that prints.
                time.sleep(SECONDS_TO_PRINT)
            return
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if _is_distributed() and name not in DISTRIBUTED:
            raise CliError(f"zpyro {name} runs in one process; start it without torchrun")
        return name, command, rest

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; what standard output could not take decides the exit status at last.

        That is 128 + SIGPIPE where its reader ended, as for a program that this signal ends, and 2
        with a line on standard error for any other failure, unless the command itself failed.
        """
        with streams.safe_standard_streams() as stdout:
            try:
                return super().main(*args, **extra)
            except SystemExit as ended:
                stdout.flush()
                if ended.code or stdout.error is None:
                    raise
            if isinstance(stdout.error, BrokenPipeError):
                sys.exit(128 + SIGPIPE)
            reason = getattr(stdout.error, "strerror", None) or stdout.error
            line = f"standard output: cannot be written ({reason}); write it to another place"
            CliError(line).show()
            sys.exit(CliError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "zpyro"
            raise CliError(f"{error.format_message()} See {path} --help.") from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # a user's guide or plugin may raise anything
            line = _describe(error, ctx.meta.get(FILES, []))
            if line is None:
                raise
            everywhere = not getattr(error, "of_one_process", False)
            raise CliError(line, everywhere=everywhere) from error


def _is_distributed() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _describe(error: Exception, user_files: list[Path]) -> str | None:
    """The message for a mistake of the user, or None for any other error."""
    from zpyro.errors import UserError

    if isinstance(error, UserError):
        return str(error)
    if not user_files:
        return None
    from zpyro.training.user_files import describe_user_error

    return describe_user_error(error, user_files)


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
