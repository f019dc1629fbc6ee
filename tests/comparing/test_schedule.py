"""How many runs go at once, on what, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.run.small import settings
from zpyro.analysis.comparison.schedule import RESULT, Job, Room
from zpyro.distributed.processes import ENVIRONMENT, SINGLE_PROCESS, ProcessGroup
from zpyro.errors import UserError
from zpyro_cli import compare

pytestmark = pytest.mark.fast


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpyro.training.building.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("eight_cores")
def test_without_gpus_a_run_has_two_cores() -> None:
    assert compare._room(None, settings(device="cpu"), SINGLE_PROCESS) == Room(4, 2)
    assert compare._room(3, settings(device="cpu"), SINGLE_PROCESS) == Room(3, 2)
    assert compare._room(20, settings(device="cpu"), SINGLE_PROCESS) == Room(20, 1)
    assert compare._room(None, settings(device="cpu"), ProcessGroup(1, 2, 1)) == Room(1, 4)


@pytest.mark.usefixtures("eight_cores", "three_gpus")
def test_a_run_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare._room(None, settings(), SINGLE_PROCESS) == Room(3, 2, ("0", "1", "2"))
    assert compare._room(None, settings(), ProcessGroup(1, 2, 1)) == Room(1, 4, ("1",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    room = compare._room(4, settings(), SINGLE_PROCESS)
    assert room == Room(4, 2, ("5", "7"))
    dealt = [room.environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(4)]
    assert dealt == ["5", "7", "5", "7"]


def test_a_run_trains_alone_with_the_threads_of_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = Room(2, 3).environment(0)
    assert found["OMP_NUM_THREADS"] == "3"
    assert not set(ENVIRONMENT) & set(found)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Room(2, 3).environment(0)["OMP_NUM_THREADS"] == "1"


def test_a_result_that_is_damaged_is_named(tmp_path: Path) -> None:
    job = Job("rnn", 3, tmp_path)
    assert not job.done
    (tmp_path / RESULT).write_text(json.dumps({"elbo": -1.0}))
    assert job.done
    assert job.result() == {"elbo": -1.0}
    (tmp_path / RESULT).write_text('{"elbo": ')
    with pytest.raises(UserError, match=r"result\.json: cannot be read .*; remove it and go on"):
        job.result()


def test_how_a_run_ended_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job("vrnn", 0, tmp_path)
    values = {"elbo": -12.34, "kl": 1.26, "steps": 8}
    (tmp_path / RESULT).write_text(json.dumps(values))
    for status in (0, 128 + 15, 1):
        compare._log_end(job, status)
    (tmp_path / RESULT).write_text(json.dumps({**values, "kl": 0.0}))
    compare._log_end(job, 0)
    assert capsys.readouterr().err.splitlines() == [
        "vrnn seed 0: bound -12.3, KL 1.3, 8 steps",
        "vrnn seed 0: stopped and saved",
        f"vrnn seed 0: failed; see {tmp_path / 'log.txt'}",
        "vrnn seed 0: bound -12.3, 8 steps",
    ]
