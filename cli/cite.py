"""``zpyro cite``."""

from __future__ import annotations

import click


@click.command("cite")
@click.argument("name", default="zforcing")
def command(name: str) -> None:
    """Print the papers behind NAME as BibTeX; by default that of Z-Forcing.

    NAME is a model, a multi-sample bound (iwae, dreg), an example, pyro, or all.

    \b
    Example:
      zpyro cite
      zpyro cite srnn
      zpyro cite prefix-sums >> references.bib
    """
    import importlib

    from zpyro.analysis import citations

    tasks = importlib.import_module("zpyro_examples.easy_to_hard.tasks")
    examples = {task: tasks.load(task).sources for task in tasks.MODULES}
    click.echo(citations.cite(name, {**citations.SOURCES, **examples}))
