"""The run directory: metrics and baselines."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.run.small import SIZE, sequences, settings
from zpyro import datasets
from zpyro.errors import UserError
from zpyro.evaluation.baselines import continuous as baselines
from zpyro.evaluation.baselines import files as baseline_files
from zpyro.training import config, runs
from zpyro.training.runs import MetricsLog, Run

pytestmark = pytest.mark.fast


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.create(tmp_path / "run", settings())


def test_metrics_go_on_without_gap_or_double(run: Run) -> None:
    log = MetricsLog(run, 0)
    for step in range(1, 6):
        log.append({"kind": "train", "step": step})
    log.close()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    log = MetricsLog(run, 3)
    log.append({"kind": "train", "step": 4, "loss": math.inf, "kl": math.nan})
    log.flush()
    log.close()
    records = run.records()
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert records[-1] == {"kind": "train", "step": 4, "loss": None, "kl": None}


def test_a_setting_with_a_former_name_is_read(run: Run) -> None:
    lines = ['dataset = "vowels"', 'data_folder = "none"', "[data]", "row_frames = 30"]
    (run.folder / runs.CONFIG).write_text("\n".join(lines))
    assert run.config().data.segment_length == 30


def test_a_preset_with_a_former_name_is_refused(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("[data]\nrow_frames = 30\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row_frames was renamed; use data\.segment_length"):
        config.resolve(
            "vowels", datasets.entry("vowels").settings, preset=config.read_preset(str(preset))
        )


def test_a_run_without_metrics_has_no_records(run: Run) -> None:
    assert run.records() == []


def test_baselines_come_back(run: Run) -> None:
    train = sequences(30, 0)
    assert run.baselines(sequences(1, 0), SIZE) == {}
    run.write_baselines(train, SIZE)
    fitted = run.baselines(sequences(1, 0), SIZE)
    for name, fit in baseline_files.DENSITIES.items():
        np.testing.assert_allclose(fitted[name].score(train), fit(train).score(train))
    assert fitted["linear"].score(train).mean() > fitted["gaussian"].score(train).mean()


def test_baselines_of_many_frames_are_fitted_on_some(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = sequences(30, 0)
    monkeypatch.setattr(baseline_files, "BASELINE_FRAMES", int(train.lengths[:10].sum()))
    run.write_baselines(train, SIZE)
    expected = baselines.diagonal_gaussian(train[:10])
    np.testing.assert_allclose(
        run.baselines(sequences(1, 0), SIZE)["gaussian"].offset, expected.offset
    )


def test_broken_baselines_are_named(run: Run) -> None:
    run.write_baselines(sequences(30, 0), SIZE)
    with pytest.raises(UserError, match="has shape"):
        run.baselines(replace(sequences(1, 0), values=(np.zeros((2, 6), "f4"),)), 6)
    (run.folder / "baselines.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"baselines\.safetensors: is corrupt"):
        run.baselines(sequences(1, 0), SIZE)


def test_links_to_nowhere_are_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a directory"):
        runs.create(tmp_path / "link", settings())
    (tmp_path / "empty").mkdir()
    assert runs.create(tmp_path / "empty", settings()).folder == tmp_path / "empty"
