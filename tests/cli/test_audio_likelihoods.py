"""Likelihoods for sound from the command line: probabilities of samples, heavy tails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Zpyro, train
from zpyro.likelihoods import LogisticMixture, StudentT
from zpyro.training import runs


@pytest.fixture(scope="module")
def sample_run(zpyro: Zpyro, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tones whose likelihood gives probabilities of samples."""
    settings = ("data.frame_size=40", "model.likelihood=logistic-mixture", "model.logistics=3")
    out = tmp_path_factory.mktemp("runs") / "samples"
    return train(zpyro, "wav", tones, out, *(f"--set={each}" for each in settings))


def test_the_grid_comes_from_the_normalization_of_the_data(sample_run: Path) -> None:
    run = runs.open_run(sample_run)
    checkpoint = run.load("best", torch.device("cpu"))
    likelihood, data = checkpoint.model.likelihood, checkpoint.data
    assert isinstance(likelihood, LogisticMixture)
    assert (likelihood.sample_mean, likelihood.sample_scale) == (data.mean, data.scale)
    assert (likelihood.logistics, likelihood.sample_bits, likelihood.mu_law) == (3, 16, False)
    assert run.config().model == checkpoint.config


def test_a_training_continues(zpyro: Zpyro, sample_run: Path) -> None:
    result = zpyro("train", "--resume", sample_run, "--max-steps", 16)
    assert result.exit_code == 0, result.output
    assert "was " not in result.output


def test_samples_of_other_data_are_refused(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    result = zpyro(
        *("train", "--dataset", "npz", "--data", arrays, "--out", tmp_path / "run"),
        *("--set", "model.likelihood=logistic-mixture"),
    )
    assert result.exit_code == 2
    assert "model.likelihood logistic-mixture is for sound" in result.output
    assert "take gaussian" in result.output
    assert not (tmp_path / "run").exists()


def test_heavy_tails(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    run = train(zpyro, "npz", arrays, tmp_path / "run", "--set=model.likelihood=student-t")
    checkpoint = runs.open_run(run).load("best", torch.device("cpu"))
    assert checkpoint.model.likelihood == StudentT(5, log_variance_bounds=(-14.0, 8.0))
