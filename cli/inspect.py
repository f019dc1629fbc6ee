"""``zpyro inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import log
from .paths import PATH
from .sequences import sequence_options
from .user_code import load_user_code


@click.command("inspect")
@click.argument("run", type=PATH)
@click.option(
    "--sequence",
    "sequences",
    multiple=True,
    metavar="NAME|INDEX",
    help="A sequence to show, by name or by number from 0; repeat for more.  [default: 0, 1, 2]",
)
@click.option("--out", type=PATH, help="Folder.  [default: RUN/inspect]")
@click.option(
    "--draws",
    default=8,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Latent paths sampled from each posterior.",
)
@click.option(
    "--samples",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Sequences sampled from the prior.",
)
@click.option(
    "--particles",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Of the importance-weighted and the particle-filter bound; 1 omits them.",
)
@click.option(
    "--scored",
    default=256,
    show_default=True,
    type=click.IntRange(0),
    help="Number of sequences that the table of bounds is computed on; 0 omits it.",
)
@sequence_options
def command(
    run: Path,
    split: str,
    sequences: tuple[str, ...],
    data: Path | None,
    out: Path | None,
    draws: int,
    samples: int,
    particles: int,
    scored: int,
    which: str,
    seed: int,
    device: str,
    **code: Any,
) -> None:
    """Write a report on what a run has learned: where its latents are used, and for what.

    Pictures and sounds go to a folder, and one page, report.html, shows them all beside the bounds,
    the training curves and the settings. It opens from disk and needs no network.

    \b
    Example:
      zpyro inspect runs/vowels --sequence 0 --sequence utterance_0012 --out looks
    """
    from zpyro.analysis.report import write_report
    from zpyro.distributed.processes import available_cores

    guide = load_user_code(run, **code).guide
    report = write_report(
        run,
        guide=guide,
        split=split,
        sequences=sequences,
        out=out,
        data_folder=data,
        which=which,
        device=device,
        num_samples=draws,
        prior_samples=samples,
        particles=particles,
        scored=scored,
        seed=seed,
        workers=available_cores(),
        on_stage=log,
    )
    pictures = len(list(report.folder.glob("*.png")))
    click.echo(f"{pictures} pictures and {report.page.name} in {report.folder}")
