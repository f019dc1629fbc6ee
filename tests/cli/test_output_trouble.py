"""Output that cannot be written: results are kept, and the exit status says what happened."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.conftest import SMALL, Zpyro, train
from tests.run.small import dataset, model, settings
from zpyro.training import callbacks, runs
from zpyro.training import fitting as training
from zpyro_cli.main import COMMANDS, main

GONE, FULL = errno.EPIPE, errno.ENOSPC
STATUS = {GONE: 128 + signal.SIGPIPE, FULL: 2}
WORDS = "猫 が 好き だ\n犬 は 走る よ\nこの 本 は 青い\nあの 川 は 長い 。\n"

Run = Callable[..., tuple[int, str, str]]


class Broken(io.StringIO):
    """A stream that cannot be written from the first byte on, or only when it is flushed."""

    def __init__(self, number: int, *, buffered: bool = False) -> None:
        super().__init__()
        self._number, self._buffered = number, buffered

    def write(self, text: str, /) -> int:
        return len(text) if self._buffered else self._fail()

    def flush(self) -> None:
        if self._buffered:
            self._fail()

    def _fail(self) -> int:
        raise OSError(self._number, os.strerror(self._number))


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with other standard streams; gives status, standard output and errors."""

    def command(
        *arguments: object, stdout: io.TextIOBase | None = None, stderr: io.TextIOBase | None = None
    ) -> tuple[int, str, str]:
        streams = [io.StringIO() if given is None else given for given in (stdout, stderr)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as ended:
                main([str(each) for each in arguments], prog_name="zpyro")
        texts = [each.getvalue() if isinstance(each, io.StringIO) else "" for each in streams]
        return int(ended.value.code or 0), texts[0], texts[1]

    return command


@pytest.fixture(scope="module")
def text_run(zpyro: Zpyro, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "words.txt").write_text(WORDS * 10, encoding="utf-8")
    settings = ("--set=data.unit=character", "--max-steps", 3)
    return train(zpyro, "text", folder / "words.txt", folder / "run", *settings)


CASES: dict[str, tuple[str, list[object], list[str]]] = {
    "samples of text": ("text", ["sample", "-n", 3, "--frames", 9], ["samples.txt"]),
    "samples": ("arrays", ["sample", "-n", 2], ["samples.npz", "samples.png"]),
    "reconstructions of text": ("text", ["reconstruct"], ["reconstructions.txt"]),
    "reconstructions": (
        "arrays", ["reconstruct"], ["reconstructions.npz", "reconstructions.png"]
    ),
    "interpolated text": ("text", ["interpolate", 0, 1], ["interpolation.txt"]),
    "interpolated": ("arrays", ["interpolate", 0, 1], ["interpolation.npz", "interpolation.png"]),
}  # fmt: skip


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("name", CASES)
def test_results_are_complete_without_a_reader(
    run: Run, text_run: Path, array_run: Path, tmp_path: Path, name: str, number: int
) -> None:
    which, (command, *more), files = CASES[name]
    folder = text_run if which == "text" else array_run
    arguments = (command, folder, *more, "--out", tmp_path)
    status, _, stderr = run(*arguments, stdout=Broken(number))
    assert status == STATUS[number]
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert all(path.stat().st_size for path in tmp_path.iterdir())
    told = "error: standard output: cannot be written (No space left on device); write it to "
    assert (told in stderr) == (number == FULL)


PRINTING: list[tuple[object, ...]] = [
    ("--help",), ("--version",), ("data", "list"), ("data", "info", "vowels"), ("cite",),
    ("compare", "--rows"), *((command, "--help") for command in COMMANDS),
]  # fmt: skip


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("arguments", PRINTING, ids=lambda each: " ".join(map(str, each)))
def test_what_only_prints_ends_with_a_status(
    run: Run, arguments: tuple[object, ...], number: int, buffered: bool
) -> None:
    status, _, stderr = run(*arguments, stdout=Broken(number, buffered=buffered))
    assert status == STATUS[number]
    lines = [line for line in stderr.splitlines() if not line.startswith("loading")]
    assert len(lines) == (number == FULL)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_scores_that_cannot_be_printed(run: Run, array_run: Path, more: tuple[str, ...]) -> None:
    status, _, stderr = run("evaluate", array_run, *more, stdout=Broken(FULL))
    assert status == 2
    assert stderr.splitlines()[-1].startswith("error: standard output: cannot be written")


def test_a_mistake_keeps_its_status(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", tmp_path, stdout=Broken(GONE), stderr=Broken(FULL))[0] == 2


@pytest.mark.parametrize("number", STATUS)
def test_a_training_outlives_the_reader_of_its_progress(
    run: Run, arrays: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "run"
    command = ("train", "--dataset=npz", "--data", arrays, "--out", out, *SMALL, "--max-steps=12")
    assert run(*command, stderr=Broken(number), stdout=Broken(number))[0] == 0
    assert runs.open_run(out).load("last").step == 12
    assert runs.open_run(out).load("best").metrics


@pytest.mark.parametrize("number", [GONE, FULL, errno.EIO])
@pytest.mark.parametrize("terminal", [False, True])
def test_loggers_of_a_program_end_no_training(number: int, terminal: bool) -> None:
    console = Console(file=Broken(number), force_terminal=terminal)
    logger = callbacks.logger_for(console)
    assert isinstance(logger, callbacks.ProgressLogger) == terminal
    config = settings(max_steps=4, log_every=1, validate_every=2)
    assert training.fit(model(), dataset(), config, callbacks=[logger]).step == 4


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "koi8-r", "utf-8"])
@pytest.mark.parametrize("name", [name for name in CASES if "text" in name])
def test_characters_that_the_terminal_lacks_are_replaced(
    run: Run, text_run: Path, tmp_path: Path, name: str, encoding: str
) -> None:
    _, (command, *more), files = CASES[name]
    stdout, stderr = encoded(encoding), encoded(encoding)
    arguments = (command, text_run, *more, "--out", tmp_path)
    assert run(*arguments, stdout=stdout, stderr=stderr)[0] == 0
    kept = (tmp_path / files[0]).read_text(encoding="utf-8")
    assert set(kept) & set(WORDS) - {" ", "\n"}
    stdout.seek(0)
    printed = stdout.read()
    assert ("?" in printed) == (encoding != "utf-8")
    assert len(printed.splitlines()) >= len(kept.splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_in_any_encoding(run: Run, array_run: Path, encoding: str) -> None:
    for command in (("evaluate", array_run), ("data", "list")):
        assert run(*command, stdout=encoded(encoding))[0] == 0


@pytest.mark.parametrize("columns", ["0", "1", "7", "40", "500"])
def test_a_narrow_terminal_loses_no_number(
    zpyro: Zpyro, array_run: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    scores = json.loads(zpyro("evaluate", array_run, "--json").stdout)
    monkeypatch.setenv("COLUMNS", columns)
    shown = zpyro("evaluate", array_run).stdout
    for key in ("elbo", "kl", "sequences"):
        number = f"{scores[key]:,}" if isinstance(scores[key], int) else f"{scores[key]:,.2f}"
        assert number in shown
    assert "vowels" in zpyro("data", "list").stdout


@pytest.mark.parametrize("term", [None, "dumb", "xterm", "no-such-terminal"])
def test_training_in_a_strange_terminal(
    run: Run, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "0")
    out = tmp_path / "run"
    command = ("train", "--dataset=npz", "--data", arrays, "--out", out, *SMALL, "--max-steps=3")
    assert run(*command, stderr=Terminal())[0] == 0
    assert runs.open_run(out).load("last").step == 3


# -- processes ------------------------------------------------------------------------------------

SHELL = shutil.which("bash")


@pytest.mark.slow
@pytest.mark.skipif(SHELL is None, reason="needs bash")
@pytest.mark.parametrize(
    ("redirection", "status", "stderr"),
    [
        ("> /dev/full", 2, "error: standard output: cannot be written (No space left on device)"),
        ("2> /dev/full", 0, ""),
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_redirections_of_a_shell(redirection: str, status: int, stderr: str) -> None:
    assert SHELL is not None
    command = f"{sys.executable} -m zpyro_cli train --help {redirection}"
    ended = subprocess.run([SHELL, "-c", command], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stderr.startswith(stderr)
    assert len(ended.stderr.splitlines()) == bool(stderr)


@pytest.mark.slow
def test_a_pipe_whose_reader_has_ended() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "zpyro_cli", "train", "--help"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")
