"""Every model of the family from the command line: trained, gone on with, evaluated, sampled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Zpyro, train
from zpyro.models import MODELS
from zpyro.training import runs


@pytest.mark.parametrize("data", ["arrays", "tokens"])
@pytest.mark.parametrize("name", MODELS)
def test_train_resume_evaluate_and_sample(
    zpyro: Zpyro, request: pytest.FixtureRequest, tmp_path: Path, name: str, data: str
) -> None:
    path: Path = request.getfixturevalue(data)
    run = train(zpyro, "npz", path, tmp_path / "run", f"--set=model.name={name}")
    module = runs.open_run(run).load("best", torch.device("cpu")).model
    assert type(module) is MODELS[name]

    result = zpyro("train", "--resume", run, "--max-steps", 16)
    assert result.exit_code == 0, result.output
    assert "16 steps" in result.output

    result = zpyro("evaluate", run, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout.splitlines()[-1])
    assert np.isfinite(values["elbo"])
    assert (values["kl"] == 0.0) == (name == "rnn")
    assert values["elbo"] == pytest.approx(values["log_likelihood"] - values["kl"], abs=1e-6)

    result = zpyro("sample", run, "--out", tmp_path / "samples", "--count", 2, "--frames", 7)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "samples" / "samples.npz") as drawn:
        assert drawn["x"].shape[:2] == (2, 7)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        (
            "rnn",
            "model.forced_auxiliary=true",
            "model.forced_auxiliary is not a setting of the model rnn",
        ),
        (
            "storn",
            "model.conditional_layer_norm=true",
            "model.conditional_layer_norm is not a setting",
        ),
        (
            "vrnn",
            "objective.auxiliary_weight=0.1",
            "objective.auxiliary_weight has no effect on the model vrnn",
        ),
        ("lstm", "model.latent_size=3", "choose one of rnn, dmm, storn, vrnn, srnn, zforcing"),
    ],
)
def test_settings_that_a_model_cannot_follow(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, name: str, setting: str, message: str
) -> None:
    result = zpyro(
        *("train", "--dataset", "npz", "--data", arrays, "--out", tmp_path / "run"),
        *("--set", f"model.name={name}", "--set", setting, "--max-steps", 2),
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "remedy",
    [
        ("objective.bound=dreg", "objective.particles=4"),
        ("objective.bound=iwae", "objective.particles=4"),
        ("objective.kl_schedule=cyclical",),
        ("objective.kl_schedule=sigmoid",),
        ("objective.free_bits=0.2",),
        ("objective.free_bits=2", "objective.free_bits_per=sequence"),
        ("objective.skip_gradient=0.5",),
        ("model.word_dropout=0.3",),
    ],
    ids=" ".join,
)
def test_remedies_train_and_report_the_plain_bound(
    zpyro: Zpyro, tokens: Path, tmp_path: Path, remedy: tuple[str, ...]
) -> None:
    settings = [f"--set={each}" for each in remedy]
    run = train(zpyro, "npz", tokens, tmp_path / "run", "--set=train.log_every=4", *settings)
    records = [r for r in runs.open_run(run).records() if r["kind"] == "train"]
    assert records
    for record in records:
        plain = record["log_likelihood"] - record["kl"]
        assert record["bound"] == pytest.approx(plain, rel=1e-4)
