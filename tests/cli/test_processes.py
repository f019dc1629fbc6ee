"""The command line as a process of its own: start-up, signals, kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.cli.conftest import SMALL, Zpyro
from tests.processes import Command
from zpyro.training import checkpoint, runs

PROGRAM = (sys.executable, "-W", "error::UserWarning", "-m", "zpyro_cli")
LONG = ("--set=train.checkpoint_every=5", "--set=train.log_every=5", *SMALL)
ENDLESS = "--max-steps=1000000"
"""So that a training does not end before the test has seen it."""


def killed_in_training(arguments: tuple[object, ...]) -> None:
    """The command line, killed after some checkpoints."""
    save, saved = checkpoint.save, 0

    def save_and_count(*values: Any, **more: Any) -> None:
        nonlocal saved
        save(*values, **more)
        saved += 1
        if saved == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = save_and_count
    processes.zpyro(arguments)


def start(folder: Path, *arguments: object) -> Command:
    return Command(folder / "output", processes.zpyro, arguments)


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from zpyro_cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "main(['train', '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"import-reference" in result.stdout


def test_a_mistake_is_one_line() -> None:
    result = subprocess.run(
        [*PROGRAM, "train", "--dataset", "vowel"],
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: data set 'vowel' is unknown; did you mean vowels?\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(
        tmp_path, "train", "--dataset=npz", "--data", arrays, "--out", out, ENDLESS, *LONG
    )
    process.wait_until((out / "last").exists)
    process.send(number)
    ended = process.wait()
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    assert ended.stderr.endswith(f"stopped and saved; continue with: zpyro train --resume {out}\n")
    run = runs.open_run(out)
    step = run.load("last").step
    result = zpyro("train", "--resume", out, "--max-steps", step + 3)
    assert result.exit_code == 0, result.output
    assert run.load("last").step == step + 3
    assert run.load("best").metrics


def test_a_training_killed_before_its_first_checkpoint_begins_again(
    zpyro: Zpyro, arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(
        tmp_path, "train", "--dataset=npz", "--data", arrays, "--out", out, ENDLESS, *LONG
    )
    process.wait_until((out / "config.toml").exists)
    process.kill()
    shutil.rmtree(out / "last", ignore_errors=True)
    result = zpyro("train", "--resume", out, "--max-steps=6")
    assert result.exit_code == 0, result.output
    assert runs.open_run(out).load("last").step == 6


def test_a_killed_training_goes_on_bit_for_bit(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    common = ("train", "--dataset=npz", "--data", arrays, "--max-steps=60", *LONG)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert zpyro(*common, "--out", whole).exit_code == 0
    arguments = (*common, "--out", killed)
    folder = tmp_path / "output"
    assert Command(folder, killed_in_training, arguments).wait().returncode == -signal.SIGKILL
    assert 0 < runs.open_run(killed).load("last").step < 60
    assert zpyro("train", "--resume", killed).exit_code == 0
    for name in ("best", "last"):
        one, other = (folder / name / "model.safetensors" for folder in (whole, killed))
        assert one.read_bytes() == other.read_bytes()
