"""Timing contenders in turn, peak memory in a process of its own, and this machine's own speed."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.sizes import Size

WARM_UP = 2


def interleaved(
    steps: Mapping[str, Callable[[], object]], repeats: Mapping[str, int], device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each call, the contenders taking turns so that a slow moment strikes all.

    Args:
        steps: what to time, by name.
        repeats: how often each; the turns of a contender with fewer are spread over the others'.
        device: where the steps run.
    """
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rounds = max(repeats[name] for name in steps)
    for turn in range(rounds):
        for name, step in steps.items():
            if (turn + 1) * repeats[name] // rounds > len(seconds[name]):
                seconds[name].append(_seconds(step, device))
    return seconds


def _seconds(step: Callable[[], object], device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each contender's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_gflops(size: Size, device: str = "cpu", repeats: int = 15) -> float:
    """Best rate of the largest product of a step that needs no loop, 1e9 operations a second."""
    rows, inner, outer = size.sequences * min(size.steps, 40), size.hidden, 4 * size.hidden
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, outer, device=device)
    out = torch.empty(rows, outer, device=device)

    def product() -> None:
        torch.mm(left, right, out=out)

    product()
    best = min(_seconds(product, device) for _ in range(repeats))
    return 2.0 * rows * inner * outer / best / 1e9


def peak_mib(contender: str, size_name: str, threads: int, device: str = "cpu") -> float:
    """Peak memory of a training step with all it needs, MiB, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", contender, "--size", size_name]
    command += ["--threads", str(threads), "--device", device]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(result.stdout.splitlines()[-1])["peak_mib"])


def machine() -> str:
    """The processor's name and the cores there are."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
