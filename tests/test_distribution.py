"""The wheel and the source distribution: whole, and of use outside the source tree."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import zpyro

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = {"zpyro": "zpyro", "cli": "zpyro_cli", "examples": "zpyro_examples"}
LEFT_BEHIND = (".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "runs", "_build")


def run(*words: object, cwd: Path, **variables: str) -> str:
    """What a command prints, both streams; it must end well."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, the wheel built from the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_BEHIND, ".*_cache"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=source)
    shutil.rmtree(source)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path) -> Path:
    """The programs of an environment with the wheel, and the requirements of this one."""
    place = dist / "environment"
    venv.create(place, with_pip=False)
    python = place / "bin/python"
    # Only the requirements: a path file within another folder of packages is not read, so that the
    # source tree, which this environment has through one, is out of sight.
    library = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    Path(library, "requirements.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (wheel,) = dist.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=dist)
    return python.parent


def test_the_wheel_holds_every_module_and_file(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        f"{package}/{path.relative_to(ROOT / folder)}"
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == wanted


def test_the_source_distribution_holds_what_its_tests_need(dist: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        found = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    for folder in (*PACKAGES, "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not {"__pycache__", "_build"} & set(path.parts):
                assert path.relative_to(ROOT) in found
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml"):
        assert Path(name) in found
    for name in ("LICENSE", "CITATION.cff", "SECURITY.md"):
        assert Path(name) in found
    for name in ("requirements.lock", "requirements-dev.lock", ".pre-commit-config.yaml"):
        assert Path(name) in found


def test_the_version_is_said_once(installed: Path, tmp_path: Path) -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert table["project"]["version"] == zpyro.__version__
    assert importlib.metadata.version("zpyro") == zpyro.__version__
    assert run(installed / "zpyro", "--version", cwd=tmp_path).split()[-1] == zpyro.__version__


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import zpyro, zpyro_cli, zpyro_examples as e; print(zpyro.__file__, e.__path__[0])"
    for place in run(installed / "python", "-c", code, cwd=tmp_path).split():
        assert Path(place).is_relative_to(installed.parent)


def test_help_without_the_script(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "python", "-m", "zpyro_cli", "--help", cwd=tmp_path)
    assert "zpyro train --dataset vowels" in printed


def test_a_training_of_two_steps(installed: Path, tmp_path: Path) -> None:
    run(
        installed / "zpyro",
        *("train", "--dataset", "vowels", "--out", "run", "--max-steps", 2),
        *("--set", "data.utterances=40", "--set", "model.hidden_size=16"),
        cwd=tmp_path,
        ZPYRO_CACHE=str(tmp_path / "cache"),
        # The loop in C++ has tests of its own, and compiling it anew takes longer than this one.
        ZPYRO_COMPILE="0",
    )
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_an_example(installed: Path, tmp_path: Path) -> None:
    example = (installed / "zpyro", "example", "prefix-sums")
    assert "--preset quick" in run(*example, "--help", cwd=tmp_path)
    step = ("--solver", "feed-forward", "--max-minutes", 0.001)
    run(*example, "train", "--out", "run", *step, cwd=tmp_path)
    assert (tmp_path / "run/last/model.safetensors").is_file()


def test_the_time_of_an_import_is_told() -> None:
    printed = run(sys.executable, "-m", "benchmarks.import_time", "--repeats", 1, cwd=ROOT)
    seconds = [float(line.split()[-2]) for line in printed.splitlines()]
    assert len(seconds) == 4
    assert sum(seconds[:3]) == pytest.approx(seconds[3], abs=0.02)
