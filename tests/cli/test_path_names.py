"""Paths and file names of every kind: one rule for what is accepted, and how it is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from rich.console import Console
from rich.table import Table

from zpyro import datasets
from zpyro.analysis import new_figure, save_figure
from zpyro.analysis.plots import plot_sounds
from zpyro.errors import UserError, printable
from zpyro.io import cache_folder
from zpyro.io.paths import user_path
from zpyro_cli.common import console  # pyright: ignore[reportMissingImports]
from zpyro_cli.main import COMMANDS, main  # pyright: ignore[reportMissingImports]
from zpyro_cli.paths import PATH  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.fast

LATIN = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path_factory.mktemp("cache")))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def mistake(*arguments: object) -> str:
    """The one line of a command that fails."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


# -- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (LATIN, r"caf\xe9: has control characters, or bytes that are not UTF-8"),
        (os.fsdecode(b"\xff\xfe/x.txt"), r"\xff\xfe/x.txt: has control characters"),
        ("a\nb", r"a\nb: has control characters"),
        ("a\tb", r"a\tb: has control characters"),
        ("a\x1b[31mb", r"a\x1b[31mb: has control characters"),
        ("a\x7f", r"a\x7f: has control characters"),
        ("a\u202eb", r"a\u202eb: has control characters"),
        ("a\u2028b", r"a\u2028b: has control characters"),
        ("a\0b", r"a\x00b: has a NUL character"),
        ("", "a path is empty"),
        ("x" * 300, f"{'x' * 60}...: is too long for a file name; shorten it"),
        ("new/" + "x" * 256, "is too long"),
        ("é" * 128, "is too long"),
        ("x/" * 2100, "is too long"),
    ],
)
def test_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        user_path(name)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "é" * 127,
        "Book [unabridged]",
        "a b",
        "-out",
        "--data",
        "[/b]",
        ":warning:",
        "~nobody-has-this-name",
        "a~",
        "名前",
        "e\u0301",
        "$HOME",
        "a\\b",
        "👩\u200d🔬",
    ],
)
def test_names_that_are_taken_as_they_are(name: str) -> None:
    assert user_path(name) == Path(name)


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("~") == tmp_path
    assert user_path("~root/x") == Path(os.path.expanduser("~root/x"))
    assert user_path("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match="~ has no meaning, HOME is not set"):
        user_path("~/x")


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


PATHS = {"data", "out", "resume", "prefix", "picture", "run", "runs", "source", "folder", "old"}
"""Parameters that are paths, and ``plugins``."""


def test_every_path_option_follows_the_rule() -> None:
    found = 0
    for names, command in commands(main):
        for parameter in command.params:
            assert type(parameter.type) is not click.Path, (names, parameter.name)
            if parameter.name in {*PATHS, "plugins"}:
                assert parameter.type is PATH, (names, parameter.name)
                found += 1
    assert found > 40
    assert {names[0] for names, _ in commands(main)} == set(COMMANDS)


@pytest.mark.parametrize("separator", [" ", "="])
def test_options_expand_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"line {n}\n" for n in range(300)))
    (tmp_path / "p.toml").write_text("[data]\nvocabulary_size = 5\n")
    options = [f"--data{separator}~/a.txt", f"--preset{separator}~/p.toml"]
    arguments = [part for option in options for part in option.split(" ")]
    result = run("data", "info", "text", *arguments)
    assert result.exit_code == 0, result.output
    assert "│ vocabulary  │ 8 " in result.stdout
    result = run("data", "prepare", "text", "~/a.txt", f"--out{separator.strip() or '='}~/out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "index.json").is_file()
    assert mistake("data", "verify", "~/none").startswith(f"error: {tmp_path}/none: holds no")
    for command in ("evaluate", "sample", "reconstruct", "inspect", "plot"):
        assert f"error: {tmp_path}/none: " in mistake(command, "~/none")
    guide = mistake("train", "--dataset", "vowels", f"--guide{separator.strip() or '='}~/g.py:G")
    assert guide.startswith(f"error: {tmp_path}/g.py: is missing")
    plugin = mistake("train", "--dataset", "vowels", f"--plugin{separator.strip() or '='}~/g.py")
    assert plugin.startswith(f"error: {tmp_path}/g.py: is missing")
    assert not (tmp_path / "~").exists()


COMMAND_LINES: dict[str, Callable[[str], list[str]]] = {
    "data": lambda name: ["data", "info", "wav", "--data", name],
    "prepared": lambda name: ["data", "prepare", "text", "x", "--out", name],
    "run": lambda name: ["evaluate", name],
    "out": lambda name: ["train", "--dataset", "vowels", "--out", name],
    "resume": lambda name: ["train", "--resume", name],
    "plugin": lambda name: ["data", "info", "vowels", "--plugin", f"{name}.py"],
    "guide": lambda name: ["train", "--dataset", "vowels", "--guide", f"{name}.py:Guide"],
    "preset": lambda name: ["data", "info", "vowels", "--preset", f"{name}.toml"],
    "example": lambda name: ["example", "mazes", "test", name],
}


@pytest.mark.parametrize("name", ["x" * 300, LATIN, "a\nb", "a\x1b[2J"])
@pytest.mark.parametrize("where", COMMAND_LINES)
def test_commands_refuse_names_in_one_line(where: str, name: str) -> None:
    line = mistake(*COMMAND_LINES[where](name))
    assert ("is too long" if len(name) > 255 else "has control characters") in line
    assert line.isprintable()


# -- names of files that are found ----------------------------------------------------------------


def write_recording(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000)
    with path.open("wb") as stream:
        soundfile.write(stream, noise, 16_000, format="WAV")


@pytest.mark.parametrize("data_set", ["wav", "blizzard", "text"])
@pytest.mark.parametrize("name", [LATIN, "a\nb", "a[/b]c", "[red]x", ":smile:", "-n", "a b"])
def test_files_of_any_name_are_read(tmp_path: Path, data_set: str, name: str) -> None:
    for seed in range(4):
        if data_set == "text":
            path = tmp_path / f"{name}{seed}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"line {n} of {seed}\n" for n in range(60)))
        else:
            write_recording(tmp_path / f"{name}{seed}.wav", seed)
    settings: dict[str, Any] = {"segment_length": 2} if data_set == "blizzard" else {}
    data = datasets.load(data_set, tmp_path, **settings)
    found = {each.partition("#")[0] for each in data.train.names}
    assert found <= {printable(f"{file.relative_to(tmp_path)}") for file in tmp_path.rglob("*")}
    assert all(each.isprintable() for each in found)
    if data_set != "blizzard":
        result = run("data", "info", data_set, "--data", tmp_path)
        assert result.exit_code == 0, result.output
        assert printable(name).split("/")[0].split(" ")[0] in result.stdout


@pytest.mark.parametrize("name", [LATIN, "a[/b]c", "[bold]x", "a\nb", ":warning:", "a\x1b[2Jb"])
def test_bad_files_of_any_name_are_listed(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in"
    write_recording(source / "good.wav", 0)
    bad = source / f"{name}.wav"
    bad.parent.mkdir(exist_ok=True)
    bad.write_text("junk")
    result = run("data", "prepare", "blizzard", source, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.exception is None or isinstance(result.exception, SystemExit)
    *table, line = result.stderr.splitlines()
    assert line.startswith(f"error: {source}/{printable(name)}.wav: ")
    assert any(f"│ {printable(name)}.wav " in row for row in table)


def test_consoles_print_text_as_it_is() -> None:
    table = Table(title="[red]title :smile:")
    table.add_row("a[/b]c", ":warning:")
    for stderr in (True, False):
        screen: Console = console(stderr=stderr, width=60)
        with screen.capture() as captured:
            screen.print(table)
            screen.print("run [bold]x[/bold] :smile:")
        for text in ("[red]title :smile:", "a[/b]c", ":warning:", "run [bold]x[/bold] :smile:"):
            assert text in captured.get()


@pytest.mark.parametrize("name", ["$", "a $5 and $6", r"$\frac", "$x_$", "[red]", r"\$"])
def test_titles_of_pictures_are_no_formulas(tmp_path: Path, name: str) -> None:
    sounds = [(name, np.sin(np.arange(4000.0)))]
    save_figure(plot_sounds(sounds, 16_000), tmp_path / "a.svg")
    assert new_figure(1, 1) is not None


# -- the cache ------------------------------------------------------------------------------------


ENVIRONMENTS: dict[str, tuple[dict[str, str], str]] = {
    "no folder": ({"HOME": "/dev/null"}, "/dev/null/.cache/zpyro"),
    "none there": ({"HOME": "/proc/nohome"}, "/proc/nohome/.cache/zpyro"),
    "empty": ({"HOME": ""}, "~ has no meaning, HOME is not set"),
    "not UTF-8": ({"HOME": "/tmp/" + LATIN}, r"/tmp/caf\xe9/.cache/zpyro: has control characters"),
    "a line end": ({"HOME": "/tmp/a\nb"}, r"/tmp/a\nb/.cache/zpyro: has control characters"),
    "too long": ({"HOME": "/" + "x" * 300}, "is too long"),
    "XDG": ({"XDG_CACHE_HOME": "/dev/null"}, "/dev/null/zpyro"),
    "own": ({"ZPYRO_CACHE": "/dev/null/cache"}, "/dev/null/cache"),
}


@pytest.mark.parametrize("which", ENVIRONMENTS)
def test_an_unusable_cache_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    variables, message = ENVIRONMENTS[which]
    for name in ("ZPYRO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {n}\n" for n in range(300)))
    result = run("data", "info", "text", "--data", path)
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert message in line
    assert line.endswith("; set ZPYRO_CACHE to a folder that can be written")


def test_the_built_in_voice_needs_no_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", "/dev/null/cache")
    data = datasets.load("vowels", utterances=10, shortest=0.2, longest=0.3)
    assert len(data.train) == 8
    assert "set ZPYRO_CACHE to a folder that can be written" in caplog.text


def test_the_cache_folder_expands_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZPYRO_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.delenv("ZPYRO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "zpyro"


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    code = "import os, sys, zpyro.io.paths as p\nos.rmdir(os.getcwd())\n"
    code += "try: p.user_path('a')\nexcept p.UserError as e: print(e)"
    (tmp_path / "gone").mkdir()
    command: Any = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "gone", capture_output=True, text=True)
    assert done.stdout == "a: the current folder was removed; change to another\n"
