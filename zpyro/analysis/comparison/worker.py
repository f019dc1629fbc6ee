"""One run of a comparison as a process: ``python -m zpyro.analysis.comparison.worker RUN``.

It starts or resumes the training in a run directory, scores the best checkpoint and writes
``result.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from zpyro import evaluation
from zpyro.analysis.comparison.jobs import LOG, RESULT, Scoring
from zpyro.analysis.loading import load_dataset
from zpyro.analysis.scores import ELBO_KEYS
from zpyro.datasets.sequences import Dataset
from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.nn.devices import choose_device
from zpyro.settings import plain
from zpyro.training import plugins, runs
from zpyro.training.building import build_likelihood, build_model
from zpyro.training.callbacks import LineLogger
from zpyro.training.fitting import fit
from zpyro.training.runs import Run
from zpyro.training.trainer import Outcome
from zpyro.training.user_files import UserFile


def train(run: Run, dataset: Dataset) -> Outcome:
    """Start or resume the training of a run."""
    with run.locked():
        damage = run.recover()
        if damage is not None:
            print(f"warning: {damage}", file=sys.stderr)
        resume = run.has("last")
        last = run.load("last") if resume else None
        config = run.config(last, resume=True)
        device = choose_device(config.train.device)
        if last is not None:
            model = last.model.to(device)
        else:
            likelihood = build_likelihood(config.model, dataset.likelihood, dataset.frame_size)
            seed_everything(config.train.seed)
            model = build_model(config.model, likelihood).to(device)
        callbacks = [LineLogger(Console(file=sys.stdout, width=160))]
        return fit(
            model, dataset, config, run=run, resume=resume, callbacks=callbacks, progress=False
        )


def score(run: Run, dataset: Dataset, scoring: Scoring) -> dict[str, Any]:
    """The scores of a run's best checkpoint."""
    config = run.config()
    checkpoint = run.load("best", choose_device(config.train.device))
    sequences, particles = dataset.split(scoring.split), scoring.particles
    print(f"scoring the {scoring.split} split: ELBO", flush=True)
    elbo = evaluation.evaluate(checkpoint.model, sequences)
    values = {key: getattr(elbo, key) for key in ELBO_KEYS} | {
        "scoring": plain(scoring),
        "parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "hidden_size": config.model.hidden_size,
        "best_step": checkpoint.step,
    }
    if elbo.bits_per_sample is not None:
        values["bits_per_sample"] = elbo.bits_per_sample
    if sequences.data_type == "tokens":
        values["perplexity"] = elbo.perplexity
    if "iwae" in scoring.bounds:
        print(f"importance-weighted bound, {particles} paths", flush=True)
        found = evaluation.iwae(checkpoint.model, sequences, particles=particles)
        values |= {"iwae": found.iwae, "iwae_monte_carlo_stderr": found.monte_carlo_stderr}
        if sequences.data_type == "tokens":
            total = found.iwae * elbo.sequences
            values["perplexity_iwae"] = evaluation.perplexity(total, elbo.frames)
    if "smc" in scoring.bounds:
        print(f"particle-filter bound, {particles} particles", flush=True)
        found = evaluation.smc(checkpoint.model, sequences, particles=particles, runs=1)
        values["smc"] = found.smc
    return values


def run_job(folder: Path, scoring: Scoring, plugin_files: Sequence[UserFile]) -> int:
    """Train and score.

    Args:
        folder: the run directory.
        scoring: how the run is scored.
        plugin_files: to import first.

    Returns:
        0, or 128 + n after signal n.

    Raises:
        UserError: for a user's mistake.
    """
    for file in plugin_files:
        file.run()
    run = runs.open_run(folder)
    config = run.config()
    dataset = load_dataset(config)
    outcome = train(run, dataset)
    if outcome.interrupted is not None:
        return 128 + outcome.interrupted
    values = score(run, dataset, scoring)
    values |= {"seconds": outcome.seconds, "steps": outcome.step, "seed": config.train.seed}
    files.replace_file(folder / RESULT, json.dumps(values, indent=2) + "\n")
    return 0


def run_as_task(folder: Path, scoring: Scoring, plugin_files: Sequence[UserFile]) -> int:
    """:func:`run_job` as the last thing that this process does, with its output in ``log.txt``.

    Returns:
        The exit status that a process would have.

    Raises:
        UserError: if this machine does not see the run directory.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: is not on machine {socket.gethostname()}; choose an --out that all "
            "machines of the cluster share"
        )
    with (folder / LOG).open("ab") as log:
        for output in (1, 2):
            os.dup2(log.fileno(), output)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    try:
        return _exit_status(lambda: run_job(folder, scoring, plugin_files))
    except Exception:
        # Where a process would end with it.
        traceback.print_exc()
        return 1


def main() -> int:
    """Train and score; the exit status is 2 after a user's mistake, 128 + n after signal n."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--particles", type=int, default=25)
    parser.add_argument("--bound", action="append", default=[])
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    given = parser.parse_args()

    def run() -> int:
        plugin_files = plugins.read(given.plugin)
        scoring = Scoring(given.split, given.particles, tuple(given.bound))
        return run_job(given.run, scoring, plugin_files)

    return _exit_status(run)


def _exit_status(run: Callable[[], int]) -> int:
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
