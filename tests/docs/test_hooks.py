"""The hooks before a commit are ours, and the same as `make test` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT

pre_commit = pytest.importorskip("pre_commit.clientlib", reason="pre-commit is not installed")

CONFIG = ROOT / ".pre-commit-config.yaml"


def hooks() -> list[dict[str, object]]:
    """The hooks as pre-commit itself reads them."""
    loaded = pre_commit.load_config(CONFIG)
    assert [repository["repo"] for repository in loaded["repos"]] == ["local"]
    return loaded["repos"][0]["hooks"]


@pytest.mark.fast
def test_nothing_is_fetched() -> None:
    assert [hook["id"] for hook in hooks()] == ["ruff-format", "ruff-check", "pyright"]
    # pre-commit reads "system" as "unsupported" from 4.4 on: it makes no environment of its own.
    assert {hook["language"] for hook in hooks()} <= {"system", "unsupported"}


@pytest.mark.fast
def test_the_makefile_runs_the_same() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in hooks():
        words = str(hook["entry"]).removeprefix(".venv/bin/").split()
        tool = " ".join(word for word in words if not word.startswith("--"))
        assert f"$(BIN)/{tool}" in makefile, hook["id"]


def test_a_badly_written_file_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks for ruff, as pre-commit runs them, on a repository with one bad file."""
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "cache"))
    (tmp_path / ".gitignore").write_text("cache/\n", encoding="utf-8")
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nx = 'one'\n", encoding="utf-8")
    text = CONFIG.read_text(encoding="utf-8")
    here = text.replace(".venv/bin/ruff", f"{sys.executable} -m ruff")
    (tmp_path / ".pre-commit-config.yaml").write_text(here, encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    ended = {}
    for hook in ("ruff-format", "ruff-check"):
        command = [sys.executable, "-m", "pre_commit", "run", hook, "--all-files"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        ended[hook] = (done.returncode, done.stdout)
    assert ended["ruff-format"][0] != 0
    assert bad.read_text(encoding="utf-8") == 'import os\n\nx = "one"\n'
    assert ended["ruff-check"][0] != 0
    assert "F401" in ended["ruff-check"][1]
