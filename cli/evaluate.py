"""``zpyro evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log, print_table, progress, status
from .options import model_options
from .paths import PATH
from .sequences import load_split, open_run

if TYPE_CHECKING:
    from zpyro.analysis.scores import Scores


@click.command("evaluate")
@click.argument("run", type=PATH)
@click.option(
    "--data",
    type=PATH,
    help="Other data of the same type; they are normalized as the training data were.",
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
    type=click.Choice(["elbo", "iwae", "smc", "best"]),
    help="Add a tighter bound: importance-weighted, or by a particle filter; best adds both and "
    "the largest of the three.",
)
@click.option(
    "--particles",
    default=25,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Paths a sequence, for iwae, smc and best.",
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
    seed: int,
    **options: Any,
) -> None:
    """Print the evidence lower bound of a run and its parts, in nats per sequence and per frame.

    The weights of the training objective do not enter. Baselines are fitted to the training data.
    For continuous data: a diagonal Gaussian, and a linear predictor of the next frame. For binary
    data: how often each pixel or note is on, and how often given its neighbors. For tokens: a
    trigram model with Kneser-Ney smoothing; perplexities are exp of minus the bound over the number
    of tokens, including the end of each sequence.

    Few sequences can decide a mean: the median, a trimmed mean (without the lowest and the highest
    tenth of the sequences) and the five sequences with the lowest bounds are printed too. With the
    likelihood logistic-mixture all scores are log-probabilities of samples.

    \b
    Example:
      zpyro evaluate runs/digits --split test --json
      zpyro evaluate runs/digits --bound iwae --particles 100
      zpyro evaluate runs/chorales --bound best --particles 128
    """
    from zpyro import evaluation
    from zpyro.analysis import scores
    from zpyro.distributed.processes import available_cores, init_distributed
    from zpyro.errors import pluralize
    from zpyro.training.allocation import keep_freed_memory

    keep_freed_memory()
    scoring = {"batch_size": batch_size, "seed": seed}
    with init_distributed(options["device"]) as process_group:
        loaded = open_run(run, **options)
        if not loaded.model.latent_size:
            log("note: the model has no latents, so that every bound is its exact log-likelihood")
        if bound in ("smc", "best"):
            evaluation.check_can_filter(loaded.model)
        with process_group.main_process_first():
            if data is not None and split in (None, "all"):
                with status(f"loading {data}"):
                    sequences = loaded.all_of(data, workers=available_cores())
                for note in sequences.notes:
                    log(f"note: {note}")
            else:
                sequences = load_split(loaded, split or "test", data)
        with progress("evaluating") as on_batch:
            result = evaluation.evaluate(
                loaded.model, sequences, **scoring, on_batch=on_batch, process_group=process_group
            )
    if not process_group.is_main_process:
        return
    evaluation.check_finite(result)
    values = scores.elbo_scores(result, sequences)

    def tighter(name: str) -> Any:
        label = f"{scores.LABELS[name][0]}, {pluralize(particles, 'path')} a sequence"
        with progress(label) as on_batch:
            compute = evaluation.iwae if name == "iwae" else evaluation.smc
            return compute(
                loaded.model, sequences, particles=particles, **scoring, on_batch=on_batch
            )

    if bound == "best":
        found = (tighter("iwae"), tighter("smc"))
        values |= scores.largest_scores(result, *found, sequences)
    elif bound != "elbo":
        values |= scores.bound_scores(bound, tighter(bound), sequences)
    baselines = scores.score_baselines(loaded.run, loaded.model.likelihood, sequences)
    values |= scores.baseline_scores(baselines, sequences)
    if as_json:
        worst = [{"name": name, "elbo": elbo} for name, elbo in result.worst]
        click.echo(json.dumps({**values, "worst": worst}))
    else:
        step = "token" if sequences.data_type == "tokens" else "frame"
        title = f"{run}, {options['which']} checkpoint, {split or ('all' if data else 'test')}"
        _print(values, scores.labels_for(sequences), result.worst, step, title)


def _print(
    values: Scores,
    labels: Mapping[str, tuple[str, str]],
    worst: Sequence[tuple[str, float]],
    step: str,
    title: str,
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    for key, (label, unit) in labels.items():
        value = values.get(key)
        if value is not None:  # not a baseline for other data, nor a bound that was not asked for
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
            table.add_row(label.replace("frame", step), shown, unit.replace("frame", step))
    for number, (name, elbo) in enumerate(worst, start=1):
        # Names are the user's: not to be read as markup.
        table.add_row(Text(f"lowest bound {number}: {name}"), f"{elbo:,.2f}", "nats/sequence")
    print_table(table)
