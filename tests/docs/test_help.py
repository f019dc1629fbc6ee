"""Every command explains itself with examples that it understands, completes, and is tested."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from click.testing import CliRunner

from zpyro_cli.main import COMMANDS, main

from .pages import ROOT, Block, commands
from .test_pages import understand


def walk(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command and group below one, it included."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, *path, name)


PATHS = list(walk(main))
IDS = [" ".join(("zpyro", *path)) for path in PATHS]


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(main, [*path, "--help"], prog_name="zpyro", terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.fast
@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_help_has_examples_that_are_understood(path: tuple[str, ...]) -> None:
    _, heading, examples = help_of(path).partition("Example:\n")
    assert heading, f"zpyro {' '.join(path)} --help shows no example"
    text = examples.split("\n\n")[0]
    shown = commands(Block("bash", text, f"zpyro {' '.join(path)} --help", None))
    assert shown
    for words in shown:
        assert words[0] == "zpyro"
        understand(words, f"zpyro {' '.join(path)} --help")
    assert any(tuple(words[1 : 1 + len(path)]) == path for words in shown)


@pytest.mark.fast
@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    """By its help, its choices or its default."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name) or command
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            told = parameter.help or parameter.show_default
            assert told or isinstance(parameter.type, click.Choice), parameter.opts


def sources() -> str:
    paths = (path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(paths))


TESTS = sources()


def is_tried(path: tuple[str, ...], tests: str) -> bool:
    """Whether some test gives the words of a command to the command line."""
    words = r",\s*".join(f'"{name}"' for name in path[1 if path[0] == "example" else 0 :])
    if path[0] == "example":
        # Their tests say the task once, in a helper, and the command in each call.
        words = rf"{words}|(\"{path[1]}\"(.|\n)*\"{path[2]}\")"
    return re.search(words, tests) is not None


LEAVES = [path for path in PATHS if not any(other[:-1] == path for other in PATHS if other)]


@pytest.mark.parametrize("path", LEAVES, ids=[" ".join(("zpyro", *path)) for path in LEAVES])
def test_every_command_is_tried_by_a_test(path: tuple[str, ...]) -> None:
    assert is_tried(path, TESTS), f"no test runs zpyro {' '.join(path)}"
    assert not is_tried(path, TESTS.replace(f'"{path[-1]}"', ""))


PROGRAMS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")


@pytest.mark.fast
@pytest.mark.parametrize("program", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_every_example_is_tried_by_a_test(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only calls the command is run here; any other must be named by a test."""
    if "zpyro_cli.main" not in program.read_text(encoding="utf-8"):
        named = rf"zpyro_examples(\.| import .*\b){program.stem}\b|\b{program.name}\b"
        assert re.search(named, TESTS), f"no test runs {program.name}"
        return
    monkeypatch.setattr(sys, "argv", [str(program), "train", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    assert ended.value.code == 0


def completions(words: list[str], incomplete: str, shell: type[ShellComplete]) -> set[str]:
    complete = shell(main, {}, "zpyro", "_ZPYRO_COMPLETE")
    return {item.value for item in complete.get_completions(words, incomplete)}


@pytest.mark.fast
@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_the_shell_completes_commands_options_and_choices(shell: type[ShellComplete]) -> None:
    assert completions([], "", shell) == set(COMMANDS)
    assert completions(["data"], "", shell) >= {"info", "list", "prepare", "verify"}
    assert completions(["train"], "--max", shell) == {"--max-steps", "--max-minutes"}
    assert completions(["evaluate", "run", "--split"], "t", shell) == {"train", "test"}


@pytest.mark.fast
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_on_completion_names_what_click_reads(shell: str) -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert f"_ZPYRO_COMPLETE={shell}_source zpyro" in page
    result = CliRunner().invoke(main, env={"_ZPYRO_COMPLETE": f"{shell}_source"}, prog_name="zpyro")
    assert result.exit_code == 0
    assert f"_ZPYRO_COMPLETE={shell}_complete" in result.output
