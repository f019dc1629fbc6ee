"""Training on the bound of a particle filter from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Zpyro, train


def test_a_run_is_trained_and_resumed(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    settings = ("model.name=vrnn", "objective.bound=fivo", "objective.particles=3")
    run = train(zpyro, "npz", arrays, tmp_path / "run", *(f"--set={each}" for each in settings))
    result = zpyro("train", "--resume", run, "--max-steps", 16)
    assert result.exit_code == 0, result.output
    # Validation is by the filter's bound, at the training's number of particles.
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [record for record in found if record["kind"] == "valid"]
    best = json.loads((run / "best" / "meta.json").read_text())["metrics"]["smc"]
    assert max(record["smc"] for record in valid) == best
    assert all(record["smc"] != record["elbo"] for record in valid)
    result = zpyro("evaluate", run, "--bound", "smc", "--particles", 4, "--json")
    assert result.exit_code == 0, result.output
    assert np.isfinite(json.loads(result.stdout.splitlines()[-1])["smc"])


@pytest.mark.parametrize("bound", ["elbo", "iwae", "fivo"])
def test_one_particle_is_announced_as_the_plain_bound(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, bound: str
) -> None:
    more = ("--set=model.name=vrnn", f"--set=objective.bound={bound}", "--max-steps=1")
    result = zpyro("train", "--dataset=npz", "--data", arrays, "--out", tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    told = f"note: objective.bound={bound} with one particle is the plain bound" in result.stderr
    assert told == (bound != "elbo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.name=rnn", "objective.bound=fivo"), "the model rnn has no latents"),
        (("objective.resampling_gradient=true",), "is for the bound fivo, not elbo"),
        (("objective.bound=fivo", "objective.resampling_threshold=2"), "must be"),
        (("objective.bound=fivo", "objective.free_bits=0.1"), "free_bits is for the bound elbo"),
    ],
)
def test_settings_that_do_not_fit(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    result = zpyro(
        *("train", "--dataset", "npz", "--data", arrays, "--out", tmp_path / "run"),
        *("--max-steps", 2, *(f"--set={each}" for each in settings)),
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()
