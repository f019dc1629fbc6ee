"""What the README shows runs as printed, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pyro
import pytest
from click.testing import CliRunner

from zpyro_cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block, one after another in one namespace, on a small version of the data."""
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path))
    pyro.clear_param_store()
    import zpyro

    load = zpyro.datasets.load
    monkeypatch.setattr(
        zpyro.datasets, "load", lambda name: load(name, utterances=120, shortest=0.2, longest=0.3)
    )
    namespace: dict[str, object] = {}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["objective"].step > 0  # pyright: ignore
    assert len(namespace["z"]) == 8  # pyright: ignore


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split() for line in lines if line.strip()]


@pytest.mark.fast
def test_every_command_and_option_exists() -> None:
    shown = [words for words in commands() if words[0] == "zpyro"]
    assert shown
    for words in shown:
        names = [word for word in words[1:3] if re.fullmatch(r"[a-z-]+", word)]
        known = names[:2] if names[0] == "data" else names[:1]
        result = CliRunner().invoke(main, [*known, "--help"])
        assert result.exit_code == 0, words
        for option in (word for word in words if word.startswith("--")):
            assert option in result.output, f"{option} of {' '.join(known)}"


@pytest.mark.fast
def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words[1] for words in commands() if words[0] == "make"}
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.fast
def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
