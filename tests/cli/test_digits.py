"""Digits at the command line: training, scores beside baselines, pictures of samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.cli.conftest import Zpyro, train
from tests.datasets.test_mnist import digits, write_text
from zpyro.datasets import load
from zpyro.datasets.npz import load_plain
from zpyro.evaluation.baselines import binary as binary_baselines
from zpyro.training import runs


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the digits are prepared on first use."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zpyro.datasets.prepared.engine.cache_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for seed, (name, count) in enumerate((("train", 40), ("valid", 6), ("test", 10))):
        write_text(folder / f"binarized_mnist_{name}.amat", digits(count, seed))
    return folder


@pytest.fixture(scope="module")
def digit_run(zpyro: Zpyro, digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    more = ("--preset=mnist-small", "--set=data.downsample=4")
    return train(zpyro, "mnist", digit_files, out, *more)


def test_scores_stand_beside_the_baselines_of_binary_data(
    zpyro: Zpyro, digit_run: Path, digit_files: Path
) -> None:
    values = json.loads(zpyro("evaluate", digit_run, "--json").stdout)
    assert (values["sequences"], values["frames"]) == (10, 70)
    data = load("mnist", digit_files, row_by_row=True, downsample=4)
    for name, fit in binary_baselines.FITS.items():
        expected = fit(data.train).score(data.test).mean()
        assert values[f"baseline_{name}"] == pytest.approx(expected)
    assert values["baseline_gaussian"] is None
    table = zpyro("evaluate", digit_run).stdout
    assert "independent pixels" in table
    assert "Gaussian" not in table


def test_samples_are_a_grid_of_pictures(zpyro: Zpyro, digit_run: Path, tmp_path: Path) -> None:
    assert runs.open_run(digit_run).load().data.image_shape == (7, 7)
    result = zpyro("sample", digit_run, "-n", 5, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    drawn = load_plain(tmp_path / "samples.npz")["x"]
    assert drawn.shape == (5, 7, 7)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert picture(tmp_path / "samples.png").shape == (2 * 8 + 1, 3 * 8 + 1)
    np.testing.assert_array_equal(cell(tmp_path / "samples.png", 1, 0), drawn[3] == 1)


def test_a_begun_picture_is_finished(zpyro: Zpyro, digit_run: Path, tmp_path: Path) -> None:
    top = np.eye(7)[:3]
    np.save(tmp_path / "top.npy", top)
    out = tmp_path / "out"
    result = zpyro("sample", digit_run, "-n", 4, "--prefix", tmp_path / "top.npy", "--out", out)
    assert result.exit_code == 0, result.output
    drawn = load_plain(out / "samples.npz")["x"]
    assert drawn.shape == (4, 4, 7)
    whole = np.concatenate([top, drawn[3]])
    np.testing.assert_array_equal(cell(out / "samples.png", 1, 1), whole == 1)
    np.testing.assert_array_equal(load_plain(out / "samples.npz")["prefix"], top)
    # The same pixels one by one.
    np.save(tmp_path / "top.npy", top.reshape(-1, 1))
    again = ("--prefix", tmp_path / "top.npy", "--out", tmp_path / "again")
    assert zpyro("sample", digit_run, "-n", 4, *again).exit_code == 0
    np.testing.assert_array_equal(load_plain(tmp_path / "again" / "samples.npz")["x"], drawn)
    np.save(tmp_path / "top.npy", top / 2)
    result = zpyro("sample", digit_run, *again)
    assert result.exit_code == 2
    assert "top.npy: has values other than 0 and 1" in result.stderr
    np.save(tmp_path / "top.npy", np.eye(7))
    result = zpyro("sample", digit_run, "--prefix", tmp_path / "top.npy", "--out", out)
    assert result.exit_code == 2
    assert "the prefix has 7 frames and an image 7" in result.stderr


def test_a_part_of_a_picture_is_drawn_as_frames(
    zpyro: Zpyro, digit_run: Path, tmp_path: Path
) -> None:
    assert zpyro("sample", digit_run, "--frames", 3, "--out", tmp_path).exit_code == 0
    assert load_plain(tmp_path / "samples.npz")["x"].shape == (8, 3, 7)
    assert (tmp_path / "samples.png").exists()


def picture(path: Path) -> np.ndarray:
    """Brightness of every pixel of the drawn pictures, without their magnification."""
    return imread(path)[2::4, 2::4, 0]


def cell(path: Path, row: int, column: int) -> np.ndarray:
    """Where one picture of the grid, 7 x 7, is black."""
    whole = picture(path)
    return whole[8 * row + 1 : 8 * row + 8, 8 * column + 1 : 8 * column + 8] < 0.5


def test_who_takes_settings_for_a_gpu_on_a_cpu_is_told(zpyro: Zpyro, tmp_path: Path) -> None:
    arguments = ("train", "--dataset", "mnist", "--data", tmp_path / "none", "--device", "cpu")
    note = "note: the settings of mnist need a GPU; --preset mnist-small is for a CPU"
    assert note in zpyro(*arguments).stderr
    for preset in ("mnist", "mnist-small"):
        assert "note" not in zpyro(*arguments, "--preset", preset).stderr
