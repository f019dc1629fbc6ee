"""``zpyro doctor``: the right diagnosis for every state of a machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from zpyro.analysis import installation
from zpyro.analysis.installation import check_cache, check_compiled_loops, check_step
from zpyro.nn.kernels import compiled
from zpyro_cli.main import main

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    compiled.status() != "ready", reason=f"compiled recurrence: {compiled.status()}"
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZPYRO_CACHE", str(folder))
    monkeypatch.delenv("ZPYRO_COMPILE", raising=False)
    return folder


def test_json_and_text_report_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_status", lambda: "ready")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["ok"] is True
    assert report["versions"]["torch"] == torch.__version__
    names = [check["name"] for check in report["checks"]]
    assert names[:2] == ["cache folder", "C++ loops"]
    for recurrence in ("plain", "fused"):
        assert f"training step on cpu, recurrence {recurrence}, float32" in names
    text = CliRunner().invoke(main, ["doctor"])
    assert text.exit_code == 0
    assert all(name in text.stdout for name in names)
    assert "everything that this machine can do works" in text.stdout


def test_a_failure_is_named_and_gives_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("ZPYRO_COMPILE", "0")
    monkeypatch.setattr(installation, "devices", list)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "1 of 2 checks failed: cache folder" in result.stdout
    assert "set ZPYRO_CACHE to a folder that can be written" in result.stdout


def test_every_failure_is_named_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"cache folder": "failed", "C++ loops": "off", "CUDA graphs": "failed"}
    checks = [installation.Check(name, state, "told", "") for name, state in states.items()]
    monkeypatch.setattr(installation, "check_installation", lambda: checks)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "2 of 3 checks failed: cache folder, CUDA graphs\n" in result.stdout


def test_a_cache_without_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path))
    assert check_cache().state == "failed"
    assert "Permission denied" in check_cache().detail


def test_no_compiler_is_no_failure(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check = check_compiled_loops()
    assert check.state == "off"
    assert check.detail == "no C++ compiler found (looked for no-such-compiler)"
    assert "install g++ or clang++" in check.advice
    assert not empty_cache.exists()


def test_switched_off_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_COMPILE", "0")
    check = check_compiled_loops()
    assert (check.state, check.advice) == ("off", "unset ZPYRO_COMPILE to use them")


def test_a_broken_compiler_is_a_failure(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del empty_cache
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho 'internal error' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    check = check_compiled_loops()
    assert check.state == "failed"
    assert check.detail.endswith("compiler failed: internal error")
    assert "set CXX to another" in check.advice


def test_a_compiler_without_a_place_to_write_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "file" / "below"))
    check = check_compiled_loops()
    assert check.state == "failed"
    assert "could not build" in check.detail
    assert check.advice == "set ZPYRO_CACHE to a folder that can be written"


@needs_compiler
@pytest.mark.parametrize("content", ["text", "crash"])
def test_a_stale_library_is_built_again(
    content: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiled.library_path()
    assert path.parent == empty_cache
    empty_cache.mkdir()
    if content == "text":
        path.write_text("no library")
    else:
        source = tmp_path / "crash.cpp"
        source.write_text("struct Crash { Crash() { __builtin_trap(); } } crash;")
        with monkeypatch.context() as patched:
            patched.setattr(compiled, "SOURCE", source)
            compiled._build(path)
    check = check_compiled_loops()
    assert check.state == "ok", check
    assert check.detail == f"ready in {path}; built again, the cached one was damaged"
    assert check_compiled_loops().detail == f"ready in {path}"


def test_a_wrong_recurrence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = installation.step_errors(CPU, "fused", "float32")
    assert max(right) < 1e-5
    monkeypatch.setitem(installation.TOLERANCES, "float32", 1e-12)
    check = check_step(CPU, "fused", "float32")
    assert check.state == "failed"
    assert "more than 1e-12" in check.detail


def test_a_step_that_cannot_be_taken_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("could not create a primitive\nmore lines")

    monkeypatch.setattr(installation, "step_errors", fails)
    check = check_step(CPU, "plain", "bfloat16")
    assert (check.state, check.detail) == ("failed", "could not create a primitive")
    assert "train.precision" in check.advice


def test_graphs_that_are_dropped_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.check_graphs(CPU).state == "ok"
    logger = installation.logging.getLogger("zpyro.nn.kernels.cuda_graph")

    def warns(*_: object) -> float:
        logger.warning("CUDA graphs are not used")
        return 1.0

    monkeypatch.setattr(installation, "_trained_loss", warns)
    check = installation.check_graphs(CPU)
    assert (check.state, check.detail) == ("failed", "CUDA graphs are not used")
