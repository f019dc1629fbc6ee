"""The autoregressive likelihood of bits from the command line: every bound, samples, a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.cli.conftest import Zpyro, train
from zpyro.likelihoods import NADE
from zpyro.training import runs


def test_a_run_with_bits_that_depend_on_each_other(zpyro: Zpyro, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 2, size=(40, 6, 5)).astype(np.float32)
    np.savez(tmp_path / "bits.npz", x=x)
    settings = ("data.likelihood=bernoulli", "model.likelihood=nade", "model.nade_size=7")
    run = train(
        zpyro, "npz", tmp_path / "bits.npz", tmp_path / "run", *(f"--set={s}" for s in settings)
    )
    model = runs.open_run(run).load("best", torch.device("cpu")).model
    assert model.likelihood == NADE(5, nade_size=7)
    result = zpyro("train", "--resume", run, "--max-steps", 16)
    assert result.exit_code == 0, result.output
    for bound in ("elbo", "iwae", "smc"):
        result = zpyro("evaluate", run, "--bound", bound, "--json")
        assert result.exit_code == 0, result.output
        assert np.isfinite(json.loads(result.stdout.splitlines()[-1])[bound])
    result = zpyro("sample", run, "--out", tmp_path / "samples", "--count", 2, "--frames", 7)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "samples" / "samples.npz") as sampled:
        assert set(np.unique(sampled["x"])) <= {0.0, 1.0}
    result = zpyro("inspect", run, "--sequence", 0, "--particles", 2, "--scored", 2)
    assert result.exit_code == 0, result.output


def test_it_is_for_bits_only(zpyro: Zpyro, tokens: Path, tmp_path: Path) -> None:
    result = zpyro(
        *("train", "--dataset", "npz", "--data", tokens, "--out", tmp_path / "run"),
        *("--set", "model.likelihood=nade"),
    )
    assert result.exit_code == 2
    assert "model.likelihood nade does not fit this data set" in result.output
