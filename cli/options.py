"""Options that every command on a trained model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .user_code import user_code_options

MODEL = (
    click.option(
        "--checkpoint",
        "which",
        default="best",
        show_default=True,
        type=click.Choice(["best", "last"]),
    ),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 63) - 1)),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where to compute: auto, cpu, cuda, cuda:1, mps, xpu.",
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--checkpoint, --seed, --device and the options of a user's own code."""
    command = user_code_options(command)
    for option in reversed(MODEL):
        command = option(command)
    return command
