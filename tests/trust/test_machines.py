"""Machines that fail: full disks, places that may not be written, two trainings, clocks."""

from __future__ import annotations

import datetime
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import processes
from tests.cli.conftest import SMALL, Zpyro
from tests.processes import Command
from tests.run.small import dataset, model, settings
from tests.run.test_training import At, untimed
from zpyro.errors import UserError
from zpyro.training import fitting as training
from zpyro.training import runs

FULL = """
mount -t tmpfs -o size={size}k none {place} || exit 77
cp {arrays} {place}/walks.npz
{python} -m zpyro_cli train --dataset npz --data {place}/walks.npz --out {place}/run {options}
status=$?
cp -r {place}/run {saved}
exit $status
"""


def can_mount() -> bool:
    """Whether a test may have a small disk of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none"]
    done = subprocess.run([*command, "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no mount namespace of its own is permitted here")
@pytest.mark.parametrize("size", [100, 250])
def test_a_full_disk_is_a_line_and_leaves_the_last_good_checkpoint(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, size: int
) -> None:
    place, saved = tmp_path / "disk", tmp_path / "saved"
    place.mkdir()
    # Records fill the disk at last, checkpoints that are larger than what is left before them.
    chosen = ("--max-steps=4000", "--set=train.log_every=1", "--set=train.checkpoint_every=20")
    script = FULL.format(
        size=size,
        place=place,
        arrays=arrays,
        saved=saved,
        python=sys.executable,
        options=" ".join((*SMALL, *chosen, "--set=train.validate_every=1000")),
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {place}/run/")
    assert "No space left on device" in done.stderr.splitlines()[-1]
    run = runs.open_run(saved)
    if size == 100:
        assert not run.has("last")
        return
    assert run.recover() is None
    step = run.load("last").step
    assert step > 0
    assert step % 20 == 0
    # With room again, the training continues from there.
    (tmp_path / "walks.npz").write_bytes(arrays.read_bytes())
    more = zpyro(
        *("train", "--resume", saved, "--data", tmp_path / "walks.npz", "--max-steps", step + 3)
    )
    assert more.exit_code == 0, more.output
    steps = [record["step"] for record in run.records() if record["kind"] == "train"]
    assert steps == list(range(1, step + 4))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of at most 6,000 bytes, as a quota would have it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_quota_is_a_line(tmp_path: Path) -> None:
    config = settings(max_steps=4, checkpoint_every=2)
    run = runs.create(tmp_path / "run", config)
    with pytest.raises(UserError, match=r"run/(best|last): cannot be written"):
        training.fit(model(), dataset(), config, run=run)
    left = {path.name for path in run.folder.iterdir()}
    assert left <= {".lock", "config.toml", "metrics.jsonl"}


READ_ONLY = """
mount --bind {run} {run} && mount -o remount,ro,bind {run} || exit 77
{python} -m zpyro_cli train --resume {run} --max-steps 99
"""


@pytest.mark.skipif(not can_mount(), reason="no mount namespace of its own is permitted here")
def test_a_run_directory_that_is_read_only(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = zpyro(
        *("train", "--dataset", "npz", "--data", arrays, "--out", run, "--max-steps", 2), *SMALL
    )
    assert made.exit_code == 0, made.output
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    script = READ_ONLY.format(run=run, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=processes.LIMIT,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("mounting read-only is not permitted here")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {run}/.lock: cannot be written (Read-only file system)")
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("how", ["--out", "--resume"])
def test_the_second_of_two_trainings_is_refused(
    arrays: Path, tmp_path: Path, zpyro: Zpyro, how: str
) -> None:
    run = tmp_path / "run"
    new = ("train", "--dataset=npz", "--data", arrays, "--out", run, *SMALL)
    forever = (*new, "--max-steps=1000000", "--set=train.checkpoint_every=5")
    first = Command(tmp_path / "output", processes.zpyro, forever)
    first.wait_until((run / "last").exists)
    config = (run / "config.toml").read_bytes()
    second = zpyro(*(new if how == "--out" else ("train", "--resume", run, "--max-steps", 7)))
    assert second.exit_code == 2
    expected = "is not empty" if how == "--out" else f"another training (process {first.pid} on "
    assert expected in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert (run / "config.toml").read_bytes() == config
    assert first.poll() is None
    first.kill()
    again = zpyro("train", "--resume", run, "--max-steps", runs.open_run(run).load("last").step)
    assert again.exit_code == 0, again.output


def test_a_clock_that_goes_backwards_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(max_steps=20, checkpoint_every=5, validate_every=8, max_minutes=60.0)
    whole = runs.create(tmp_path / "whole", config)
    expected = model()
    training.fit(expected, dataset(), config, run=whole)

    # The time of day jumps back an hour at every look, and files come from the future.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(ticks))
    ticks = iter(range(10**9))
    run = runs.create(tmp_path / "run", config)
    training.fit(model(), dataset(), config, run=run, callbacks=[At(12, _stop)])
    for path in run.folder.rglob("*"):
        os.utime(path, (now + 1e6, now + 1e6))
    module = run.load("last").model
    training.fit(module, dataset(), config, run=run, resume=True)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    last = run.load("last").model.state_dict()
    for name, tensor in whole.load("last").model.state_dict().items():
        assert torch.equal(tensor, last[name])
    assert untimed(run) == untimed(whole)
    seconds = [record["seconds"] for record in run.records()]
    assert seconds == sorted(seconds)
    assert all(0 <= second < 3600 for second in seconds)


def _stop() -> None:
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


def test_a_clock_set_back_to_the_same_second_overwrites_no_run(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Stopped:
            return cls(2024, 5, 6, 7, 8, 9)

    monkeypatch.setattr(datetime, "datetime", Stopped)
    new = ("train", "--dataset=npz", "--data", arrays, "--max-steps=2", *SMALL)
    assert zpyro(*new).exit_code == 0
    kept = (tmp_path / "runs/npz-20240506-070809/last/model.safetensors").read_bytes()
    second = zpyro(*new)
    assert second.exit_code == 2
    assert "npz-20240506-070809: is not empty" in second.stderr
    assert (tmp_path / "runs/npz-20240506-070809/last/model.safetensors").read_bytes() == kept
