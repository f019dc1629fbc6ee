"""Several processes give what one gives; a process that dies takes the others along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests import processes
from tests.cli.conftest import Zpyro, zpyro
from tests.ranks.together import leave, result, streams_config, train_on_streams
from tests.run.small import SIZE
from zpyro import UserError
from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.prepared import prepare
from zpyro.distributed.processes import SINGLE_PROCESS, ProcessError, init_distributed
from zpyro.training import runs
from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]

__all__ = ["zpyro"]

ROOT = Path(__file__).parents[2]
LONGEST = processes.LIMIT
"""Seconds after which a group of processes counts as stuck."""


def torchrun(
    count: int, *arguments: object, check: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST, cwd=ROOT, env=environment
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match="process 1 of this machine has no GPU"),
        init_distributed("cuda"),
    ):
        pass


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return result(SINGLE_PROCESS)


@pytest.mark.parametrize("count", [2, 4])
def test_several_are_one(alone: dict[str, Any], tmp_path: Path, count: int) -> None:
    """Uneven lengths, a last batch of one sequence, dropout: weights to 1e-6 after 20 steps."""
    ended = processes.group(count, tmp_path, leave, tmp_path / "found.pt")
    assert [each.returncode for each in ended] == [0] * count, ended
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    moved = 0.0
    for name, weights in alone["weights"].items():
        torch.testing.assert_close(found["weights"][name], weights, rtol=1e-6, atol=1e-6)
        moved += float(weights.abs().sum())
    assert moved > 0
    assert found["best"] == pytest.approx(alone["best"], rel=1e-6)
    assert found["information"] == pytest.approx(alone["information"], rel=1e-6)
    assert found["active"] == alone["active"]
    torch.testing.assert_close(found["bounds"], alone["bounds"], rtol=1e-6, atol=1e-6)
    assert torch.equal(found["random"], alone["random"])


def test_streams_keep_their_state_in_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams of 3 to 9 rows, last batches with fewer rows than processes, a resumed run."""
    data = tmp_path / "data"
    data.mkdir()
    for number, rows in enumerate((3, 9, 5, 8, 4, 7)):
        samples = np.random.default_rng(number).normal(size=4 * SIZE * rows + 2 * SIZE)
        soundfile.write(data / f"{number}.wav", samples / 4, 16_000, subtype="PCM_16")
    chosen = BlizzardSettings(
        frame_size=SIZE, segment_length=4, valid_fraction=0.1, test_fraction=0.1
    )
    prepare(Blizzard(), data, tmp_path / "books", chosen)

    def weights(name: str, count: int, size: int, steps: int) -> dict[str, torch.Tensor]:
        if not (tmp_path / name).exists():
            runs.create(tmp_path / name, streams_config(size))
        arguments = tmp_path / name, tmp_path / "books", size, steps
        if count == 1:
            train_on_streams(*arguments)
        else:
            ended = processes.group(
                count, tmp_path / f"{name}-{count}", train_on_streams, *arguments
            )
            assert [each.returncode for each in ended] == [0] * count, ended
        run = runs.open_run(tmp_path / name)
        return run.load("last", torch.device("cpu")).model.state_dict()

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for size, count in ((3, 2), (5, 4)):
        expected = weights(f"one-{size}", 1, size, 20)
        resumed = f"resumed-{size}"
        weights(resumed, 1, size, 6)
        weights(resumed, count, size, 14)
        for name, each in weights(resumed, 1, size, 20).items():
            torch.testing.assert_close(each, expected[name], rtol=1e-6, atol=1e-6)


def test_the_others_end_with_a_process_that_dies(tmp_path: Path) -> None:
    # That they do not wait for it is what the time limit of torchrun() tests.
    done = torchrun(2, "-m", "tests.ranks.together", tmp_path / "found.pt", 9, check=False)
    assert done.returncode != 0
    assert "lost another one of the group" in done.stderr or "Signal 9" in done.stderr
    assert not (tmp_path / "found.pt").exists()


def test_a_restarted_group_continues_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    """One of two processes is killed by the system in step 8; the last checkpoint is of step 5."""
    walks = np.cumsum(np.random.default_rng(0).normal(size=(40, 6, 3)), axis=1)
    np.savez(tmp_path / "walks.npz", x=walks)
    settings = ["train", "--dataset=npz", "--data", tmp_path / "walks.npz", "--device=cpu"]
    settings += ["--set=model.hidden_size=6", "--set=model.latent_size=2", "--max-steps=12"]
    settings += ["--set=model.embedding_size=4", "--set=model.mlp_size=4"]
    settings += ["--set=train.checkpoint_every=5", "--set=train.batch_size=4", "--out"]
    done = torchrun(
        2, "--max-restarts=3", "-m", "tests.ranks.killed_once", 8, *settings, tmp_path / "killed"
    )
    assert "restarted by torchrun" in done.stderr
    together = (*settings, tmp_path / "whole")
    ended = processes.group(2, tmp_path / "group", processes.zpyro, together)
    assert [each.returncode for each in ended] == [0, 0], ended
    killed, whole = (
        runs.open_run(tmp_path / name).load("last", torch.device("cpu"))
        for name in ("killed", "whole")
    )
    assert killed.step == whole.step == 12
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(killed.model.state_dict()[name], weights)
    steps = [
        [(record["kind"], record["step"]) for record in runs.open_run(tmp_path / name).records()]
        for name in ("killed", "whole")
    ]
    assert steps[0] == steps[1]


def test_restarts_need_the_name_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--dataset", "vowels"])
    assert "--out is missing; torchrun --max-restarts needs it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--dataset=vowels", "--preset=hasty"), "preset hasty is unknown"),
        (("train", "--dataset=wav", "--data=.", "--out=DIR/new"), "holds no recordings"),
        (("train", "--dataset=vowels", "--device=cpu", "--out=DIR"), "is not empty"),
        (("train", "--hasty"), "No such option"),
        (("cite",), "zpyro cite runs in one process; start it without torchrun"),
    ],
)
def test_a_mistake_is_told_once(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    (tmp_path / "something").write_text("here")
    given = [each.replace("DIR", str(tmp_path)).replace("=.", f"={tmp_path}") for each in arguments]
    done = torchrun(2, "-m", "zpyro_cli", *given, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    # What follows is torchrun's own report.
    assert str(Path("cli", "main.py")) not in done.stderr


def test_a_mistake_of_one_process_is_told_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "zpyro.analysis.comparison.find_variants", failing(ProcessError("no GPU of its own"))
    )
    arguments = ["compare", "--dataset", "vowels"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err == "error: no GPU of its own\n"
    monkeypatch.setattr("zpyro.analysis.comparison.find_variants", failing(UserError("no data")))
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err == ""


def test_a_process_that_prints_nothing_waits_for_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it ended first, torchrun would end the process that has yet to print."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit, match="2"):
            main(["train", "--hasty"])
        assert ("No such option" in capsys.readouterr().err) == (rank == "0")
        assert len(waited) == int(rank)


def test_a_mistake_is_told_although_the_first_process_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import os, time\nif os.environ.get('LOCAL_RANK') == '0': time.sleep(5)\n"
    (tmp_path / "sitecustomize.py").write_text(slow, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = torchrun(2, "-m", "zpyro_cli", "train", "--hasty", check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "No such option" in lines[0]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_the_command_line(zpyro: Zpyro, tmp_path: Path) -> None:
    """Two processes train and stop, one goes on: as one process would have done all of it."""
    walks = np.cumsum(np.random.default_rng(0).normal(size=(40, 6, 3)), axis=1)
    np.savez(tmp_path / "walks.npz", x=walks)
    settings = ["--dataset=npz", "--data", tmp_path / "walks.npz", "--set=train.epochs=none"]
    settings += ["--set=model.hidden_size=6", "--set=model.latent_size=2", "--device=cpu"]
    settings += ["--set=model.embedding_size=4", "--set=model.mlp_size=4", "--max-steps", 10]
    settings += ["--set=train.learning_rate_schedule=constant", "--set=train.validate_every=5"]
    done = torchrun(
        2, "-m", "zpyro_cli", "train", *settings, "--set=train.batch_size=4", "--out",
        tmp_path / "two",
    )  # fmt: skip
    assert done.stderr.count("2 processes, batches of 8 in all") == 1
    assert done.stderr.count("run directory") == 1

    def alone(*arguments: object) -> str:
        ended = zpyro(*arguments)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    alone("train", *settings, "--set=train.batch_size=8", "--out", tmp_path / "one")
    for name in ("two", "one"):
        alone("train", "--resume", tmp_path / name, "--max-steps", 20)
    first, second = (
        runs.open_run(tmp_path / name).load("last", torch.device("cpu")) for name in ("two", "one")
    )
    assert first.step == second.step == 20
    for name, weights in first.model.state_dict().items():
        torch.testing.assert_close(weights, second.model.state_dict()[name], rtol=1e-3, atol=1e-5)
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
    scoring = ("evaluate", tmp_path / "two", "--json", "--device=cpu")
    together = processes.group(2, tmp_path / "scoring", processes.zpyro, scoring)
    assert [each.returncode for each in together] == [0, 0], together
    numbers = json.loads(together[0].stdout)
    assert together[1].stdout == ""
    single = json.loads(alone(*scoring))
    assert numbers.keys() == single.keys()
    for name, value in single.items():
        measured = isinstance(value, float)
        assert numbers[name] == (pytest.approx(value, rel=1e-6) if measured else value)


def test_runs_of_a_comparison_are_dealt_out(tmp_path: Path) -> None:
    walks = np.cumsum(np.random.default_rng(0).normal(size=(30, 5, 2)), axis=1)
    np.savez(tmp_path / "walks.npz", x=walks)
    settings = ["--dataset=npz", "--data", tmp_path / "walks.npz", "--set=model.hidden_size=4"]
    settings += ["--models=rnn", "--seeds=2", "--budget-steps=3", "--out", tmp_path / "out"]
    done = torchrun(2, "-m", "zpyro_cli", "compare", *settings)
    assert "2 runs, 2 to do, 2 at once" in done.stderr
    assert done.stdout.count("| rnn |") == 1
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["seeds"] for row in found["rows"]] == [[0, 1]]
