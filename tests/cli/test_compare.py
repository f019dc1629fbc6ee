"""``zpyro compare`` from beginning to end."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests import processes
from tests.cli.conftest import SMALL, Zpyro
from tests.processes import Command
from zpyro.analysis.comparison import executors


def arguments(data: Path, out: Path, *more: object) -> list[str]:
    given = ("compare", "--dataset", "npz", "--data", data, "--out", out, *SMALL, *more)
    return [str(each) for each in given]


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the runs begin with torch loaded."""
    monkeypatch.setattr(executors.subprocess, "Popen", processes.Module)


@pytest.fixture(scope="module")
def finished(zpyro: Zpyro, arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows and two seeds."""
    out = tmp_path_factory.mktemp("compare") / "out"
    more = ("--models", "rnn,srnn", "--seeds", 2, "--budget-steps", 8, "--particles", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors.subprocess, "Popen", processes.Module)
        result = zpyro(*arguments(arrays, out, *more))
    assert result.exit_code == 0, result.output
    assert "4 runs, 4 to do" in result.output
    assert "| srnn |" in result.output
    return out


def test_other_bounds_score_the_same_runs_again(
    zpyro: Zpyro, finished: Path, arrays: Path, quick_start: None
) -> None:
    before = (finished / "srnn" / "seed-0" / "best" / "model.safetensors").read_bytes()
    more = ("--models", "rnn,srnn", "--seeds", 2, "--budget-steps", 8, "--particles", 4)
    result = zpyro(*arguments(arrays, finished, *more, "--bound", "both", "--per", "frame"))
    assert result.exit_code == 0, result.output
    assert "4 runs, 4 to do" in result.output
    rows = json.loads((finished / "comparison.json").read_text())["rows"]
    assert rows[1]["estimates"]["smc"]["mean"] > rows[1]["estimates"]["elbo"]["mean"]
    scores = json.loads((finished / "srnn" / "seed-0" / "result.json").read_text())
    assert scores["elbo"] == pytest.approx(6 * rows[1]["estimates"]["elbo"]["values"][0])
    assert (finished / "srnn" / "seed-0" / "best" / "model.safetensors").read_bytes() == before
    # As the tests that follow expect it.
    assert zpyro(*arguments(arrays, finished, *more)).exit_code == 0


def test_table_numbers_and_picture(finished: Path) -> None:
    summary = json.loads((finished / "comparison.json").read_text())
    rnn, srnn = summary["rows"]
    assert (rnn["name"], srnn["name"]) == ("rnn", "srnn")
    assert rnn["parameters"] == pytest.approx(srnn["parameters"], rel=0.15)
    assert rnn["estimates"]["kl"]["mean"] == 0.0
    assert rnn["estimates"]["elbo"] == rnn["estimates"]["iwae"]
    assert srnn["estimates"]["iwae"]["mean"] > srnn["estimates"]["elbo"]["mean"]
    pairs = zip(
        srnn["estimates"]["elbo"]["values"], rnn["estimates"]["elbo"]["values"], strict=True
    )
    assert srnn["difference"]["values"] == pytest.approx([ours - first for ours, first in pairs])
    assert srnn["estimates"]["steps"]["values"] == [8.0, 8.0]
    assert "| rnn |" in (finished / "comparison.md").read_text()
    # Nothing but progress of the training; a slow validation also reports its own.
    log = (finished / "rnn" / "seed-0" / "log.txt").read_text()
    progress = re.compile(r"step \d+  .+|validating \d+/\d+|scoring the .+|.+ bound, 4 .+")
    assert all(progress.fullmatch(line) for line in log.splitlines())
    assert "step 8  " in log
    assert (finished / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_an_ordinary_one(zpyro: Zpyro, finished: Path) -> None:
    run = finished / "srnn" / "seed-1"
    result = zpyro("evaluate", run, "--json")
    values = json.loads(result.stdout.splitlines()[-1])
    told = json.loads((run / "result.json").read_text())
    assert values["elbo"] == pytest.approx(told["elbo"], rel=1e-6)


@pytest.mark.usefixtures("quick_start")
def test_nothing_is_done_twice_and_seeds_can_be_added(
    zpyro: Zpyro, finished: Path, arrays: Path
) -> None:
    before = (finished / "rnn" / "seed-0" / "result.json").stat().st_mtime_ns
    more = ("--models", "rnn", "--seeds", 3, "--budget-steps", 8, "--particles", 4)
    result = zpyro(*arguments(arrays, finished, *more, "--match", "none"))
    assert result.exit_code == 2
    assert "was started with other settings" in result.output
    more = ("--models", "rnn,srnn", "--seeds", 3, "--budget-steps", 8, "--particles", 4)
    result = zpyro(*arguments(arrays, finished, *more))
    assert result.exit_code == 0, result.output
    assert "6 runs, 2 to do" in result.output
    assert "rnn seed 2: started; its log is " in result.output
    assert "rnn seed 0: started" not in result.output
    assert f"the table is in {finished / 'comparison.md'}" in result.output
    assert (finished / "rnn" / "seed-0" / "result.json").stat().st_mtime_ns == before


STOPPING = """
import os, signal, time
from zpyro.training.trainer import Trainer

step = Trainer.step

def step_and_stop(trainer, batch):
    step(trainer, batch)
    if trainer.state.step == 9 and "STOP_THE_COMPARISON" in os.environ:
        os.kill(os.getppid(), signal.SIGTERM)
        while trainer.interruption.signal is None:
            time.sleep(0.01)

Trainer.step = step_and_stop
"""
"""A plugin: its run stops the comparison at the ninth step, and waits for its own signal."""


def test_stopped_and_gone_on_with_is_as_if_never_stopped(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = ("--models", "vrnn", "--seeds", 1, "--budget-steps", 60, "--jobs", 1, "--particles", 2)
    (tmp_path / "stopping.py").write_text(STOPPING)
    logs = ("--set=train.log_every=1", "--set=train.checkpoint_every=7")
    logs = (*logs, "--plugin", tmp_path / "stopping.py")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    done = zpyro(*arguments(arrays, whole, *more, *logs))
    assert done.exit_code == 0, done.output
    words = arguments(arrays, parted, *more, *logs)
    variables = {"STOP_THE_COMPARISON": "1"}
    ended = Command(tmp_path / "output", processes.zpyro, words, **variables).wait()
    assert ended.returncode == 128 + signal.SIGTERM, ended
    assert "the same command resumes from here" in ended.stderr
    assert not (parted / "vrnn" / "seed-0" / "result.json").exists()
    done = zpyro(*words)
    assert done.exit_code == 0, done.output
    results = [
        json.loads((out / "vrnn" / "seed-0" / "result.json").read_text()) for out in (whole, parted)
    ]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


@pytest.mark.usefixtures("quick_start")
def test_tokens_have_a_perplexity(zpyro: Zpyro, tokens: Path, tmp_path: Path) -> None:
    more = ("--models", "rnn,zforcing", "--seeds", 1, "--budget-steps", 4, "--particles", 3)
    result = zpyro(*arguments(tokens, tmp_path / "out", *more))
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.output
    values = json.loads((tmp_path / "out" / "rnn" / "seed-0" / "result.json").read_text())
    assert 1 < values["perplexity"] < 30


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--budget-steps", 4, "--budget-minutes", 1), "give one of --budget-minutes"),
        ((), "give one of --budget-minutes"),
        (("--models", "gru", "--budget-steps", 4), "row gru is unknown"),
        (("--models", "rnn", "--row", "a=rnn objective.auxiliary_weight=1", "--budget-steps", 4),
         "objective.auxiliary_weight has no effect"),
        (("--models", "rnn", "--row", "a=rnn model.forced_auxiliary=true", "--budget-steps", 4),
         "model.forced_auxiliary is not a setting"),
        (("--models", "zforcing", "--set", "objective.auxiliary_weight=0", "--budget-steps", 4),
         "row zforcing has auxiliary costs"),
    ],
)  # fmt: skip
def test_mistakes(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, more: tuple[object, ...], message: str
) -> None:
    result = zpyro(*arguments(arrays, tmp_path / "out", *more))
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.usefixtures("quick_start")
def test_a_run_that_fails_is_named(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    broken = "broken=zforcing train.learning_rate=1e30 train.skip_limit=1 train.log_every=1"
    more = ("--models", "rnn", "--row", broken, "--seeds", 1, "--budget-steps", 30)
    result = zpyro(*arguments(arrays, tmp_path / "out", *more))
    assert result.exit_code == 2, result.output
    assert "1 run failed (broken seed 0)" in result.output
    assert "Without a result: broken." in result.output
    assert "not finite" in (tmp_path / "out" / "broken" / "seed-0" / "log.txt").read_text()


def test_a_data_set_is_needed(zpyro: Zpyro) -> None:
    result = zpyro("compare", "--budget-steps", 3)
    assert result.exit_code == 2
    assert "--dataset is missing; choose one of" in result.output


def test_rows_are_listed(zpyro: Zpyro) -> None:
    result = zpyro("compare", "--rows")
    assert result.exit_code == 0
    assert "zforcing-annealed" in result.output
