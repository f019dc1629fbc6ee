"""The loops in C++: built once, safe to share, and optional."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.processes import LIMIT
from tests.recurrence.cases import Case, assert_close, gradients, make, outputs
from zpyro.nn.kernels import compiled
from zpyro.nn.kernels.chain_loops import (
    ChainOutputGradients,
    ChainTape,
    ChainWeights,
    TorchChain,
)
from zpyro.nn.kernels.fused_blocks import PathGradients
from zpyro.nn.kernels.lstm_loops import Tape, Weights
from zpyro.nn.recurrence import RECURRENCES, plain

needs_compiler = pytest.mark.skipif(
    compiled.status() != "ready", reason=f"compiled recurrence: {compiled.status()}"
)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, where nothing is cached."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


STATUS = (
    "import logging; logging.basicConfig(level=20)"
    "; import zpyro.nn.kernels.compiled as c; print(c.status())"
)


def test_an_environment_variable_switches_it_off() -> None:
    result = run(STATUS, ZPYRO_COMPILE="0")
    assert result.stdout.strip() == "switched off by ZPYRO_COMPILE=0"


def test_without_a_compiler_torch_loops_run_and_a_message_is_logged(tmp_path: Path) -> None:
    code = STATUS + (
        "; from tests.recurrence.cases import make; from zpyro.nn.recurrence import choose"
        "; print(make('lstm').run(choose('auto')).z.shape)"
    )
    result = run(code, CXX="no-such-compiler", ZPYRO_CACHE=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "no C++ compiler found (looked for no-such-compiler)" in result.stdout
    assert "torch.Size([3, 4, 2])" in result.stdout
    assert "INFO" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_failing_compiler_is_reported(tmp_path: Path) -> None:
    failing = tmp_path / "broken-compiler"
    failing.write_text("#!/bin/sh\necho 'cannot do this' >&2\nexit 1\n")
    failing.chmod(0o755)
    result = run(STATUS, CXX=str(failing), ZPYRO_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("broken-compiler failed: cannot do this")
    assert "WARNING" in result.stderr
    assert not list((tmp_path / "cache").iterdir())


DAMAGED = (
    "import logging; logging.basicConfig(level=20); import zpyro.nn.kernels.compiled as c"
    "; c.library_path().write_text('not a library'); print(c.status())"
)


@needs_compiler
def test_a_damaged_library_is_built_again(tmp_path: Path) -> None:
    result = run(DAMAGED, ZPYRO_CACHE=str(tmp_path))
    assert result.stdout.strip() == "ready", result.stderr
    assert "does not load" in result.stderr
    assert "compiling" in result.stderr


def test_a_damaged_library_is_not_used_without_a_compiler(tmp_path: Path) -> None:
    result = run(DAMAGED, ZPYRO_CACHE=str(tmp_path), CXX="no-such-compiler")
    assert "no C++ compiler found" in result.stdout
    assert "does not load" in result.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(1 - tanh_c * tanh_c)", "(2 - tanh_c * tanh_c)", "computes wrong results"),
        ("int forward_float", "int forward_single", "is not the library of this version"),
    ],
    ids=["results", "names"],
)
def test_a_library_of_another_version_is_removed_and_built_again(
    old: str, new: str, reason: str, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.cpp"
    source = compiled.SOURCE.read_text()
    assert old in source
    changed.write_text(source.replace(old, new))
    cache = tmp_path / "cache"
    stale = (
        "import zpyro.nn.kernels.compiled as c; from pathlib import Path"
        f"; path = c.library_path(); right = c.SOURCE; c.SOURCE = Path({str(changed)!r})"
        "; c._build(path); c.SOURCE = right; print(c.status())"
    )
    result = run(stale, ZPYRO_CACHE=str(cache))
    assert reason in result.stdout, result.stderr
    assert "WARNING" in result.stderr or "not compiled" in result.stderr
    assert run(STATUS, ZPYRO_CACHE=str(cache)).stdout.strip() == "ready"


@needs_compiler
def test_is_built_once(tmp_path: Path) -> None:
    first, second = (run(STATUS, ZPYRO_CACHE=str(tmp_path)) for _ in range(2))
    assert first.stdout.strip() == second.stdout.strip() == "ready"
    assert "compiling" in first.stderr
    assert "compiling" not in second.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


@needs_compiler
def test_an_unwritable_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(STATUS, ZPYRO_CACHE=str(tmp_path / "file" / "below"))
    assert "could not build" in result.stdout


@pytest.mark.fast
@needs_compiler
def test_supported_dtypes_and_devices() -> None:
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert compiled.runs_here(single, torch.float32)
    assert compiled.runs_here(double, torch.float64)
    assert not compiled.runs_here(single, torch.bfloat16)
    assert not compiled.runs_here(single.half(), torch.float16)
    assert not compiled.runs_here(torch.zeros(1, device="meta"), torch.float32)


def everything(case: Case) -> list[Tensor]:
    path = case.run(RECURRENCES["compiled"])
    return [*outputs(path).values(), *gradients(case, path).values()]


def loop_results(threads: int, dtype: torch.dtype) -> list[Tensor]:
    """Every array that the two loops fill with a number of threads."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator, dtype=dtype)

    steps, rows, hidden, latent, width = 4, 43, 90, 40, 70
    weights = Weights(
        hidden=noise(width, hidden),
        future=noise(width, hidden),
        hidden_bias=noise(width),
        output=noise(2 * latent, width),
        output_bias=noise(2 * latent),
        gates=noise(4 * hidden, hidden + latent),
        embedded=noise(4 * hidden, 1),
        gate_bias=noise(4 * hidden),
    )
    tape = Tape(
        activations=noise(steps, rows, width),
        gates=noise(steps, rows, 4 * hidden),
        raw=noise(steps, rows, 2 * latent),
        z=noise(steps, rows, latent),
        noise=noise(steps, rows, latent),
        hidden=noise(steps + 1, rows, hidden),
        cell=noise(steps + 1, rows, hidden),
    )
    grad_outputs = PathGradients(
        *(noise(*part.shape) for part in (tape.z, tape.hidden[1:], tape.z, tape.z, tape.cell[0]))
    )
    loops, before = compiled.CompiledLoops(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loops.forward(tape, weights, dtype)
        return [*tape, *loops.backward(tape, weights, grad_outputs, dtype)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.fast
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    alone = loop_results(1, dtype)
    for threads in (2, 3):
        several = loop_results(threads, dtype)
        assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))


def chain_results(loops: TorchChain, threads: int, dtype: torch.dtype, case: str) -> list[Tensor]:
    """Every array that the two loops of the latent chain fill with a number of threads."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int, scale: float = 0.5) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=dtype)

    steps, rows, latent, width = 4, 43, 21, 37
    prior_width = 0 if case == "no prior" else 19
    outputs = 3 if prior_width else 2
    scale = 9.0 if case == "clamped" else 0.5
    blocks = [noise(2 * latent, width, scale=scale), noise(latent, prior_width, scale=scale)]
    weights = ChainWeights(
        from_latent=noise(width + prior_width, latent, scale=0.05),
        to_raw=torch.block_diag(*blocks[: outputs - 1]),
        bias=noise(outputs * latent),
    )
    tape = ChainTape(
        activations=noise(steps, rows, width + prior_width, scale=2.0),
        raw=noise(steps, rows, outputs * latent),
        z=noise(steps + 1, rows, latent),
        noise=noise(steps, rows, latent),
        mean=noise(steps, rows, latent),
        log_variance=noise(steps, rows, latent),
    )
    grad_outputs = ChainOutputGradients(
        *(None if case == "no gradients" else noise(*tape.noise.shape) for _ in range(2)),
        log_variance=noise(*tape.noise.shape),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loops.forward(tape, weights, width)
        return [*tape, *loops.backward(tape, weights, width, grad_outputs)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.fast
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["residual", "no prior", "clamped", "no gradients"])
def test_the_latent_chain_in_any_number_of_threads(case: str, dtype: torch.dtype) -> None:
    alone = chain_results(compiled.CompiledChain(), 1, dtype, case)
    if case == "clamped":
        assert (alone[5].abs() == 8.0).any()
    # A rounding error beside a bound changes a gradient by more than any tolerance.
    if dtype == torch.float64 or case != "clamped":
        tolerance = 1e-10 if dtype == torch.float64 else 2e-3
        for found, expected in zip(alone, chain_results(TorchChain(), 1, dtype, case), strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    several = chain_results(compiled.CompiledChain(), 3, dtype, case)
    assert all(torch.equal(a, b) for a, b in zip(alone, several, strict=True))


@pytest.mark.fast
@needs_compiler
def test_runs_in_several_python_threads() -> None:
    case = make("lstm", sequences=9, steps=20, hidden=40)
    expected = everything(case)
    found: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        found[number] = everything(case)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == len(workers)
    for results in found.values():
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.fast
@needs_compiler
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_numbers_propagate(value: float) -> None:
    case = make("lstm").to(torch.float32)
    with torch.no_grad():
        case.noise[1, 2, 0] = value
    ours, torchs = case.run(RECURRENCES["compiled"]), case.run(RECURRENCES["fused"])
    assert not ours.z[1, 2, 0].isfinite()
    assert torch.equal(ours.z.isfinite(), torchs.z.isfinite())
    assert torch.equal(ours.hidden.isnan(), torchs.hidden.isnan())
    assert ours.z[0].isfinite().all()


@pytest.mark.fast
@needs_compiler
def test_single_precision_functions_are_accurate_over_their_range() -> None:
    """Gates from -100 to 100: exp, sigmoid and tanh of the loops against torch's in float64."""
    case = make("lstm", sequences=16, steps=3, hidden=33)
    with torch.no_grad():
        case.embedded.mul_(40.0)
        case.embedded[::2].mul_(1e-4)
    expected = outputs(case.run(plain)), gradients(case, case.run(plain))
    single = case.to(torch.float32)
    path = single.run(RECURRENCES["compiled"])
    assert_close(outputs(path), expected[0], 1e-5)
    assert_close(gradients(single, path), expected[1], 1e-4)
