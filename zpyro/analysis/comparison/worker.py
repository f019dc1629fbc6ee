"""One run of a comparison as a process: ``python -m zpyro.analysis.comparison.worker RUN``.

It starts or resumes the training in a run directory, scores the best checkpoint and writes
``result.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from zpyro import evaluation
from zpyro.analysis.comparison.jobs import RESULT
from zpyro.analysis.loading import load_dataset
from zpyro.analysis.scores import ELBO_KEYS
from zpyro.datasets.sequences import Dataset
from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.nn.devices import choose_device
from zpyro.training import plugins, runs
from zpyro.training.building import build_likelihood, build_model
from zpyro.training.callbacks import LineLogger
from zpyro.training.fitting import fit
from zpyro.training.runs import Run
from zpyro.training.trainer import Outcome


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


def score(run: Run, dataset: Dataset, split: str, particles: int) -> dict[str, Any]:
    """The scores of a run's best checkpoint on a split."""
    config = run.config()
    checkpoint = run.load("best", choose_device(config.train.device))
    sequences = dataset.split(split)
    elbo = evaluation.evaluate(checkpoint.model, sequences)
    iwae = evaluation.iwae(checkpoint.model, sequences, particles=particles)
    values = {key: getattr(elbo, key) for key in ELBO_KEYS} | {
        "iwae": iwae.iwae,
        "iwae_monte_carlo_stderr": iwae.monte_carlo_stderr,
        "particles": particles,
        "parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "hidden_size": config.model.hidden_size,
        "best_step": checkpoint.step,
    }
    if sequences.data_type == "tokens":
        values["perplexity"] = elbo.perplexity
        values["perplexity_iwae"] = evaluation.perplexity(iwae.iwae * elbo.sequences, elbo.frames)
    return values


def main() -> int:
    """Train and score; the exit status is 2 after a user's mistake, 128 + n after signal n."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--particles", type=int, default=25)
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    options = parser.parse_args()
    try:
        plugins.load(options.plugin)
        run = runs.open_run(options.run)
        config = run.config()
        dataset = load_dataset(config)
        outcome = train(run, dataset)
        if outcome.interrupted is not None:
            return 128 + outcome.interrupted
        values = score(run, dataset, options.split, options.particles)
        values |= {"seconds": outcome.seconds, "steps": outcome.step, "seed": config.train.seed}
        files.replace_file(options.run / RESULT, json.dumps(values, indent=2) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
