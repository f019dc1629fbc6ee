"""Options that every command on a trained model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .guides import guide_options

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
        "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--checkpoint, --seed, --device, --guide and --run-guide."""
    command = guide_options(command)
    for option in reversed(MODEL):
        command = option(command)
    return command
