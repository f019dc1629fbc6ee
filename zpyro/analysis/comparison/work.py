"""One run of a comparison as a process: ``python -m zpyro.analysis.comparison.work RUN``.

It trains the run that its directory describes, from the start or on from where it stood, scores the
best checkpoint and leaves ``result.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from zpyro import datasets, evaluation
from zpyro.analysis.comparison.schedule import RESULT
from zpyro.distributed.seeding import seed_everything
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.training import loop as training
from zpyro.training import runs
from zpyro.training.building import build_likelihood, build_model, choose_device
from zpyro.training.loggers import Lines

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Dataset
    from zpyro.training.loop import Outcome
    from zpyro.training.runs import Run


def train(run: Run, dataset: Dataset) -> Outcome:
    """Train a run from where it stands."""
    with run.locked():
        return _train(run, dataset)


def _train(run: Run, dataset: Dataset) -> Outcome:
    settled = run.config()
    device = choose_device(settled.train.device)
    damage = run.recover()
    if damage is not None:
        print(f"warning: {damage}", file=sys.stderr)
    resume = run.has("last")
    if resume:
        module = run.load("last", device).module
    else:
        likelihood = build_likelihood(settled.model, dataset.likelihood, dataset.frame_size)
        seed_everything(settled.train.seed)
        module = build_model(settled.model, likelihood).to(device)
    reporter = Lines(Console(file=sys.stdout, width=160))
    return training.fit(module, dataset, settled, run=run, resume=resume, reporter=reporter)


def score(run: Run, dataset: Dataset, split: str, particles: int) -> dict[str, Any]:
    """What the best checkpoint of a run gives on held-out sequences."""
    settled = run.config()
    checkpoint = run.load("best", choose_device(settled.train.device))
    sequences = dataset.split(split)
    plain = evaluation.evaluate(checkpoint.module, sequences)
    tight = evaluation.iwae(checkpoint.module, sequences, particles=particles)
    last = [record for record in run.records() if record["kind"] == "train"][-1:]
    values = {
        "elbo": plain.elbo,
        "elbo_per_frame": plain.elbo_per_frame,
        "iwae": tight.iwae,
        "iwae_monte_carlo_stderr": tight.monte_carlo_stderr,
        "kl": plain.kl,
        "log_likelihood": plain.log_likelihood,
        "active_units": plain.active_units,
        "sequences": plain.sequences,
        "frames": plain.frames,
        "particles": particles,
        "parameters": sum(p.numel() for p in checkpoint.module.parameters()),
        "hidden_size": settled.model.hidden_size,
        "best_step": checkpoint.step,
        "steps": last[0]["step"] if last else checkpoint.step,
    }
    if sequences.data_type == "tokens":
        per_token = plain.sequences / plain.frames
        values["perplexity"] = math.exp(-plain.elbo * per_token)
        values["perplexity_iwae"] = math.exp(-tight.iwae * per_token)
    return values


def main() -> int:
    """Train and score; the exit status is 2 for a user's mistake, 128 + n after signal n."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--particles", type=int, default=25)
    options = parser.parse_args()
    run = runs.open_run(options.run)
    settled = run.config()
    folder = None if settled.data_folder is None else Path(settled.data_folder)
    dataset = datasets.load(settled.dataset, folder, settled.data)
    outcome = train(run, dataset)
    if outcome.interrupted is not None:
        return 128 + outcome.interrupted
    values = score(run, dataset, options.split, options.particles)
    values |= {"seconds": outcome.seconds, "steps": outcome.step, "seed": settled.train.seed}
    files.replace_file(options.run / RESULT, json.dumps(values, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
