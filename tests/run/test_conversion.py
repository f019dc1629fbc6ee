"""Runs of older formats: ``tests/data/run_format_1`` was written by the code of its time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import zpyro
from zpyro.io import manifest
from zpyro.training import conversion
from zpyro.training.runs import Run
from zpyro_cli.main import main

OLD = Path(__file__).parents[1] / "data" / "run_format_1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(OLD, tmp_path / "run"))
    # Its settings name the data as data.npz.
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.fast
def test_the_run_is_of_the_old_format() -> None:
    """Otherwise the tests below would say nothing."""
    meta = json.loads((OLD / "last" / "meta.json").read_text())
    assert meta["format"] == 1
    assert "kind" in meta["data"]
    assert sorted(conversion.METADATA) == list(range(1, manifest.FORMAT))


def test_an_old_run_scores_as_it_did(old: Path) -> None:
    """The bound is the one that the old code's ``zpyro evaluate`` printed."""
    record = json.loads((OLD / "evaluation.json").read_text())
    loaded = zpyro.load_run(old)
    found = zpyro.evaluate(loaded.model, loaded.split("valid"))
    assert found.elbo == pytest.approx(record["elbo"], rel=1e-5)
    assert found.kl == pytest.approx(record["kl"], rel=1e-5)


def test_an_old_run_is_resumed_and_converted(old: Path) -> None:
    result = CliRunner(catch_exceptions=False).invoke(
        main, ["train", "--resume", str(old), "--max-steps", "5"]
    )
    assert result.exit_code == 0, result.output
    meta = json.loads((old / "last" / "meta.json").read_text())
    assert (meta["format"], meta["step"]) == (manifest.FORMAT, 5)
    assert "data_type" in meta["data"]
    assert Run(old).load("last").step == 5


@pytest.mark.fast
def test_metadata_are_converted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = manifest.FORMAT + 1
    monkeypatch.setattr(conversion, "FORMAT", newest)
    monkeypatch.setitem(
        conversion.METADATA, newest - 1, lambda meta: {**meta, "added": meta["format"]}
    )
    before = {"format": 1, "data": {"kind": "frames", "name": "npz"}}
    assert conversion.convert_metadata(before) == {
        "format": newest,
        "data": {"data_type": "frames", "name": "npz"},
        "added": newest - 1,
    }
    assert before["format"] == 1
