"""``zpyro train --logger NAME``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Zpyro


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_in_the_run_directory(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    given = ("train", "--dataset", "npz", "--data", arrays, "--out", run, *SMALL)
    assert zpyro(*given, "--max-steps", 3, "--logger", "tensorboard").exit_code == 0
    (events,) = (run / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"valid/elbo" in content
    assert b"model.hidden_size = 12" in content


def test_a_missing_tracker_leaves_no_run_directory(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return None if name == "mlflow" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    given = ("train", "--dataset", "npz", "--data", arrays, "--out", tmp_path / "run")
    result = zpyro(*given, "--logger", "mlflow")
    assert result.exit_code == 2
    assert result.output == (
        "error: logger mlflow: is not installed; "
        'pip install "zpyro[mlflow]", or leave the logger out\n'
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker(zpyro: Zpyro) -> None:
    result = zpyro("train", "--dataset", "vowels", "--logger", "tensorbord")
    assert result.exit_code == 2
    assert "'tensorboard', 'wandb', 'mlflow'" in result.output
