"""Data sets are read in the calling process, and in further processes where the caller asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from tests.datasets.test_mnist import digits, write_text
from tests.datasets.test_text_files import acl_imdb
from tests.datasets.test_timit import write_disc
from zpyro import datasets
from zpyro.datasets.prepared import engine, shards
from zpyro.datasets.sequences import Dataset, Normalization
from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]

SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
import zpyro
from zpyro.datasets.prepared import shards
shards.SHARD_BYTES = 1000
data = zpyro.datasets.load({name!r}, {folder!r}, {settings})
print("loaded", len(data.split("all")))
"""
GUARD = 'if __name__ == "__main__":'


def books(folder: Path) -> Path:
    """Nine recordings of 1 to 3 s."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(9):
        noise = random.normal(0, 0.1, 16_000 * (1 + number % 3))
        soundfile.write(folder / f"{number}.wav", noise, 16_000, subtype="PCM_16")
    return folder


def lines(folder: Path) -> Path:
    folder.mkdir()
    for number in range(9):
        text = "\n".join(f"line {line} of file {number}" for line in range(80))
        (folder / f"{number}.txt").write_text(text)
    return folder


def disc(folder: Path) -> Path:
    write_disc(folder)
    return folder


def bits(folder: Path) -> Path:
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 8), ("valid", 3), ("test", 4))):
        write_text(folder / f"binarized_mnist_{name}.amat", digits(count, seed))
    return folder


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "blizzard": (books, {"frame_size": 20, "segment_length": 5}),
    "timit": (disc, {"frame_size": 20, "segment_length": 5}),
    "text": (lines, {"max_length": 6}),
    "imdb": (acl_imdb, {"max_length": 5}),
    "mnist": (bits, {}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of workers of every preparation; no process is started."""
    found: list[int] = []

    @contextmanager
    def mapping(workers: int, executor: object = None) -> Generator[Any]:
        assert executor is None
        found.append(workers)
        yield map

    monkeypatch.setattr(engine, "_mapping", mapping)
    monkeypatch.setattr("zpyro.distributed.processes.available_cores", lambda: 3)
    return found


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment, check=False
    )


def script(folder: Path, name: str, *more: str) -> str:
    make, settings = CASES[name]
    listed = ", ".join([*(f"{key}={value!r}" for key, value in settings.items()), *more])
    return SCRIPT.format(name=name, folder=str(make(folder / "source")), settings=listed)


@pytest.mark.parametrize("name", ["blizzard", "text"])
def test_a_plain_script_without_a_main_guard(tmp_path: Path, name: str) -> None:
    ended = run(tmp_path, script(tmp_path, name))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("loaded ")


def test_workers_need_a_main_guard(tmp_path: Path, cache: Path) -> None:
    text = script(tmp_path, "blizzard", "workers=2")
    ended = run(tmp_path, text)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "UserError: workers: a process that reads files ended too early" in last
    assert GUARD in last
    guarded = text.replace("data =", f"{GUARD}\n    data =").replace("print(", "    print(")
    ended = run(tmp_path, guarded)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.fast
@pytest.mark.parametrize("name", CASES)
def test_no_process_is_started_unless_asked(tmp_path: Path, name: str, asked: list[int]) -> None:
    make, settings = CASES[name]
    datasets.load(name, make(tmp_path / "source"), **settings)
    assert asked == [1]


@pytest.mark.fast
@pytest.mark.parametrize("name", CASES)
def test_workers_of_a_call(tmp_path: Path, name: str, asked: list[int]) -> None:
    make, settings = CASES[name]
    datasets.load(name, make(tmp_path / "source"), workers=2, **settings)
    assert asked == [2]


@pytest.mark.fast
@pytest.mark.parametrize("name", ["blizzard", "timit"])
@pytest.mark.parametrize("workers", [None, 2])
def test_workers_for_other_data(
    tmp_path: Path, name: str, workers: int | None, asked: list[int]
) -> None:
    make, changes = CASES[name]
    settings = datasets.entry(name).settings(**changes)
    folder = make(tmp_path / "source")
    more: dict[str, Any] = {} if workers is None else {"workers": workers}
    datasets.load_all(name, folder, settings, Normalization(), **more)
    assert asked == [workers or 1]


@pytest.mark.fast
def test_a_data_set_that_knows_no_workers(tmp_path: Path, asked: list[int]) -> None:
    folder = books(tmp_path / "source")
    data = datasets.load("wav", folder, workers=2, sample_rate=16_000, frame_size=20)
    assert data.name == "wav"
    assert not asked


def same(first: Dataset, second: Dataset) -> bool:
    return all(
        np.array_equal(one, other)
        for name in ("train", "valid", "test")
        for one, other in zip(first.split(name).values, second.split(name).values, strict=True)
    )


def test_the_data_do_not_depend_on_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, settings = CASES["blizzard"]
    folder = make(tmp_path / "source")
    first = datasets.load("blizzard", folder, **settings)
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "other"))
    assert same(first, datasets.load("blizzard", folder, workers=2, **settings))


def test_commands_ask_for_every_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    folder = books(tmp_path / "source")
    more = ["--set", "data.frame_size=20", "--set", "data.segment_length=5"]

    def command(*words: object) -> None:
        monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / f"cache{len(asked)}"))
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output

    command("data", "info", "blizzard", "--data", folder, *more)
    command("data", "prepare", "blizzard", folder, "--out", tmp_path / "out", *more)
    command("data", "prepare", "blizzard", folder, "--out", tmp_path / "two", "--workers", 2, *more)
    small = ["model.hidden_size=4", "model.latent_size=2", "model.mlp_size=4"]
    small += ["train.max_steps=1", "train.batch_size=2", "train.device=cpu"]
    sizes = [word for setting in small for word in ("--set", setting)]
    run = tmp_path / "run"
    command("train", "--dataset", "blizzard", "--data", folder, "--out", run, *more, *sizes)
    command("evaluate", run, "--data", folder)
    command("evaluate", run, "--split", "valid")
    assert asked == [3, 3, 2, 3, 3, 3]
