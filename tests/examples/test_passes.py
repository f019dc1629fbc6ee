"""Trainings that go on while held-out problems of their own size fail."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from zpyro.training import Trainer
from zpyro_examples.easy_to_hard import mazes_task
from zpyro_examples.easy_to_hard.tasks import Failures

from .test_board_commands import run

STEPS = 4
"""In a pass: 32 mazes, in mosaics of four, two in a step."""


def fail(patch: pytest.MonkeyPatch, counts: Sequence[int], most: int | None = 3) -> None:
    """Replace the test of held-out mazes by a sequence of results, and the preset by a tiny one."""
    left = list(counts)
    preset = dataclasses.replace(
        mazes_task.PRESETS["quick"],
        width=8,
        iterations=2,
        train_count=32,
        batch_size=2,
        valid_count=4,
        most_epochs=most,
        max_minutes=None,
    )
    failures = Failures("a script", 7, lambda *_: left.pop(0))
    task = dataclasses.replace(
        mazes_task.TASK, presets={"quick": preset}, failures=failures, expected=0.0
    )
    patch.setattr(mazes_task, "TASK", task)


def records(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def passes(folder: Path) -> int:
    return json.loads((folder / "settings.json").read_text())["preset"]["epochs"]


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [([0], 3, 1), ([2, 0], 3, 2), ([2, 1, 0], 3, 3), ([2, 1, 1], 3, 3), ([], None, 1)],
)
def test_training_goes_on_until_no_held_out_problem_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counts: list[int],
    most: int | None,
    expected: int,
) -> None:
    fail(monkeypatch, counts, most)
    done = run("mazes", "train", "--out", tmp_path / "run", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert passes(tmp_path / "run") == expected
    assert records(tmp_path / "run", "train")[-1]["step"] == STEPS * expected
    found = records(tmp_path / "run", "failures")
    assert [record["failed"] for record in found] == counts
    assert [record["step"] for record in found] == [STEPS * (n + 1) for n in range(len(counts))]
    assert done.stderr.count("training goes on for another pass") == expected - 1
    assert ("warning: larger problems will not all be solved" in done.stderr) == (
        bool(counts) and counts[-1] > 0
    )
    for count in counts:
        assert f"{count} of 7 held-out problems failed in the test of a script" in done.stderr


def test_the_step_size_of_a_further_pass_is_that_of_the_longer_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, [1, 0])
    assert run("mazes", "train", "--out", tmp_path / "run", "--device", "cpu").exit_code == 0
    rates = [record["learning_rate"] for record in records(tmp_path / "run", "train")]
    # Of the last step of each pass: half a cosine over one pass, and over two.
    expected = [1e-3 * (1 + math.cos(math.pi * done)) for done in (3 / 4, 7 / 8)]
    assert rates == pytest.approx(expected)


def test_a_training_that_was_killed_in_a_further_pass_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, [1, 0])
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run("mazes", "train", "--out", whole, "--device", "cpu").exit_code == 0
    fail(monkeypatch, [1])
    fit, calls = Trainer.fit, 0

    def killed(trainer: Trainer) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return fit(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", killed)
        assert run("mazes", "train", "--out", parted, "--device", "cpu").exit_code != 0
    assert passes(parted) == 2
    # It is not finished, though there was a rule after its first pass.
    tested = run("mazes", "test", parted, "--sizes", 5, "--count", 2)
    assert tested.exit_code == 2
    assert f"continue with zpyro example mazes train --resume {parted}\n" in tested.stderr
    fail(monkeypatch, [0])
    resumed = run("mazes", "train", "--resume", parted, "--device", "cpu")
    assert resumed.exit_code == 0, resumed.output
    for name in ("model.safetensors", "average.safetensors"):
        assert (whole / "last" / name).read_bytes() == (parted / "last" / name).read_bytes()


def test_an_interrupted_test_of_held_out_problems_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, [])

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    failures = Failures("a script", 7, interrupted)
    task = dataclasses.replace(mazes_task.TASK, failures=failures)
    monkeypatch.setattr(mazes_task, "TASK", task)
    folder = tmp_path / "run"
    stopped = run("mazes", "train", "--out", folder, "--device", "cpu")
    assert stopped.exit_code == 130
    assert (
        f"held-out problems are left; continue with zpyro example mazes train --resume {folder}"
        in stopped.stderr
    )
    fail(monkeypatch, [0])
    resumed = run("mazes", "train", "--resume", folder, "--device", "cpu")
    assert resumed.exit_code == 0, resumed.output
    assert "0 of 7 held-out problems failed" in resumed.stderr


def test_passes_that_the_user_gives_are_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    fail(monkeypatch, [1])
    done = run("mazes", "train", "--out", folder, "--epochs", 1, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"go on with zpyro example mazes train --resume {folder} --epochs 2" in done.stderr
    assert passes(folder) == 1
    fail(monkeypatch, [1])
    done = run("mazes", "train", "--resume", folder, "--epochs", 2, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert passes(folder) == 2
    assert records(folder, "train")[-1]["step"] == 2 * STEPS


@pytest.mark.parametrize(
    "option", [("--seed", 1), ("--preset", "published"), ("--solver", "recurrent"), ("--out", "x")]
)
def test_options_of_a_new_run_are_refused_for_an_old_one(
    tmp_path: Path, option: tuple[str, object]
) -> None:
    refused = run("mazes", "train", "--resume", tmp_path, *option)
    assert refused.exit_code == 2
    expected = f"error: {option[0]}: is for a new run; leave it out with --resume\n"
    assert refused.stderr == expected
