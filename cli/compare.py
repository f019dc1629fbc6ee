"""``zpyro compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import load_data, log
from .options import backend_options, connect
from .paths import PATH
from .sequences import write_plot
from .user_code import load_plugins, plugin_option

if TYPE_CHECKING:
    from zpyro.analysis.comparison import Variant
    from zpyro.training.config import Config

DEFAULT = "rnn,storn,vrnn,srnn,zforcing"
TABLE, NUMBERS, PICTURE = "comparison.md", "comparison.json", "comparison.png"


@click.command("compare")
@click.option("--dataset", help="Name of the data set; zpyro data list shows them.")
@click.option("--data", type=PATH, help="Where it is: a folder or a file.")
@click.option(
    "--models", default=DEFAULT, show_default=True, help="Rows of the table; --rows lists them."
)
@click.option(
    "--row", "custom", multiple=True, metavar="'NAME=BASE section.name=value ...'",
    help="A row like another with other settings; repeat for more.",
)  # fmt: skip
@click.option("--rows", "show_rows", is_flag=True, help="List the rows that have names, and exit.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 1000))
@click.option("--budget-minutes", type=float, help="Training time of each run.")
@click.option("--budget-steps", type=click.IntRange(1), help="Training steps of each run.")
@click.option("--preset", help="Settings by name, or a TOML file, as in zpyro train.")
@click.option(
    "--set", "assignments", multiple=True, metavar="SECTION.NAME=VALUE",
    help="One setting of every row; repeat for more.",
)  # fmt: skip
@click.option(
    "--match", default="parameters", show_default=True, type=click.Choice(["parameters", "none"]),
    help="Grow hidden sizes until every row has the parameters of the largest, or leave them.",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, type=click.Choice(["valid", "test"]))
@click.option(
    "--bound",
    default="iwae",
    show_default=True,
    type=click.Choice(["iwae", "smc", "both"]),
    help="With several particles: importance-weighted, a particle filter's, or both.",
)
@click.option("--particles", default=25, show_default=True, type=click.IntRange(1, 100_000))
@click.option(
    "--per",
    "unit",
    default="sequence",
    show_default=True,
    type=click.Choice(["sequence", "frame"]),
    help="The unit of the table's bounds.",
)
@click.option("--jobs", type=click.IntRange(1), help="Runs at once.  [default: by cores or GPUs]")
@backend_options
@click.option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps, xpu.")
@click.option("--out", type=PATH, help="The folder of the comparison.")
@plugin_option
def command(
    dataset: str | None,
    models: str,
    custom: tuple[str, ...],
    show_rows: bool,
    seeds: int,
    match: str,
    split: str,
    bound: str,
    particles: int,
    unit: str,
    jobs: int | None,
    backend: str,
    ray_address: str | None,
    out: Path | None,
    plugins: tuple[Path, ...],
    **options: Any,
) -> None:
    """Train several models with the same budget and write a table of their bounds.

    Every row has the same data, budget and seeds. After an interruption the same command resumes
    all runs. The table is written to OUT as comparison.md, .json and .png.

    With --backend ray, the machines of a Ray cluster execute the runs; all of them need zpyro, the
    data and OUT under the same names.

    \b
    Example:
      zpyro compare --dataset vowels --models rnn,vrnn,zforcing --seeds 3 --budget-steps 500
      zpyro compare --dataset vowels --budget-steps 500 --backend ray --ray-address head:6379
    """
    from zpyro import datasets
    from zpyro.analysis import comparison
    from zpyro.distributed.processes import init_distributed
    from zpyro.errors import UserError, pluralize
    from zpyro.io import files

    load_plugins(plugins)
    if show_rows:
        for variant in comparison.VARIANTS.values():
            click.echo(f"{variant.name:20}{variant.summary}")
        return
    if dataset is None:
        raise UserError(f"--dataset is missing; choose one of {', '.join(datasets.names())}")
    names = [name.strip() for name in models.split(",") if name.strip()]
    variants = comparison.find_variants(names, custom)
    configs = [_config(dataset, variant, options) for variant in variants]
    bounds = ("iwae", "smc") if bound == "both" else (bound,)
    spec = comparison.ComparisonSpec(
        folder=out or Path("runs") / f"compare-{dataset}",
        variants=tuple(zip(variants, configs, strict=True)),
        seeds=tuple(range(seeds)),
        match_parameters=match == "parameters",
        scoring=comparison.Scoring(split, particles, bounds),
        unit=unit,
        plugins=tuple(path.absolute() for path in plugins),
    )
    minutes, steps = options["budget_minutes"], options["budget_steps"]
    budget = f"{minutes:g} min" if minutes is not None else pluralize(steps, "step")
    sizes = "equal parameters" if spec.match_parameters else "sizes as set"
    device = configs[0].train.device
    with connect(backend, ray_address) as cluster, init_distributed("cpu") as process_group:
        if cluster is not None:
            executor = comparison.RayExecutor(cluster, jobs, device)
        else:
            resources = comparison.Resources.detect(jobs, device, process_group)
            executor = comparison.LocalExecutor(resources)
        found = comparison.compare(
            spec,
            lambda: load_data(configs[0]),
            executor,
            f"{dataset}, {split} split: {budget} of training a run, {sizes}",
            process_group=process_group,
            on_log=log,
        )
        if not process_group.is_main_process:
            return
    if found.summary.rows:
        table, folder = comparison.markdown_table(found.summary), spec.folder
        files.replace_file(folder / TABLE, table)
        files.replace_file(folder / NUMBERS, json.dumps(asdict(found.summary), indent=2) + "\n")
        click.echo(table, nl=False)
        log(f"the table is in {folder / TABLE}, its numbers in {folder / NUMBERS}")
        write_plot(lambda path: comparison.plot_comparison(found.summary, path), folder / PICTURE)
    if found.interrupted is not None:
        log("stopped; the same command resumes from here")
        raise SystemExit(128 + found.interrupted)
    if found.failed:
        failed = ", ".join(job.name for job in found.failed)
        raise UserError(
            f"{pluralize(len(found.failed), 'run')} failed ({failed}); see their log.txt"
        )


def _config(dataset: str, variant: Variant, options: dict[str, Any]) -> Config:
    from zpyro import datasets
    from zpyro.errors import UserError
    from zpyro.training import config

    minutes, steps = options["budget_minutes"], options["budget_steps"]
    if (minutes is None) == (steps is None):
        raise UserError("give one of --budget-minutes and --budget-steps")
    preset, data = options["preset"], options["data"]
    given = {"train.epochs": None, "train.max_minutes": minutes, "train.max_steps": steps}
    if options["device"] is not None:
        given["train.device"] = options["device"]
    return config.resolve(
        dataset,
        datasets.entry(dataset).settings,
        preset=config.read_preset(preset) if preset else config.default_preset(dataset),
        shared=options["assignments"],
        assignments=variant.assignments,
        model=variant.model,
        options=given,
        data_folder=None if data is None else str(data.absolute()),
    )
