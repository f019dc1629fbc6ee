"""A run that starts from the weights of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

import zpyro as library
from tests.cli.conftest import Zpyro, train


def test_it_has_the_weights_and_the_settings(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    first = train(zpyro, "npz", arrays, tmp_path / "first", "--set=model.name=vrnn")
    second = tmp_path / "second"
    steps = ("--max-steps", 1, "--set=train.learning_rate=1e-12", "--set=train.average=0")
    result = zpyro("train", "--init", first, *steps, "--out", second)
    assert result.exit_code == 0, result.output
    assert f"starting from the weights of {first}" in result.output
    weights, own = (library.load(run).state_dict() for run in (first, second))
    for name, weight in weights.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-9)
    records = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "valid"] == [0, 1]
    # Killed before its first checkpoint, it begins with the same weights again.
    shutil.rmtree(second / "last")
    shutil.rmtree(second / "best")
    (second / "metrics.jsonl").unlink()
    assert zpyro("train", "--resume", second, "--max-steps", 1).exit_code == 0
    for name, weight in library.load(second).state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-9)
    # Other settings, and the data given anew.
    third = tmp_path / "third"
    result = zpyro(
        *("train", "--dataset", "npz", "--preset", first / "config.toml", "--init", first),
        *("--out", third),
        *("--max-steps", 1, "--set=objective.kl_weight=1"),
    )
    assert result.exit_code == 0, result.output


def test_another_model_is_refused(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    first = train(zpyro, "npz", arrays, tmp_path / "first", "--set=model.name=vrnn")
    for setting, message in (
        ("model.hidden_size=9", "tensor cell.lstm.bias_hh_l0 has"),
        ("model.name=dmm", "tensor "),
    ):
        result = zpyro(
            *("train", "--init", first, "--max-steps", 1, "--set", setting),
            *("--out", tmp_path / "other"),
        )
        assert result.exit_code == 2
        assert "error: train.init, the weights to start from: " in result.output
        assert "first/" in result.output
        assert message in result.output
        assert not (tmp_path / "other").exists()
    result = zpyro("train", "--init", tmp_path / "none", "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "is not a run directory" in result.output
    result = zpyro("train", "--init", first, "--resume", first)
    assert result.exit_code == 2
    assert "--init" in result.output
