"""``zpyro train``."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import console, load_data, log, pluralize
from .user_code import UserCode, load_user_code, user_code_options

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Dataset
    from zpyro.distributed.processes import ProcessGroup
    from zpyro.models import SequenceModel
    from zpyro.training.config import Config
    from zpyro.training.runs import Run
    from zpyro.training.trainer import Outcome


@click.command("train")
@click.option("--dataset", help="Name of the data set; zpyro data list shows them.")
@click.option("--data", type=click.Path(path_type=Path), help="Where it is: a folder or a file.")
@click.option(
    "--preset", help="Settings by name, or a TOML file; the data set's own where it has them."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.NAME=VALUE",
    help="One setting, e.g. model.latent_size=32; again for another.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory to make.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.option("--seed", type=int, help="Of weights, noise and data order.")
@click.option("--max-steps", type=int, help="Stop after so many steps in all.")
@click.option("--epochs", type=int, help="Stop after so many passes over the data in all.")
@click.option("--max-minutes", type=float, help="Stop after so many minutes in all.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run directory.")
@click.option(
    "--detect-anomaly", is_flag=True, help="Stop at the first NaN or infinity and name it; slow."
)
@user_code_options
def command(
    dataset: str | None,
    data: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    detect_anomaly: bool,
    guide: str | None,
    run_guide: bool,
    plugins: tuple[Path, ...],
    run_plugins: bool,
    **options: Any,
) -> None:
    """Train a model and leave a run directory.

    Ctrl-C finishes the step and saves; --resume continues from there.

    \b
    Example:
      zpyro train --dataset wav --data recordings --set model.hidden_size=512 --max-minutes 30
    """
    code = load_user_code(
        resume, guide=guide, run_guide=run_guide, plugins=plugins, run_plugins=run_plugins
    )
    given = {f"train.{name}": value for name, value in options.items() if value is not None}
    from zpyro.distributed.processes import init_distributed
    from zpyro.errors import UserError

    if resume and (dataset or preset or assignments or out or "train.seed" in given):
        raise UserError(
            "--resume takes the run's own settings; leave out --dataset, --preset, --set, "
            "--out and --seed"
        )
    with init_distributed(options["device"] or "auto") as process_group:
        how = RunOptions(detect_anomaly, process_group, code)
        if resume is None:
            outcome, run = _start(dataset, data, preset, assignments, out, given, how)
        else:
            outcome, run = _resume(resume, data, given, how)
    _log_outcome(outcome, run)


@dataclass(frozen=True)
class RunOptions:
    """What is no setting of a run.

    Attributes:
        detect_anomaly: look for the first number that is not finite.
        process_group: this process among those that train together.
        code: the user's own code.
    """

    detect_anomaly: bool
    process_group: ProcessGroup
    code: UserCode


def _start(
    dataset: str | None,
    data: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    out: Path | None,
    given: dict[str, object],
    how: RunOptions,
) -> tuple[Outcome, Run]:
    from zpyro import datasets
    from zpyro.errors import UserError
    from zpyro.training import config, runs
    from zpyro.training.building import build_likelihood, choose_device

    chosen = None if preset is None else config.read_preset(preset)
    dataset = dataset or (chosen.dataset if chosen else None)
    if dataset is None:
        raise UserError(f"--dataset is missing; choose one of {', '.join(datasets.names())}")
    settled, left_out = config.resolve_for_model(
        dataset,
        datasets.entry(dataset).settings,
        preset=chosen or config.default_preset(dataset),
        assignments=assignments,
        options=_with_limits(given),
        data_folder=None if data is None else str(data.absolute()),
    )
    if left_out:
        log(f"the model {settled.model.name} has no {', '.join(left_out)}: left out")
    device, small = choose_device(settled.train.device), f"{dataset}-small"
    if chosen is None and device.type == "cpu" and small in config.preset_names():
        log(f"note: the settings of {dataset} want a GPU; --preset {small} is made for a CPU")
    if how.process_group.world_size > 1:
        # The run goes on with the same batches, and to the same weights, in any number of them.
        whole = settled.train.batch_size * how.process_group.world_size
        log(f"{how.process_group.world_size} processes, batches of {whole} in all")
        settled = replace(settled, train=replace(settled.train, batch_size=whole))
    out = out or Path("runs") / f"{dataset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    out = how.process_group.gather(out)[0]
    if how.process_group.is_main_process:
        runs.check_free(out)
    loaded = load_data(settled, process_group=how.process_group)
    likelihood = build_likelihood(settled.model, loaded.likelihood, loaded.frame_size)
    settled = replace(settled, model=replace(settled.model, likelihood=likelihood.name))
    module = _fresh(settled, loaded, how)
    # Once nothing else can go wrong.
    with how.process_group.main_process_first():
        run = runs.create(out, settled) if how.process_group.is_main_process else runs.open_run(out)
    with run.locked():
        return _begin(module, settled, loaded, run, how), run


def _resume(
    folder: Path, data: Path | None, given: dict[str, object], how: RunOptions
) -> tuple[Outcome, Run]:
    from zpyro.io import files
    from zpyro.training import config, runs
    from zpyro.training.building import choose_device

    run = runs.open_run(folder)
    with run.locked():
        settled = config.with_options(run.config(), _with_limits(given))
        if data is not None:
            settled = replace(settled, data_folder=str(data.absolute()))
        device = choose_device(settled.train.device)
        with how.process_group.main_process_first():
            damage = run.recover() if how.process_group.is_main_process else None
        if damage is not None:
            log(f"warning: {damage}")
        # A training killed before its first checkpoint has nothing to lose: it begins again.
        module = run.load("last", device, how.code.guide).module if run.has("last") else None
        loaded = load_data(settled, process_group=how.process_group)
        if how.process_group.is_main_process:
            files.replace_file(folder / runs.CONFIG, config.write_config(settled))
        if module is None:
            return _begin(_fresh(settled, loaded, how), settled, loaded, run, how), run
        return _fit(module, loaded, settled, run, how, resume=True), run


def _fresh(settled: Config, data: Dataset, how: RunOptions) -> SequenceModel:
    """The model to begin with."""
    from zpyro.distributed.seeding import seed_everything
    from zpyro.training.building import build_likelihood, build_model, choose_device

    likelihood = build_likelihood(settled.model, data.likelihood, data.frame_size)
    seed_everything(settled.train.seed)
    module = build_model(settled.model, likelihood, how.code.guide)
    module = module.to(choose_device(settled.train.device))
    _check_guide(module, data, settled, how.code)
    return module


def _begin(
    module: SequenceModel, settled: Config, data: Dataset, run: Run, how: RunOptions
) -> Outcome:
    """Train from the start."""
    if how.process_group.is_main_process:
        run.write_baselines(data.train, data.frame_size)
    return _fit(module, data, settled, run, how, resume=False)


def _check_guide(module: SequenceModel, data: Dataset, settled: Config, code: UserCode) -> None:
    """See that a guide of the user's own will do, before anything is written."""
    from zpyro.training import guide_checks

    if code.guide is None:
        return
    objective = settled.objective
    costs = (objective.auxiliary_weight, objective.auxiliary_weight_final, objective.reverse_weight)
    some = data.train[: min(8, len(data.train))].batch()
    guide_checks.check(module, some, needs_backward_states=any(costs), path=code.guide.file.path)


def _with_limits(given: dict[str, object]) -> dict[str, object]:
    """The options, with the limits that were not given lifted as soon as one was."""
    limits = ("train.max_steps", "train.epochs", "train.max_minutes")
    if not any(limit in given for limit in limits):
        return given
    return {**dict.fromkeys(limits), **given}


def _fit(
    module: SequenceModel,
    data: Dataset,
    settled: Config,
    run: Run,
    how: RunOptions,
    *,
    resume: bool,
) -> Outcome:
    from zpyro.training.allocation import keep_freed_memory
    from zpyro.training.callbacks import logger_for
    from zpyro.training.sequence_task import fit

    keep_freed_memory()
    if how.process_group.is_main_process:
        how.code.keep(run.folder)
    weights = sum(parameter.numel() for parameter in module.parameters())
    device = next(module.parameters()).device.type
    log(
        f"{data.name}: {len(data.train)} sequences to train on, {len(data.valid)} held out; "
        f"{settled.model.name} with {weights:,} weights on {device}; "
        f"run directory {run.folder}"
    )
    return fit(
        module,
        data,
        settled,
        run=run,
        resume=resume,
        callbacks=[logger_for(console())],
        detect_anomaly=how.detect_anomaly,
        process_group=how.process_group,
    )


def _log_outcome(outcome: Outcome, run: Run) -> None:
    from zpyro.training.callbacks import duration

    best = "" if outcome.best is None else f", best held-out bound {outcome.best:.1f} nats/sequence"
    skipped = f", {outcome.skipped} of them skipped as not finite" if outcome.skipped else ""
    log(f"{pluralize(outcome.step, 'step')} in {duration(outcome.seconds)}{best}{skipped}")
    if outcome.interrupted is not None:
        log(f"stopped and saved; continue with: zpyro train --resume {run.folder}")
        raise SystemExit(128 + outcome.interrupted)
    log(f"next: zpyro evaluate {run.folder}; zpyro sample {run.folder} --out samples")
