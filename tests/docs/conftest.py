"""A directory with the recordings, arrays, text and runs that the pages use."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
from click.testing import CliRunner

import zpyro
from tests.cli.conftest import SMALL, write_tones
from zpyro.datasets import DATASETS
from zpyro.likelihoods import LIKELIHOODS
from zpyro.models import MODELS
from zpyro.objectives import TERMS
from zpyro_cli.main import main


@pytest.fixture(scope="session")
def _furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    write_tones(folder / "recordings", 60)
    random = np.random.default_rng(0)
    np.savez(folder / "walks.npz", x=np.cumsum(random.normal(size=(40, 6, 5)), axis=1))
    lines = [" ".join(random.choice(["a", "short", "line", "of", "words"], 5)) for _ in range(40)]
    (folder / "poems.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = ["train", "--dataset", "wav", "--data", str(folder / "recordings")]
    arguments += ["--out", str(folder / "runs/mine"), "--max-steps", "4", *SMALL]
    result = CliRunner(catch_exceptions=False).invoke(main, arguments)
    assert result.exit_code == 0, result.output
    for name in ("vowels", "vowels-plain"):
        shutil.copytree(folder / "runs/mine", folder / "runs" / name)
    return folder


@pytest.fixture
def reader(_furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as the current one; ``vowels`` and trainings of
    some minutes are short, registrations are undone."""
    folder = tmp_path / "reader"
    shutil.copytree(_furnished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    pyro.clear_param_store()
    load = zpyro.datasets.load

    def load_little(name: str, *arguments: Any, **changes: Any) -> zpyro.datasets.Dataset:
        short = {"utterances": 120, "shortest": 0.2, "longest": 0.3} if name == "vowels" else {}
        return load(name, *arguments, **{**short, **changes})

    fit = zpyro.fit

    def fit_little(*arguments: Any, **options: Any) -> zpyro.training.FitResult:
        short = {"minutes": None, "steps": 10} if "minutes" in options else {}
        return fit(*arguments, **{**options, **short})

    monkeypatch.setattr(zpyro.datasets, "load", load_little)
    monkeypatch.setattr(zpyro, "fit", fit_little)
    with registrations_undone():
        yield folder


@contextlib.contextmanager
def registrations_undone() -> Iterator[None]:
    """Restores the registries on leaving."""
    registries = (MODELS, LIKELIHOODS, DATASETS, TERMS)
    before = [set(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        for name in set(registry) - known:
            registry.unregister(name)
