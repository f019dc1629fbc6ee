"""How many runs are executed at once, with which resources, and how their ends are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zpyro.analysis.comparison import executors
from zpyro.analysis.comparison.executors import Resources
from zpyro.analysis.comparison.jobs import RESULT, Job, Scoring
from zpyro.distributed.processes import ENVIRONMENT, SINGLE_PROCESS, ProcessGroup
from zpyro.errors import UserError
from zpyro.settings import plain

pytestmark = pytest.mark.fast


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "zpyro.analysis.comparison.executors.choose_device", lambda _: torch.device("cuda")
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("eight_cores")
def test_without_gpus_a_run_has_two_cores() -> None:
    assert Resources.detect(None, "cpu", SINGLE_PROCESS) == Resources(4, 2)
    assert Resources.detect(3, "cpu", SINGLE_PROCESS) == Resources(3, 2)
    assert Resources.detect(20, "cpu", SINGLE_PROCESS) == Resources(20, 1)
    assert Resources.detect(None, "cpu", ProcessGroup(1, 2, 1)) == Resources(1, 4)


@pytest.mark.usefixtures("eight_cores", "three_gpus")
def test_a_run_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Resources.detect(None, "auto", SINGLE_PROCESS) == Resources(3, 2, ("0", "1", "2"))
    assert Resources.detect(None, "auto", ProcessGroup(1, 2, 1)) == Resources(1, 4, ("1",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    resources = Resources.detect(4, "auto", SINGLE_PROCESS)
    assert resources == Resources(4, 2, ("5", "7"))
    used = [resources.environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(4)]
    assert used == ["5", "7", "5", "7"]


def test_a_run_trains_in_one_process_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = Resources(2, 3).environment(0)
    assert found["OMP_NUM_THREADS"] == "3"
    assert not set(ENVIRONMENT) & set(found)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Resources(2, 3).environment(0)["OMP_NUM_THREADS"] == "1"


def test_a_result_that_is_damaged_is_named(tmp_path: Path) -> None:
    job = Job("rnn", 3, tmp_path)
    assert not job.done
    result = {"elbo": -1.0, "scoring": plain(Scoring())}
    (tmp_path / RESULT).write_text(json.dumps(result))
    assert job.done
    assert job.result() == result
    # A result of another split, or with other bounds, is not what is asked for.
    assert not replace(job, scoring=Scoring("valid")).done
    assert not replace(job, scoring=Scoring(bounds=("smc",))).done
    (tmp_path / RESULT).write_text('{"elbo": ')
    with pytest.raises(UserError, match=r"result\.json: cannot be read .*; remove it and run"):
        job.result()


def test_how_a_run_ended(tmp_path: Path) -> None:
    job = Job("vrnn", 0, tmp_path)
    values = {"elbo": -12.34, "kl": 1.26, "steps": 8}
    (tmp_path / RESULT).write_text(json.dumps(values))
    lines = [job.describe_end(status) for status in (0, 128 + 15, 1)]
    (tmp_path / RESULT).write_text(json.dumps({**values, "kl": 0.0}))
    assert [*lines, job.describe_end(0)] == [
        "vrnn seed 0: bound -12.3, KL 1.3, 8 steps",
        "vrnn seed 0: stopped and saved",
        f"vrnn seed 0: failed; see {tmp_path / 'log.txt'}",
        "vrnn seed 0: bound -12.3, 8 steps",
    ]
