"""Lines of progress where the output is no terminal."""

from __future__ import annotations

import time

import pytest

from zpyro.training import callbacks
from zpyro_cli.common import status


def test_what_takes_long_is_repeated_with_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_LINES", 0.01)
    lines: list[str] = []
    with status("loading walks"):
        while len(lines) < 3:
            time.sleep(0.01)
            lines += capsys.readouterr().err.splitlines()
    assert lines[0] == "loading walks"
    assert lines[1] == "loading walks: 0 s"
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_ends_soon_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with status("loading walks"):
        pass
    assert capsys.readouterr().err == "loading walks\n"
