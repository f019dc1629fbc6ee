"""The command line as a process of its own: start-up, signals, kills."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL
from zpyro import runs

PROGRAM = (sys.executable, "-W", "error::UserWarning", "-m", "zpyro_cli")
LONG = ("--set=train.checkpoint_every=5", "--set=train.log_every=5", *SMALL)


def zpyro(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there; fails if the process ends before."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    result = zpyro("train", "--dataset", "vowel")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: data set 'vowel' is unknown; did you mean vowels?\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    arrays: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start("train", "--dataset=npz", "--data", arrays, "--out", out, *LONG)
    wait_for(out / "last", process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + number, "")
    assert stderr.endswith(f"stopped and saved; go on with: zpyro train --resume {out}\n")
    run = runs.open_run(out)
    step = run.load("last").step
    result = zpyro("train", "--resume", out, "--max-steps", step + 3)
    assert result.returncode == 0, result.stderr
    assert run.load("last").step == step + 3
    assert run.load("best").metrics


def test_a_training_killed_before_its_first_checkpoint_begins_again(
    arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start("train", "--dataset=npz", "--data", arrays, "--out", out, *LONG)
    wait_for(out / "config.toml", process)
    process.kill()
    process.communicate()
    shutil.rmtree(out / "last", ignore_errors=True)
    result = zpyro("train", "--resume", out, "--max-steps=6")
    assert result.returncode == 0, result.stderr
    assert runs.open_run(out).load("last").step == 6


def test_a_killed_training_goes_on_bit_for_bit(arrays: Path, tmp_path: Path) -> None:
    common = ("train", "--dataset=npz", "--data", arrays, "--max-steps=60", *LONG)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert zpyro(*common, "--out", whole).returncode == 0
    process = start(*common, "--out", killed)
    wait_for(killed / "last.previous", process)
    process.kill()
    process.communicate()
    assert runs.open_run(killed).load("last").step < 60
    assert zpyro("train", "--resume", killed).returncode == 0
    for name in ("best", "last"):
        one, other = (folder / name / "model.safetensors" for folder in (whole, killed))
        assert one.read_bytes() == other.read_bytes()
