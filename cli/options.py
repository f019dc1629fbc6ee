"""Options that several commands have."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import click

from .user_code import user_code_options

if TYPE_CHECKING:
    import numpy as np

    from zpyro.distributed.ray_cluster import RayCluster
    from zpyro.likelihoods import Likelihood

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
BACKEND = (
    click.option(
        "--backend",
        default="local",
        show_default=True,
        type=click.Choice(["local", "ray"]),
        help="Processes of this machine, or the machines of a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="The Ray cluster.  [default: $RAY_ADDRESS, or the one of this machine]",
    ),
)


class NumberRange(click.FloatRange):
    """Numbers within limits; NaN, which no comparison finds outside them, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


def check_output_noise(output_noise: float, likelihood: Likelihood) -> None:
    """Refuse --output-noise where frames are not numbers."""
    from zpyro.errors import UserError

    if output_noise != 1.0 and likelihood.support.is_discrete:
        raise UserError(
            f"--output-noise: is for numbers, and the likelihood {likelihood.name} is for bits or "
            "tokens; leave it out"
        )


output_noise_option = click.option(
    "--output-noise",
    default=1.0,
    show_default=True,
    type=NumberRange(0, 1),
    help="Below 1, frames are written with only this share of their deviation from the expected "
    "frame: less hiss. The model is fed whole samples.",
)
dither_option = click.option(
    "--dither", is_flag=True, help="Add triangular noise before sound is rounded to 16 bits."
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--checkpoint, --seed, --device and the options of a user's own code."""
    command = user_code_options(command)
    for option in reversed(MODEL):
        command = option(command)
    return command


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--backend and --ray-address."""
    for option in reversed(BACKEND):
        command = option(command)
    return command


def dither_numbers(dither: bool, seed: int) -> np.random.Generator | None:
    """The random numbers of --dither, from --seed."""
    import numpy as np

    return np.random.default_rng(seed) if dither else None


@contextlib.contextmanager
def connect(backend: str, ray_address: str | None) -> Generator[RayCluster | None]:
    """The Ray cluster of these options; None for this machine."""
    from zpyro.distributed.processes import launched_by_torchrun
    from zpyro.distributed.ray_cluster import RayCluster
    from zpyro.errors import UserError

    if backend == "local":
        if ray_address is not None:
            raise UserError("--ray-address: has no effect without Ray; add --backend ray")
        yield None
        return
    if launched_by_torchrun():
        raise UserError("--backend ray: Ray starts the processes; leave out torchrun")
    with RayCluster(ray_address) as cluster:
        yield cluster
