"""Alternating timing, peak memory in a new process, and the speed of this machine."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.sizes import Size
from zpyro.analysis.installation import processor_name
from zpyro.training.allocation import keep_freed_memory

WARM_UP = 2


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with ``--threads`` and ``--json``; the description is a module's docstring."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    return parser


def start(options: argparse.Namespace) -> None:
    """Set threads and allocator as the command line does, and print the machine."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if not options.json:
        print(machine())


def median_seconds(
    steps: Mapping[str, Callable[[], object]],
    repeats: Mapping[str, int],
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of a call; calls alternate, so that a slow period affects all contenders.

    Args:
        steps: the functions to time, by name.
        repeats: number of calls of each; fewer calls are spread evenly over the rounds.
        device: of the steps.
        clock: seconds; ``time.process_time`` does not count what other processes take.
    """
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rounds = max(repeats[name] for name in steps)
    for i in range(rounds):
        for name, step in steps.items():
            if (i + 1) * repeats[name] // rounds > len(seconds[name]):
                seconds[name].append(_seconds(step, device, clock))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(
    step: Callable[[], object], device: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    _wait(device)
    started = clock()
    step()
    _wait(device)
    return clock() - started


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def matmul_gflops(size: Size, device: str = "cpu", repeats: int = 15) -> float:
    """Best rate of the largest product outside the loop, 1e9 operations per second."""
    rows, inner, outer = size.sequences * min(size.steps, 40), size.hidden, 4 * size.hidden
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, outer, device=device)
    out = torch.empty(rows, outer, device=device)

    def product() -> None:
        torch.mm(left, right, out=out)

    product()
    best = min(_seconds(product, device) for _ in range(repeats))
    return 2.0 * rows * inner * outer / best / 1e9


def peak_mib(contender: str, size_name: str, threads: int, device: str = "cpu") -> float:
    """Peak memory of a training step and its model, MiB, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", contender, "--size", size_name]
    command += ["--threads", str(threads), "--device", device]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(result.stdout.splitlines()[-1])["peak_mib"])


def machine() -> str:
    """The processor, the number of threads, and the version of torch."""
    return f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
