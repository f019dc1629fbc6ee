"""``zpyro compare``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import load_data, log, pluralize

if TYPE_CHECKING:
    from zpyro.analysis.comparison import Job, Room, Spec, Summary
    from zpyro.distributed.processes import ProcessGroup
    from zpyro.training.config import Config

DEFAULT = "rnn,storn,vrnn,srnn,zforcing"
STOPPED = (130, 143, -2, -15)
"""Exit statuses of a run that was asked to stop, or was stopped before it could be asked."""
TABLE, NUMBERS, PICTURE = "comparison.md", "comparison.json", "comparison.png"


@click.command("compare")
@click.option("--dataset", help="Name of the data set; zpyro data list shows them.")
@click.option("--data", type=click.Path(path_type=Path), help="Where it is: a folder or a file.")
@click.option("--models", default=DEFAULT, show_default=True, help="Rows of the table; see --rows.")
@click.option(
    "--row", "own", multiple=True, metavar="'NAME=BASE section.name=value ...'",
    help="A row like another with other settings; again for another.",
)  # fmt: skip
@click.option("--rows", "show_rows", is_flag=True, help="Say which rows have names, and stop.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 1000))
@click.option("--budget-minutes", type=float, help="Training time of each run.")
@click.option("--budget-steps", type=click.IntRange(1), help="Training steps of each run.")
@click.option("--preset", help="Settings by name, or a TOML file, as in zpyro train.")
@click.option(
    "--set", "assignments", multiple=True, metavar="SECTION.NAME=VALUE",
    help="One setting of every row; again for another.",
)  # fmt: skip
@click.option(
    "--match", default="parameters", show_default=True, type=click.Choice(["parameters", "none"]),
    help="Grow hidden sizes until every row has the parameters of the largest, or leave them.",
)  # fmt: skip
@click.option("--split", default="test", show_default=True, type=click.Choice(["valid", "test"]))
@click.option("--particles", default=25, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--jobs", type=click.IntRange(1), help="Runs at once.  [default: by cores or GPUs]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the comparison.")
def command(
    dataset: str | None,
    models: str,
    own: tuple[str, ...],
    show_rows: bool,
    seeds: int,
    match: str,
    split: str,
    particles: int,
    jobs: int | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Train several models alike and write a table of their bounds.

    Every row has the same data, budget and seeds. Stopped at any time, the same command goes on
    where it was. The table stands in OUT as comparison.md, .json and .png.

    \b
    Example:
      zpyro compare --dataset vowels --models rnn,vrnn,zforcing --seeds 3 --budget-steps 500
    """
    from zpyro import datasets
    from zpyro.analysis.comparison import ROWS, Spec, find
    from zpyro.distributed.processes import init_distributed
    from zpyro.errors import UserError

    if show_rows:
        for row in ROWS.values():
            click.echo(f"{row.name:20}{row.summary}")
        return
    if dataset is None:
        raise UserError(f"--dataset is missing; choose one of {', '.join(datasets.names())}")
    names = [name.strip() for name in models.split(",") if name.strip()]
    rows = find(names, own)
    settled = [(row, _settings(dataset, row.assignments, options)) for row in rows]
    out = out or Path("runs") / f"compare-{dataset}"
    spec = Spec(out, tuple(settled), tuple(range(seeds)), match == "parameters", split, particles)
    with init_distributed("cpu") as process_group:
        _compare(spec, settled[0][1], jobs, _title(dataset, spec, options), process_group)


def _compare(
    spec: Spec, settled: Config, jobs: int | None, title: str, process_group: ProcessGroup
) -> None:
    """Run what is left, dealt out among the processes, and write the table when all have done."""
    from zpyro.analysis.comparison import prepare, run_all

    out = spec.folder
    with process_group.main_process_first():
        todo = prepare(spec, load_data(settled))
    room = _room(jobs, settled, process_group)
    left = sum(not job.done for job in todo)
    at_once = room.at_once * process_group.world_size
    log(f"{pluralize(len(todo), 'run')}, {left} to do, {at_once} at once; {out}")
    failed: list[Job] = []

    def on_end(job: Job, status: int) -> None:
        _log_end(job, status)
        if status != 0 and status not in STOPPED:
            failed.append(job)

    interrupted = run_all(
        spec, todo[process_group.rank :: process_group.world_size], room, on_end, _log_start
    )
    everyone = [job for part in process_group.gather(failed) for job in part]
    if process_group.is_main_process:
        summary = _summary(spec, todo, title)
        if summary.rows:
            _write(summary, out)
            log(f"the table is in {out / TABLE}, its numbers in {out / NUMBERS}")
        _finish(interrupted, everyone)


def _settings(dataset: str, assignments: tuple[str, ...], options: dict[str, Any]) -> Config:
    from zpyro import datasets
    from zpyro.errors import UserError
    from zpyro.training import config

    minutes, steps = options["budget_minutes"], options["budget_steps"]
    if (minutes is None) == (steps is None):
        raise UserError("give one of --budget-minutes and --budget-steps")
    preset = options["preset"]
    chosen = None if preset is None else config.read_preset(preset)
    given = {"train.epochs": None, "train.max_minutes": minutes, "train.max_steps": steps}
    if options["device"] is not None:
        given["train.device"] = options["device"]
    data = options["data"]
    return config.resolve(
        dataset,
        datasets.entry(dataset).settings,
        preset=chosen or config.default_preset(dataset),
        assignments=(*options["assignments"], *assignments),
        options=given,
        data_folder=None if data is None else str(data.absolute()),
    )


def _room(jobs: int | None, settled: Config, process_group: ProcessGroup) -> Room:
    """How many runs at once in this process: one a GPU, or one for two cores.

    Of several processes each runs one at a time, on a GPU of its own where there are some.
    """
    import torch

    from zpyro.analysis.comparison import Room
    from zpyro.training.building import choose_device

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    devices: tuple[str, ...] = ()
    if choose_device(settled.train.device).type == "cuda":
        numbers = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = [str(number) for number in range(torch.cuda.device_count())]
        devices = tuple(numbers.split(",") if numbers else every)
    if process_group.world_size > 1:
        mine = devices[process_group.local % len(devices) :][:1] if devices else ()
        return Room(jobs or 1, max(1, cores // ((jobs or 1) * process_group.world_size)), mine)
    at_once = jobs or len(devices) or max(1, cores // 2)
    return Room(at_once, max(1, cores // at_once), devices)


def _log_start(job: Job) -> None:
    from zpyro.analysis.comparison.schedule import LOG

    log(f"{job.row} seed {job.seed}: begins; how it goes stands in {job.folder / LOG}")


def _log_end(job: Job, status: int) -> None:
    from zpyro.analysis.comparison.schedule import LOG

    if status == 0:
        result = job.result()
        kl = f", KL {result['kl']:,.1f}" if result["kl"] else ""
        log(f"{job.row} seed {job.seed}: bound {result['elbo']:,.1f}{kl}, {result['steps']} steps")
    elif status in STOPPED:
        log(f"{job.row} seed {job.seed}: stopped and saved")
    else:
        log(f"{job.row} seed {job.seed}: failed; see {job.folder / LOG}")


def _title(dataset: str, spec: Spec, options: dict[str, Any]) -> str:
    minutes, steps = options["budget_minutes"], options["budget_steps"]
    budget = f"{minutes:g} minutes" if minutes is not None else f"{steps:,} steps"
    sizes = "equal parameters" if spec.match_parameters else "sizes as set"
    return f"{dataset}, {spec.split} split: {budget} of training a run, {sizes}"


def _summary(spec: Spec, jobs: list[Job], title: str) -> Summary:
    from zpyro.analysis.comparison import summarize

    results: dict[str, dict[int, Any]] = {row.name: {} for row, _ in spec.rows}
    for job in jobs:
        if job.done:
            results[job.row][job.seed] = job.result()
    return summarize(title, spec.particles, results)


def _write(summary: Summary, out: Path) -> None:
    import importlib.util
    import json

    from zpyro.analysis.comparison import markdown
    from zpyro.analysis.comparison.picture import draw
    from zpyro.io import files

    table = markdown(summary)
    files.replace_file(out / TABLE, table)
    files.replace_file(out / NUMBERS, json.dumps(asdict(summary), indent=2) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        log('no picture without matplotlib; pip install "zpyro[plots]"')
    else:
        draw(summary, out / PICTURE)
    click.echo(table, nl=False)


def _finish(interrupted: int | None, failed: list[Job]) -> None:
    from zpyro.errors import UserError

    if interrupted is not None:
        log("stopped; the same command goes on from here")
        raise SystemExit(128 + interrupted)
    if failed:
        names = ", ".join(f"{job.row} seed {job.seed}" for job in failed)
        raise UserError(f"{len(failed)} runs failed ({names}); their log.txt says why")
