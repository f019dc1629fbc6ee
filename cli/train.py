"""``zpyro train``."""

from __future__ import annotations

import contextlib
import datetime
import shlex
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import console, load_data, log
from .paths import PATH
from .user_code import UserCode, load_user_code, user_code_options

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Dataset
    from zpyro.distributed.processes import ProcessGroup
    from zpyro.models import SequenceModel
    from zpyro.training.callbacks import Callback
    from zpyro.training.config import Config
    from zpyro.training.runs import Run
    from zpyro.training.trainer import Outcome


@click.command("train")
@click.option("--dataset", help="Name of the data set; zpyro data list shows them.")
@click.option("--data", type=PATH, help="Where it is: a folder or a file.")
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
@click.option("--out", type=PATH, help="The run directory to make.")
@click.option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps, xpu.")
@click.option("--seed", type=int, help="Of weights, noise and data order.")
@click.option("--max-steps", type=int, help="Stop after so many steps in all.")
@click.option("--epochs", type=int, help="Stop after so many passes over the data in all.")
@click.option("--max-minutes", type=float, help="Stop after so many minutes in all.")
@click.option("--resume", type=PATH, help="Go on with this run directory.")
@click.option(
    "--init",
    type=PATH,
    metavar="RUN",
    help="Start a new run from the best weights of this one, or the last if it has no others; its "
    "settings are the preset, if none is given.",
)
@click.option(
    "--detect-anomaly", is_flag=True, help="Stop at the first NaN or infinity and name it; slow."
)
@click.option(
    "--logger",
    "loggers",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb", "mlflow"]),
    help="Send the records to an experiment tracker as well; again for another.",
)
@user_code_options
def command(
    dataset: str | None,
    data: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    init: Path | None,
    detect_anomaly: bool,
    loggers: tuple[str, ...],
    guide: str | None,
    run_guide: bool,
    plugins: tuple[Path, ...],
    run_plugins: bool,
    **options: Any,
) -> None:
    """Train a model and leave a run directory.

    Ctrl-C finishes the step and saves; --resume continues from there. Where torchrun restarts the
    processes after one of them died, they continue the run in --out from its last checkpoint.

    \b
    Example:
      zpyro train --dataset wav --data recordings --set model.hidden_size=512 --max-minutes 30
    """
    code = load_user_code(
        resume, guide=guide, run_guide=run_guide, plugins=plugins, run_plugins=run_plugins
    )
    from zpyro.distributed.processes import init_distributed, restarts
    from zpyro.errors import UserError
    from zpyro.settings import flatten
    from zpyro.training.allocation import keep_freed_memory
    from zpyro.training.callbacks import logger_for
    from zpyro.training.config import write_config
    from zpyro.training.fitting import fit
    from zpyro.training.loggers import LOGGERS

    for name in loggers:
        LOGGERS[name].check_installed()
    given = {f"train.{name}": value for name, value in options.items() if value is not None}
    if resume and (dataset or preset or out or init or "train.seed" in given):
        raise UserError(
            "--resume takes the run's own settings; leave out --dataset, --preset, --out, --init "
            "and --seed"
        )
    restarted, restarts_allowed = restarts()
    if restarts_allowed and out is None and resume is None:
        raise UserError(
            "--out is missing; torchrun --max-restarts needs it, to continue that run after a "
            "restart"
        )
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        process_group = stack.enter_context(init_distributed(options["device"] or "auto"))
        if restarted and out is not None and _was_started(out, process_group):
            log(f"restarted by torchrun, for the {restarted}. time; continuing with {out}")
            # The command is the same, and the run has its settings.
            session = _resume(out, None, (), {}, code, process_group)
        elif resume is None:
            session = _start(
                dataset, data, preset, init, assignments, out, given, code, process_group
            )
        else:
            session = _resume(resume, data, assignments, given, code, process_group)
        stack.enter_context(session.run.locked(is_main_process=process_group.is_main_process))
        settings = flatten(tomllib.loads(write_config(session.config)))
        trackers = [LOGGERS[name](session.run.folder, settings) for name in loggers]
        outcome = fit(
            session.model,
            session.data,
            session.config,
            run=session.run,
            resume=session.resume,
            callbacks=[_run_writer(session, code), logger_for(console()), *trackers],
            progress=False,
            detect_anomaly=detect_anomaly,
            process_group=process_group,
        )
    _log_outcome(outcome, session)


@dataclass(frozen=True)
class Session:
    """What is trained, and where.

    Attributes:
        model: the model.
        data: the data set.
        config: all settings.
        run: the run directory.
        resume: whether training continues from the last checkpoint of the run.
        step: of that checkpoint.
        changed: settings of the run that are no longer those of that checkpoint, in words.
    """

    model: SequenceModel
    data: Dataset
    config: Config
    run: Run
    resume: bool
    step: int = 0
    changed: tuple[str, ...] = ()

    def log_start(self) -> None:
        """Log the sizes of data and model, the run directory, and the notes on the data."""
        from zpyro.errors import pluralize

        weights = sum(parameter.numel() for parameter in self.model.parameters())
        device = next(self.model.parameters()).device.type
        log(
            f"{self.data.name}: {pluralize(len(self.data.train), 'sequence')} to train on, "
            f"{len(self.data.valid)} held out; {self.config.model.name} with {weights:,} weights "
            f"on {device}; run directory {self.run.folder}"
        )
        if self.config.train.init is not None and not self.resume:
            log(f"starting from the weights of {self.config.train.init}")
        for note in (*self.changed, *self.config.objective.notes, *self.data.notes):
            log(f"note: {note}")


def _start(
    dataset: str | None,
    data: Path | None,
    preset: str | None,
    init: Path | None,
    assignments: tuple[str, ...],
    out: Path | None,
    given: dict[str, object],
    code: UserCode,
    process_group: ProcessGroup,
) -> Session:
    """A new model in a new run directory."""
    from zpyro import datasets
    from zpyro.errors import UserError
    from zpyro.nn.devices import choose_device
    from zpyro.training import config, runs
    from zpyro.training.building import fit_to_data
    from zpyro.training.loading import copy_weights

    chosen = None if preset is None else config.read_preset(preset)
    if init is not None:
        before = runs.open_run(init).config()
        chosen = chosen or config.preset_of(tomllib.loads(config.write_config(before)), str(init))
        given = {**given, "train.init": str(init.absolute())}
        same_data = (dataset or chosen.dataset) == before.dataset
        if data is None and same_data and before.data_folder is not None:
            data = Path(before.data_folder)
    dataset = dataset or (chosen.dataset if chosen else None)
    if dataset is None:
        raise UserError(f"--dataset is missing; choose one of {', '.join(datasets.names())}")
    settled = config.resolve(
        dataset,
        datasets.entry(dataset).settings,
        preset=chosen or config.default_preset(dataset),
        assignments=assignments,
        options=_with_limits(given),
        data_folder=None if data is None else str(data.absolute()),
        on_dropped=lambda model, keys: log(f"the model {model} has no {', '.join(keys)}: left out"),
    )
    device, small = choose_device(settled.train.device), f"{dataset}-small"
    if chosen is None and device.type == "cpu" and small in config.preset_names():
        log(f"note: the settings of {dataset} need a GPU; --preset {small} is for a CPU")
    if process_group.world_size > 1:
        # The run keeps the size of the whole batch, so that any number of processes resumes it.
        total = settled.train.batch_size * process_group.world_size
        log(f"{process_group.world_size} processes, batches of {total} in all")
        settled = replace(settled, train=replace(settled.train, batch_size=total))
    out = out or Path("runs") / f"{dataset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    out = process_group.gather(out)[0]
    if process_group.is_main_process:
        runs.check_free(out)
    loaded = load_data(settled, process_group=process_group)
    settled = replace(settled, model=fit_to_data(settled.model, loaded))
    if loaded.settings is not None:
        settled = replace(settled, data=loaded.settings)
    model = _new_model(settled, loaded, code)
    if settled.train.init is not None:
        # A first time, so that other weights than the model's leave no directory behind.
        copy_weights(model, settled.train.init)
    # Written last: a mistake in the settings or data leaves no directory behind.
    with process_group.main_process_first():
        run = runs.create(out, settled) if process_group.is_main_process else runs.open_run(out)
    if process_group.is_main_process:
        run.write_baselines(loaded.train, loaded.frame_size)
    return Session(model, loaded, settled, run, resume=False)


def _was_started(out: Path, process_group: ProcessGroup) -> bool:
    """Whether there is a run to continue, as the main process sees it."""
    from zpyro.training.runs import CONFIG

    return process_group.gather((out / CONFIG).is_file())[0]


def _resume(
    folder: Path,
    data: Path | None,
    assignments: tuple[str, ...],
    given: dict[str, object],
    code: UserCode,
    process_group: ProcessGroup,
) -> Session:
    """The model of a run, from its last checkpoint."""
    from zpyro.nn.devices import choose_device
    from zpyro.training import config, runs

    run = runs.open_run(folder)
    with run.locked(is_main_process=process_group.is_main_process):
        with process_group.main_process_first():
            damage = run.recover() if process_group.is_main_process else None
        if damage is not None:
            log(f"warning: {damage}")
        # A training killed before its first checkpoint starts again.
        last = run.load("last", guide=code.guide) if run.has("last") else None
        resumed = run.config(last, resume=True, assignments=assignments)
        settled = config.with_options(resumed, _with_limits(given))
        if data is not None:
            settled = replace(settled, data_folder=str(data.absolute()))
        loaded = load_data(settled, process_group=process_group)
        if last is None:
            model = _new_model(settled, loaded, code)
        else:
            model = last.model.to(choose_device(settled.train.device))
        if last is None and process_group.is_main_process:
            kept = run.set_aside_best()
            if kept is not None:
                log(f"warning: {kept}")
            run.write_baselines(loaded.train, loaded.frame_size)
    if last is None:
        return Session(model, loaded, settled, run, resume=False)
    before, options = last.settings, _with_limits(given)
    changed = tuple(
        f"{key} is {value}, was {before[key]}"
        for key, value in config.recorded_settings(settled).items()
        if key in before and key not in options and before[key] != value
    )
    return Session(model, loaded, settled, run, True, last.step, changed)


def _run_writer(session: Session, code: UserCode) -> Callback:
    """Writes the settings and copies of the user's code when nothing is left to check.

    A mistake leaves the run as it was, and its message is the only line.
    """
    from zpyro.io import files
    from zpyro.training import config, runs
    from zpyro.training.callbacks import Callback

    class RunWriter(Callback):
        def on_fit_start(self, task: object, state: object) -> None:
            del task, state
            session.log_start()
            text = config.write_config(session.config)
            files.replace_file(session.run.folder / runs.CONFIG, text)
            code.keep(session.run.folder)

    return RunWriter()


def _new_model(settled: Config, data: Dataset, code: UserCode) -> SequenceModel:
    """A model with fresh weights; the user's code is tried before anything is written."""
    import torch

    from zpyro.distributed.seeding import seed_everything
    from zpyro.models import model_inputs
    from zpyro.nn.devices import choose_device, fork_rng
    from zpyro.training import build_objective, guide_checks
    from zpyro.training.building import build_likelihood, build_model

    likelihood = build_likelihood(settled.model, data.likelihood, data.frame_size)
    seed_everything(settled.train.seed)
    model = build_model(settled.model, likelihood, code.guide)
    model = model.to(choose_device(settled.train.device))
    batch = data.train[: min(8, len(data.train))].batch()
    if code.guide is not None:
        weights = settled.objective
        used = weights.auxiliary_weight, weights.auxiliary_weight_final, weights.reverse_weight
        path = code.guide.file.path
        guide_checks.check(model, batch, needs_backward_states=any(used), path=path)
    if code.plugins:
        objective = build_objective(settled.objective, steps_per_epoch=1)
        inputs = model_inputs(model, batch)
        with fork_rng(inputs[0].device), torch.no_grad():
            objective.terms(model.model, model.active_guide, *inputs)
    return model


def _with_limits(given: dict[str, object]) -> dict[str, object]:
    """The options; if one limit of the training is given, the others are lifted."""
    limits = ("train.max_steps", "train.epochs", "train.max_minutes")
    if not any(limit in given for limit in limits):
        return given
    return {**dict.fromkeys(limits), **given}


def _log_outcome(outcome: Outcome, session: Session) -> None:
    from zpyro.errors import pluralize
    from zpyro.training.callbacks import duration

    folder = shlex.quote(str(session.run.folder))
    if session.resume and outcome.step == session.step and outcome.interrupted is None:
        log(
            f"note: no step was taken, because the budget of the run ends before step "
            f"{session.step + 1}; raise it with --max-steps, --epochs or --max-minutes"
        )
    best = "" if outcome.best is None else f", best held-out bound {outcome.best:.1f} nats/sequence"
    skipped = f", {outcome.skipped} of them skipped as not finite" if outcome.skipped else ""
    log(f"{pluralize(outcome.step, 'step')} in {duration(outcome.seconds)}{best}{skipped}")
    if outcome.interrupted is not None:
        log(f"stopped and saved; continue with: zpyro train --resume {folder}")
        raise SystemExit(128 + outcome.interrupted)
    log(f"next: zpyro evaluate {folder}; zpyro sample {folder} --out samples")
