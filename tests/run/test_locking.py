"""One process at a time in a directory."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.run.holding import end, hold
from tests.run.small import dataset, model, settings
from zpyro.errors import UserError
from zpyro.io import locking
from zpyro.io.locking import LOCK, locked
from zpyro.training import fitting as training
from zpyro.training import runs


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    other = hold(tmp_path)
    with (
        pytest.raises(UserError, match=rf"another training \(process {other.pid} on .*\) is"),
        locked(tmp_path),
    ):
        pass
    end(other)
    with locked(tmp_path):
        pass


def test_waiting_for_a_process_says_so_and_lasts_until_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = hold(tmp_path)
    entered = threading.Event()

    def enter() -> None:
        with locked(tmp_path, work="preparation", wait=True):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.5)
    end(other)
    thread.join(60)
    assert entered.is_set()
    assert f"{tmp_path}: waiting for another preparation (process {other.pid} on " in caplog.text


@pytest.mark.fast
def test_a_process_does_not_shut_itself_out_but_another_thread(tmp_path: Path) -> None:
    found: list[str] = []

    def elsewhere() -> None:
        try:
            with locked(tmp_path):
                found.append("entered")
        except UserError as error:
            found.append(str(error))

    with locked(tmp_path), locked(tmp_path / "."):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert "another training" in found[0]


def test_what_stands_in_the_lock_is_not_trusted(tmp_path: Path) -> None:
    other = hold(tmp_path)
    (tmp_path / LOCK).write_bytes(b"\x1b[2J\xff\n" * 900)
    with pytest.raises(UserError, match="another training is writing there"), locked(tmp_path):
        pass
    end(other)


def test_two_trainings_are_refused_and_a_lock_alone_is_no_run(tmp_path: Path) -> None:
    config = settings(max_steps=2)
    (tmp_path / LOCK).write_text("process 1 on nowhere\n")
    run = runs.create(tmp_path, config)
    other = hold(tmp_path)
    with pytest.raises(UserError, match="another training"):
        training.fit(model(), dataset(), config, run=run)
    end(other)
    assert training.fit(model(), dataset(), config, run=run).step == 2
    with pytest.raises(UserError, match="is not empty"):
        runs.create(tmp_path, config)


@pytest.mark.fast
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path):
        pass
    assert f"{tmp_path}: this file system has no locks" in caplog.text


@pytest.mark.fast
def test_a_lock_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locking.os, "ftruncate", fail)
    expected = rf"{LOCK}: cannot be written \(Input/output error\)"
    with pytest.raises(UserError, match=expected), locked(tmp_path):
        pass
    (tmp_path / "run").write_text("no folder")
    with (
        pytest.raises(UserError, match=r"cannot be written .*change its permissions"),
        locked(tmp_path / "run"),
    ):
        pass
