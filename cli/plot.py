"""``zpyro plot``."""

from __future__ import annotations

from pathlib import Path

import click

from .paths import PATH


@click.command("plot")
@click.argument("runs", metavar="RUN [RUN ...]", nargs=-1, required=True, type=PATH)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="What to plot, such as bound, kl or learning_rate; repeat for more panels."
    "  [default: bound, kl, log_likelihood]",
)
@click.option(
    "--out",
    type=PATH,
    help="The picture file, png, svg or pdf.  [default: RUN/curves.png; of several, curves.png]",
)
def command(runs: tuple[Path, ...], metrics: tuple[str, ...], out: Path | None) -> None:
    """Plot the training curves of one or several runs in one figure.

    One color per run, training dashed and held-out data solid, over training steps. Every number
    that a run records can be plotted, such as the terms of its objective.

    \b
    Example:
      zpyro plot runs/vowels runs/vowels-plain --metric bound --metric kl --out curves.png
    """
    from zpyro.training import curves

    path = out or (runs[0] / "curves.png" if len(runs) == 1 else Path("curves.png"))
    curves.plot_curves(runs, path, metrics or curves.DEFAULT)
    click.echo(f"picture in {path}")
