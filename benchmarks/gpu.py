"""Everything to measure on a GPU, in one run: ``python -m benchmarks.gpu --out gpu.jsonl``.

In order: every recurrence in every precision against the plain loop in float64 on the CPU; the time
and the memory of a training step of every contender in float32, TF32 and bfloat16; generation; and
two processes where there are two devices. Each result is written when it is known, and stages
that no longer fit into ``--minutes`` are reported as left out. It runs on a CPU as well.

Contenders are those of :mod:`benchmarks.step_time`, and ``captured``: the terms without Pyro as one
CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import generation
from benchmarks.contenders import make
from benchmarks.measure import machine, matmul_gflops, median_seconds
from benchmarks.sizes import SIZES, TINY, Size
from zpyro.analysis.installation import check_graphs, check_step, precisions
from zpyro.nn.precision import products
from zpyro.nn.recurrence import RECURRENCES
from zpyro.training import choose_device

CONTENDERS = ("published", "floor", "fast", "captured", "svi", "training")
ALL_SIZES = {**SIZES, "tiny": TINY}
REPEATS = {"published": 2}
"""Calls of the slow contender; the others are called :data:`CALLS` times."""

CALLS = 11
SECONDS_OF_A_STEP = {"published": 0.005}
"""A guess of the seconds for a step of the time loop, to leave out what does not fit."""

GENERATED_FRAMES = 160

Record = dict[str, Any]


def main() -> None:
    """Print each result as a line, and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8.0, help="stages after that are left out")
    parser.add_argument("--size", action="append", choices=ALL_SIZES, help="may be repeated")
    parser.add_argument("--out", type=Path, help="file for one JSON object per line")
    options = parser.parse_args()
    device = choose_device(options.device)
    sizes = options.size or ["small", "timit", "long", "blizzard"]
    deadline = time.monotonic() + 60.0 * options.minutes
    file = None if options.out is None else options.out.open("w", encoding="utf-8")
    try:
        for record in run(device, sizes, deadline):
            print(_line(record), flush=True)
            if file is not None:
                file.write(json.dumps(record) + "\n")
                file.flush()
    finally:
        if file is not None:
            file.close()


def run(device: torch.device, sizes: list[str], deadline: float) -> Iterator[Record]:
    """All results, one at a time.

    Args:
        device: to measure on.
        sizes: names of :data:`ALL_SIZES`.
        deadline: of :func:`time.monotonic`; stages that begin later are left out.
    """
    yield {"stage": "machine", "processor": machine(), "device": _name(device)}
    for recurrence in RECURRENCES:
        for precision in ("float64", *precisions(device)):
            check = check_step(device, recurrence, precision)
            yield {"stage": "correctness", **vars(check)}
    yield {"stage": "correctness", **vars(check_graphs(device))}
    for name in sizes:
        for precision in precisions(device):
            for record in _steps(name, precision, device, deadline):
                yield {"size": name, "precision": precision, **record}
    for name in [name for name in sizes if name != "blizzard"][:2]:
        for voices in (1, 32):
            if time.monotonic() > deadline:
                yield {"stage": "left out", "what": f"generation at {name}"}
                continue
            yield {"stage": "generation", **_generation(name, voices, device)}
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        yield from _two_processes(sizes[0], deadline)


def _steps(name: str, precision: str, device: torch.device, deadline: float) -> Iterator[Record]:
    """Time and memory of the contenders at one size, in one precision."""
    size = ALL_SIZES[name]
    steps, memory = {}, {}
    for contender in CONTENDERS:
        left = deadline - time.monotonic()
        needed = (
            SECONDS_OF_A_STEP.get(contender, 0.0) * size.steps * (2 + REPEATS.get(contender, 0))
        )
        if left < needed:
            yield {"stage": "left out", "what": contender}
            continue
        try:
            steps[contender], memory[contender] = _made(contender, size, device, precision)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            yield {"stage": "failed", "what": contender, "reason": reason}
    repeats = {contender: REPEATS.get(contender, CALLS) for contender in steps}
    seconds = median_seconds(steps, repeats, str(device)) if steps else {}
    with products(precision):
        # In bfloat16 autocast casts both factors, which this product does not measure.
        rate = None if precision == "bfloat16" else matmul_gflops(size, str(device))
    fast = seconds.get("captured")
    yield {
        "stage": "step",
        "seconds": seconds,
        "ratios": _ratios(seconds),
        "peak_mib": memory,
        "gflops": None if fast is None else size.operations / fast / 1e9,
        "matmul_gflops": rate,
    }


def _made(
    contender: str, size: Size, device: torch.device, precision: str
) -> tuple[Any, float | None]:
    """A step, called until it is recorded, and the peak memory of these calls (CUDA), MiB."""
    before = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    step = make(contender, size, str(device), precision=precision)
    for _ in range(1 if contender in REPEATS else 5):
        step()
    if device.type != "cuda":
        return step, None
    torch.cuda.synchronize(device)
    return step, (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    """The ratios of docs/performance.md of the contenders that were measured."""
    pairs = [("published", "fast"), ("published", "captured"), ("published", "training")]
    pairs += [("fast", "floor"), ("captured", "floor"), ("svi", "fast"), ("training", "floor")]
    return {
        f"{above}/{below}": seconds[above] / seconds[below]
        for above, below in pairs
        if above in seconds and below in seconds
    }


def _generation(name: str, voices: int, device: torch.device) -> Record:
    size = ALL_SIZES[name]
    seconds = GENERATED_FRAMES * size.frame / generation.SAMPLE_RATE
    options = argparse.Namespace(seconds=seconds, repeats=3, device=str(device))
    return generation.measure(name, voices, options, size)


def _two_processes(size: str, deadline: float) -> Iterator[Record]:
    """One and two processes, a GPU each, in processes of their own."""
    command = [sys.executable, "-m", "benchmarks.ranks", "--device", "cuda", "--json"]
    command += ["--size", size, "--processes", "1", "2", "--repeats", "1"]
    left = max(1.0, deadline - time.monotonic())
    try:
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=left)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        yield {"stage": "failed", "what": "two processes", "reason": str(error)}
        return
    for line in result.stdout.splitlines():
        yield {"stage": "processes", **json.loads(line)}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _line(record: Record) -> str:
    """One result as text."""
    parts = dict(record)
    stage = parts.pop("stage")
    if stage == "step":
        times = ", ".join(f"{n} {1e3 * s:.2f}" for n, s in record["seconds"].items())
        ratios = ", ".join(f"{n} {r:.2f}" for n, r in record["ratios"].items())
        return f"{record['size']}, {record['precision']}: ms {times}; {ratios}"
    return f"{stage}: " + ", ".join(f"{key} {value}" for key, value in parts.items() if value)


if __name__ == "__main__":
    main()
