"""Likelihoods for sound from the command line: probabilities of samples, heavy tails."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch

from tests.cli.conftest import Zpyro, train
from zpyro.datasets import load
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


def test_scores_are_log_probabilities_of_samples(zpyro: Zpyro, sample_run: Path) -> None:
    result = zpyro("evaluate", sample_run, "--split", "train", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    samples = values["frames"] * 40
    nats = values["elbo"] * values["sequences"]
    assert values["bits_per_sample"] == pytest.approx(-nats / samples / math.log(2.0))
    # No bin has a probability above 1, and a uniform code has 16 bits.
    assert 0.0 < values["bits_per_sample"] < 16.0
    worst = [each["elbo"] for each in values["worst"]]
    assert worst == sorted(worst)
    assert len(worst) == 5
    assert all(each["name"].startswith("tone_") for each in values["worst"])
    assert worst[0] <= min(values["elbo_median"], values["elbo_trimmed"])
    # The baseline's density times the width of a bin.
    checkpoint = runs.open_run(sample_run).load("best", torch.device("cpu"))
    train_split = load(
        "wav", Path(str(runs.open_run(sample_run).config().data_folder)), frame_size=40
    )
    frames = np.concatenate(train_split.train.values).astype(np.float64)
    density = scipy.stats.norm.logpdf(frames, frames.mean(0), frames.std(0)).sum()
    likelihood = checkpoint.model.likelihood
    assert isinstance(likelihood, LogisticMixture)
    width = -math.log(32768.0 * likelihood.sample_scale)
    expected = (density + frames.size * width) / values["sequences"]
    assert values["baseline_gaussian"] == pytest.approx(expected, rel=1e-4)


def test_the_table_names_the_lowest_bounds(zpyro: Zpyro, sample_run: Path) -> None:
    result = zpyro("evaluate", sample_run, "--split", "train")
    assert result.exit_code == 0, result.output
    for text in ("bits per sample", "median", "lowest and highest 10%", "lowest bound 5: tone_"):
        assert text in result.stdout


def test_a_training_continues(zpyro: Zpyro, sample_run: Path) -> None:
    result = zpyro("train", "--resume", sample_run, "--max-steps", 16)
    assert result.exit_code == 0, result.output
    assert "was " not in result.output


def test_what_a_listener_wants(zpyro: Zpyro, sample_run: Path, tmp_path: Path) -> None:
    def written(command: str, name: str, *options: object) -> np.ndarray:
        result = zpyro(command, sample_run, "--out", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        return soundfile.read(tmp_path / "out" / name)[0]

    short = ("-n", 1, "--seconds", 0.2)
    whole, half, mean, dithered, again = (
        written("sample", "sample_1.wav", *short, *more)
        for more in ((), ("--output-noise", 0.5), ("--output-noise", 0), *2 * [("--dither",)])
    )
    np.testing.assert_allclose(half, 0.5 * (whole + mean), atol=3e-5)
    assert np.abs(whole - mean).mean() > 1e-3
    assert 0.0 < np.abs(whole - dithered).max() < 1e-4
    np.testing.assert_array_equal(dithered, again)
    one = ("--sequence", 0, "--draw")
    whole, half, mean = (
        written("reconstruct", "0_reconstruction.wav", *one, "--output-noise", noise)
        for noise in (1, 0.5, 0)
    )
    np.testing.assert_allclose(half, 0.5 * (whole + mean), atol=3e-5)
    cold = written("reconstruct", "0_reconstruction.wav", *one, "--temperature", 0.1)
    assert np.abs(cold - whole).max() > 1e-3


def test_options_of_samples_need_samples(
    zpyro: Zpyro, sample_run: Path, token_run: Path, tmp_path: Path
) -> None:
    for arguments, problem in (
        (("reconstruct", sample_run, "--output-noise", 0.5), "--output-noise: changes sampled"),
        (("reconstruct", sample_run, "--temperature", 0.5), "--temperature: changes sampled"),
        (("reconstruct", token_run, "--draw", "--output-noise", 0.5), "--output-noise: is for"),
        (("sample", token_run, "--output-noise", 0.5), "--output-noise: is for numbers"),
    ):
        result = zpyro(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert problem in result.output


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


@pytest.mark.parametrize("option", ["--temperature", "--output-noise"])
def test_a_number_that_is_none_is_refused(zpyro: Zpyro, array_run: Path, option: str) -> None:
    result = zpyro("sample", array_run, option, "nan")
    assert result.exit_code == 2
    assert "nan is not a number" in result.output
