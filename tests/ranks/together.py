"""A training of 20 steps, alone or by several processes: ``python -m tests.ranks.together OUT``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.run.small import MODEL, SIZE, model, sequences, settings
from zpyro import evaluation, likelihoods
from zpyro.datasets.prepared import Store
from zpyro.datasets.sequences import Dataset
from zpyro.distributed import processes
from zpyro.distributed.seeding import seed_everything
from zpyro.training import fitting as training
from zpyro.training import runs
from zpyro.training.building import build_model
from zpyro.training.config import Config

COUNT = 33
"""Four batches of 8 and one of a single sequence: some processes have nothing of it."""


def result(together: processes.ProcessGroup, dies_at: int | None = None) -> dict[str, Any]:
    """What a training leaves: weights, validation, random state."""
    torch.set_num_threads(1)
    parts = sequences(COUNT, 0), sequences(7, 1), sequences(5, 2)
    data = Dataset("walks", *parts, "gaussian", SIZE)
    sizes = replace(MODEL, embedding_dropout=0.2, word_dropout=0.1)
    config = replace(settings(max_steps=20, validate_every=7), model=sizes)
    seed_everything(0)
    module = build_model(sizes, likelihoods.Gaussian(SIZE)).double()
    if dies_at is not None and together.rank == 1:
        kill_after(module, dies_at)
    outcome = training.fit(module, data, config, process_group=together)
    found = evaluation.evaluate(module, data.valid, batch_size=2, process_group=together)
    return {
        "weights": module.state_dict(),
        "best": outcome.best,
        "bounds": torch.from_numpy(found.elbo_by_sequence),
        "information": found.mutual_information,
        "active": found.active_units,
        "random": torch.get_rng_state(),
    }


def streams_config(size: int) -> Config:
    """Settings of :func:`train_on_streams` for batches of a size."""
    return settings(carry_state=True, batch_size=size, validate_every=20)


def train_on_streams(out: Path, data: Path, size: int, steps: int) -> None:
    """Train with the state carried along streams, in a run that is there, to a number of steps."""
    torch.set_num_threads(1)
    with processes.init_distributed("cpu") as together:
        config = streams_config(size)
        module = model().double()
        data_set = Store(data).dataset()
        config = replace(config, train=replace(config.train, max_steps=steps))
        run = runs.open_run(out)
        resume = run.has("last")
        training.fit(module, data_set, config, run=run, resume=resume, process_group=together)


def kill_after(module: nn.Module, steps: int) -> None:
    """End this process without a word in a step of the training."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += module.training
        if calls > steps:
            os.kill(os.getpid(), signal.SIGKILL)

    module.get_submodule("dropout").register_forward_pre_hook(count)


def leave(out: Path, dies_at: int | None = None) -> None:
    """Train, and leave the result of the first process in a file."""
    with processes.init_distributed("cpu") as together:
        found = result(together, dies_at)
        if together.is_main_process:
            torch.save(found, out)


if __name__ == "__main__":
    leave(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
