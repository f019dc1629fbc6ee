"""``zpyro evaluate``."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import console, load_data, log, pluralize, status
from .guides import use_guide
from .options import model_options

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Sequences
    from zpyro.evaluation import Evaluation, OnBatch
    from zpyro.training.checkpoint import Checkpoint
    from zpyro.training.runs import Run

LABELS = {
    "elbo": ("evidence lower bound", "nats/sequence"),
    "elbo_stderr": ("  its standard error", "nats/sequence"),
    "elbo_per_frame": ("  per frame", "nats/frame"),
    "log_likelihood": ("log-likelihood", "nats/sequence"),
    "kl": ("KL", "nats/sequence"),
    "perplexity": ("perplexity", "a token, from the bound, ends counted"),
    "iwae": ("importance-weighted bound", "nats/sequence"),
    "iwae_stderr": ("  its standard error", "nats/sequence"),
    "smc": ("particle-filter bound", "nats/sequence"),
    "smc_stderr": ("  its standard error", "nats/sequence"),
    "stderr": ("  of it from the draws alone", "nats/sequence"),
    "bound_perplexity": ("  its perplexity", "a token"),
    "particles": ("  paths a sequence", ""),
    "ess": ("  effective paths", ""),
    "active_units": ("latents in use", ""),
    "mutual_information": ("information between latents and frames", "nats/frame"),
    "sequences": ("sequences", ""),
    "frames": ("frames", ""),
    "baseline_gaussian": ("baseline: diagonal Gaussian", "nats/sequence"),
    "baseline_linear": ("baseline: linear predictor", "nats/sequence"),
    "baseline_trigram": ("baseline: Kneser-Ney trigram", "nats/sequence"),
    "baseline_trigram_perplexity": ("  its perplexity", "a token, on the same tokens"),
    "baseline_bernoulli": ("baseline: every pixel on its own", "nats/sequence"),
    "baseline_neighbors": ("baseline: given the pixels left and above", "nats/sequence"),
}


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Other data of the same kind; they are normalized as the training data were.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    help="Which sequences.  [default: test; with --data all]",
)
@click.option(
    "--bound",
    default="elbo",
    show_default=True,
    type=click.Choice(["elbo", "iwae", "smc"]),
    help="A tighter bound beside the plain one: importance-weighted, or by a particle filter.",
)
@click.option(
    "--particles",
    default=25,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Paths a sequence, for iwae and smc.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1, 1 << 20))
@model_options
def command(
    run: Path,
    data: Path | None,
    split: str | None,
    bound: str,
    particles: int,
    as_json: bool,
    batch_size: int,
    which: str,
    seed: int,
    device: str,
    guide: str | None,
    run_guide: bool,
) -> None:
    """Print the pure evidence lower bound of a run, nats per sequence, and what it is made of.

    No weight of the training objective enters. Baselines are fitted to the training data. For
    continuous data: a diagonal Gaussian, and a linear predictor of the next frame. For binary data:
    how often every pixel is on, and how often given the pixels left of it and above it. For tokens:
    a trigram model with Kneser-Ney smoothing; perplexities are exp of minus the bound over the
    number of tokens, the end of every sequence counted as one of them.

    \b
    Example:
      zpyro evaluate runs/digits --split test --json
      zpyro evaluate runs/digits --bound iwae --particles 100
    """
    from zpyro import evaluation
    from zpyro.distributed.processes import init_distributed
    from zpyro.training import runs
    from zpyro.training.allocation import keep_freed_memory
    from zpyro.training.building import choose_device

    keep_freed_memory()
    opened = runs.open_run(run)
    use_guide(run, guide, run_guide)
    with init_distributed(device) as process_group:
        checkpoint = opened.load(which, choose_device(device))
        if bound == "smc":
            evaluation.check_can_filter(checkpoint.module)
        with process_group.main_process_first():
            sequences = _sequences(opened, checkpoint, data, split)
        with _progress() as on_batch:
            result = evaluation.evaluate(
                checkpoint.module,
                sequences,
                batch_size=batch_size,
                seed=seed,
                on_batch=on_batch,
                process_group=process_group,
            )
    if not process_group.is_main_process:
        return
    evaluation.check_finite(result)
    values = _values(result, sequences.data_type)
    if bound != "elbo":
        with _progress(
            f"{LABELS[bound][0]}, {pluralize(particles, 'path')} a sequence"
        ) as on_batch:
            values |= _tighter(
                bound,
                checkpoint,
                sequences,
                particles=particles,
                batch_size=batch_size,
                seed=seed,
                on_batch=on_batch,
            )
    values |= _baselines(opened, checkpoint, sequences)
    if as_json:
        click.echo(json.dumps(values))
    else:
        step = "token" if sequences.data_type == "tokens" else "frame"
        _print(values, step, f"{run}, {which} checkpoint, {split or ('all' if data else 'test')}")


def _sequences(run: Run, checkpoint: Checkpoint, data: Path | None, split: str | None) -> Sequences:
    """The sequences to score, on the scale that the model was trained on."""
    from zpyro import datasets
    from zpyro.analysis import selection as choosing
    from zpyro.datasets.sequences import Normalization

    config = run.config()
    scale = Normalization(checkpoint.data.mean, checkpoint.data.scale)
    if data is not None and split in (None, "all"):
        with status(f"loading {data}"):
            found = datasets.load_all(
                config.dataset, data, config.data, scale, checkpoint.vocabulary
            )
    else:
        if data is not None:
            config = replace(config, data_folder=str(data))
        loaded = load_data(config, checkpoint.vocabulary)
        found = loaded.split(split or "test")
    return choosing.renormalize_like(checkpoint, found)


@contextlib.contextmanager
def _progress(what: str = "evaluating") -> Generator[OnBatch, None, None]:
    """A bar in a terminal; elsewhere a line that says what is awaited, and others on the way."""
    from rich.progress import Progress

    from zpyro.training.loggers import Pace

    screen = console()
    if not screen.is_terminal:
        log(what)
        pace = Pace()

        def tell(done: int, total: int) -> None:
            if pace.due():
                pace.spoken()
                log(f"{what}: {done:,} of {total:,}")

        yield tell
        return
    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _values(result: Evaluation, kind: str) -> dict[str, float | int | None]:
    """What is printed, by the keys of the JSON object."""
    keys = (
        "elbo",
        "elbo_stderr",
        "elbo_per_frame",
        "kl",
        "log_likelihood",
        "active_units",
        "mutual_information",
        "sequences",
        "frames",
    )
    values = {key: getattr(result, key) for key in keys}
    # JSON knows no infinity, which a bound far off may lead to, and no NaN.
    if not math.isfinite(result.mutual_information):
        values["mutual_information"] = None
    known = kind == "tokens" and math.isfinite(result.perplexity)
    return {**values, "perplexity": result.perplexity if known else None}


def _tighter(
    bound: str, checkpoint: Checkpoint, sequences: Sequences, **settings: Any
) -> dict[str, float | int | None]:
    """The bound by importance weights or by a particle filter, by the keys of the JSON object."""
    from zpyro import evaluation

    score = evaluation.iwae if bound == "iwae" else evaluation.smc
    result = score(checkpoint.module, sequences, **settings)
    nats = float(getattr(result, bound))
    tokens = sequences.data_type == "tokens"
    total = nats * len(sequences)
    return {
        bound: nats,
        f"{bound}_stderr": result.stderr,
        "particles": result.particles,
        "stderr": result.monte_carlo_stderr,
        "ess": result.effective_paths,
        "bound_perplexity": evaluation.perplexity(total, sequences.num_frames) if tokens else None,
    }


def _baselines(
    run: Run, checkpoint: Checkpoint, sequences: Sequences
) -> dict[str, float | int | None]:
    """What simple models, fitted to the training data, give the same sequences."""
    from zpyro.evaluation import perplexity
    from zpyro.evaluation.baselines.files import NAMES

    fitted = run.baselines(sequences, checkpoint.module.likelihood.size)
    scores = {name: baseline.score(sequences) for name, baseline in fitted.items()}
    values: dict[str, float | int | None] = {
        f"baseline_{name}": float(scores[name].mean()) if name in scores else None for name in NAMES
    }
    values["baseline_trigram_perplexity"] = (
        perplexity(float(scores["trigram"].sum()), sequences.num_frames)
        if "trigram" in scores
        else None
    )
    return values


def _print(values: dict[str, float | int | None], step: str, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for key, (label, unit) in LABELS.items():
        value = values.get(key)
        if value is None:
            # A baseline for data of another kind, a bound that was not asked for.
            continue
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
        table.add_row(label.replace("frame", step), shown, unit.replace("frame", step))
    Console().print(table)
