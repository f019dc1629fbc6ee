"""The code blocks and commands of README and docs work as printed.

Python blocks run in one namespace per page. Commands are parsed by the command line itself, and
those of the first hour and of the plugin pages are run.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from tests.cli.conftest import SMALL
from zpyro_cli.main import main

from .conftest import registrations_undone
from .pages import ROOT, SHELLS, Block, all_pages, blocks, commands

PAGES = all_pages()
IDS = [str(path.relative_to(ROOT)) for path in PAGES]

NOT_OURS = {
    "export": "sets a variable of the shell",
    "eval": "installs completion in the shell; tests/docs/test_help.py runs click's part",
    "pip": "installing needs the package index; tests/test_distribution.py installs the wheel",
    "pre-commit": "tests/docs/test_hooks.py reads its configuration",
    "pytest": "the tests within the tests",
}
"""Programs of others that pages use, and why they are not run here."""

OPTIONAL = ("accelerate", "lightning", "optuna")
"""Libraries that a page uses beside zpyro; without one, the rest of that page is skipped."""

VALUES = {
    "pyro.md": {
        "posterior['z'].shape": (10, 4, 5, 2),
        "prior['x'].shape": (10, 4, 5, 200),
        "z.shape": (5, 4, 5, 2),
        "graph.source.count('label=z')": 1,
        "graph_by_step.source.count('label=z_')": 5,
        "fresh.state_dict()['output.bias'].equal(model.state_dict()['output.bias'])": True,
    },
    "training_loops.md": {
        "continued.objective.step": 3,
        "accelerate_step": 3,
        "len(study.trials)": 2,
        "trained.loss.objective.step": 3,
        "resumed.loss.objective.step": 6,
    },
}
"""What the names of a page are at its end."""


@pytest.mark.parametrize("page", PAGES[1:], ids=IDS[1:])
def test_the_python_runs(page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = run_python(page, monkeypatch)
    for expression, value in VALUES.get(page.name, {}).items():
        assert eval(expression, namespace) == value


def run_python(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Run the Python of a page as one module; returns its namespace."""
    module = types.ModuleType("page")
    # Dataclasses look up their module.
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            for name in OPTIONAL:
                if f"import {name}\n" in block.text or f"from {name} " in block.text:
                    pytest.importorskip(name)
            exec(compile(block.text, block.place, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def test_the_readme_trains(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks train an objective and return latents of eight sequences."""
    namespace = run_python(ROOT / "README.md", monkeypatch)
    assert namespace["objective"].step > 0  # pyright: ignore
    assert len(namespace["z"]) == 8  # pyright: ignore


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_first_model_from_the_readme(number: int, tmp_path: Path) -> None:
    """Twelve lines, in an empty directory and a process of their own, with a short training."""
    python = [each for each in blocks(ROOT / "README.md") if each.language == "python"]
    text = python[number].text
    assert len([line for line in text.splitlines() if line]) <= 12
    assert "minutes=1" in text
    program = text.replace("minutes=1", "steps=10")
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert float(result.stdout) < 0
    names = {each.name for each in tmp_path.iterdir()}
    assert names == ({"training.png", "waves"} if number == 0 else {"tides.png", "tides"})


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_understood(page: Path) -> None:
    for block in blocks(page):
        if block.language in SHELLS and block.reason is None:
            for words in commands(block):
                understand(words, block.place)


def understand(words: list[str], place: str) -> None:
    """Fail unless a command with these options and arguments exists."""
    program = words[0].removeprefix(".venv/bin/")
    if program == "zpyro":
        parse(words[1:], place)
    elif program == "torchrun":
        assert "zpyro_cli" in words, f"{place}: torchrun runs another program"
        parse(words[words.index("zpyro_cli") + 1 :], place)
    elif program in ("python", "python3"):
        understand_python(words[1:], place)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{place}: make {target}"
    else:
        assert program in NOT_OURS, f"{place}: {program} is unknown"


def parse(words: list[str], place: str) -> None:
    """Parse the words of one command without running it."""
    command: click.Command = main
    parent: click.Context | None = None
    while isinstance(command, click.Group):
        if not words or words[0] in ("--help", "--version", "-h"):
            return
        parent = click.Context(command, info_name=command.name, parent=parent)
        found = command.get_command(parent, words[0])
        assert found is not None, f"{place}: {words[0]} is not a command"
        command, words = found, words[1:]
    if "--help" in words:
        return
    try:
        command.make_context(command.name, list(words), parent=parent)
    except click.UsageError as error:
        pytest.fail(f"{place}: {error.format_message()}")


def understand_python(words: list[str], place: str) -> None:
    """Check ``python -m MODULE``, ``python FILE`` or ``python -c CODE`` and its options."""
    if words[0] == "-c":
        compile(words[1], place, "exec")
        return
    if words[0] == "-m" and words[1] in ("venv", "pip", "build", "pytest", "sphinx"):
        return
    if words[:2] == ["-m", "zpyro_cli"]:
        parse(words[2:], place)
        return
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"{place}: no module {words[1]}"
        assert spec.origin is not None, f"{place}: {words[1]} is a directory"
        path, options = Path(spec.origin), words[2:]
    else:
        path, options = ROOT / words[0], words[1:]
    source = path.read_text(encoding="utf-8")
    if path.parent.name == "examples":
        parse(["example", path.stem.replace("_", "-"), *options], place)
        return
    for option in (word.partition("=")[0] for word in options if word.startswith("--")):
        assert f'"{option}"' in source, f"{place}: {path.name} has no {option}"


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_other_blocks_are_what_they_say(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
        else:
            known = ("", "python", "text", "bibtex", *SHELLS)
            assert block.language in known, f"{block.place}: {block.language} blocks are not tested"


@pytest.mark.fast
def test_every_reason_is_given() -> None:
    untried = [block for page in PAGES for block in blocks(page) if block.reason is not None]
    for block in untried:
        assert block.reason is not None
        assert len(block.reason.split()) >= 3, block.place


@pytest.mark.fast
@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_file_they_link_to_exists(name: str) -> None:
    """Sphinx checks the links within the docs; those of README are whole, for package indexes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / name).read_text(encoding="utf-8")
    whole = rf"{re.escape(project['urls']['Repository'])}/(?:blob|raw)/main/"
    if name == "README.md":
        assert re.findall(r"\]\((?!http)", text) == []
        assert len(re.findall(whole, text)) > 10
    for link in re.findall(r"\]\(([^)#:]+)\)", re.sub(whole, "", text)):
        assert (ROOT / link).exists(), f"{name} links to {link}"


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_exists(page: Path) -> None:
    """Paths of the repository in code font."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:zpyro|cli|examples|tests|benchmarks)/[\w./]*)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_first_hour_from_beginning_to_end(reader: Path) -> None:
    """Every command of that page as printed, with a training of few steps."""
    shutil.rmtree(reader / "runs")
    page = ROOT / "docs/first_hour.md"
    ran = [run(words, block) for block in blocks(page) for words in commands_to_run(block)]
    assert {"train", "evaluate", "sample"} <= {words[0] for words in ran}


@pytest.mark.parametrize(
    ("page", "plugin"),
    [("own_model", "my_model.py"), ("own_data", "tides.py"), ("own_term", "sparsity.py")],
)
def test_plugins_work_on_the_command_line(
    page: str, plugin: str, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that a page asks to save works with the page's commands."""
    path = ROOT / f"docs/{page}.md"
    with registrations_undone():
        run_python(path, monkeypatch)
    code = [block for block in blocks(path) if block.language == "python"]
    source = next(
        block.text for block in code if "register(" in block.text or "ENTRY" in block.text
    )
    assert f"`{plugin}`" in path.read_text(encoding="utf-8")
    (reader / plugin).write_text(source, encoding="utf-8")
    ran = [run(words, block) for block in blocks(path) for words in commands_to_run(block)]
    assert any(plugin in words for words in ran)


def commands_to_run(block: Block) -> list[list[str]]:
    if block.language not in SHELLS or block.reason is not None:
        return []
    ours = [[word.removeprefix(".venv/bin/") for word in words] for words in commands(block)]
    return [words[1:] for words in ours if words[0] == "zpyro"]


def run(words: list[str], block: Block) -> list[str]:
    resumed = "--resume" in words
    short = ["--max-steps", "9" if resumed else "6"] if words[0] == "train" else []
    small = (*SMALL, "--set=train.log_every=2") if words[0] == "train" and not resumed else ()
    with registrations_undone():  # as commands of their own processes
        result = CliRunner(catch_exceptions=False).invoke(main, [*words, *short, *small])
    assert result.exit_code == 0, f"{block.place}: {' '.join(words)}\n{result.output}"
    return words
