"""Time of a training step in several processes: ``python -m benchmarks.ranks``.

Prints two tables: one batch divided among the processes, and one batch per process. The groups
alternate and are started by torchrun (gloo, or nccl with ``--device cuda``). A step is that of
``zpyro train``.

``--inputs`` prints instead what noise and the order of a pass cost each process per step. They need
no other process, so any number of them is simulated by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable

import torch
import torch.distributed as dist

from benchmarks.contenders import training_step
from benchmarks.measure import machine
from benchmarks.sizes import SIZES
from zpyro.datasets.batching import BatchOrder
from zpyro.distributed.processes import ProcessGroup, init_distributed
from zpyro.nn import CounterNoise
from zpyro.training.allocation import keep_freed_memory

WARM_UP = 3
LARGEST = 4
"""The size of the divided batch, as a multiple of the batch of the size."""

CORPUS = 1 << 21
"""Sequences in the simulated corpus, as many as 290 hours have rows of 0.5 s."""

Row = dict[str, float | int | str]


def main() -> None:
    """Print two tables, or one JSON object per row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3, help="groups of each size")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a group")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inputs", action="store_true", help="cost of noise and order")
    parser.add_argument("--sequences", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.sequences is not None:
        _work(options)
        return
    if not options.json:
        print(f"{machine()} each, size {options.size}")
    if options.inputs:
        _inputs(options)
        return
    batch = SIZES[options.size].sequences
    divided = dict.fromkeys(options.processes, LARGEST * batch)
    _table("one batch divided", divided, options)
    _table("one batch per process", {count: count * batch for count in options.processes}, options)


def _table(title: str, sequences: dict[int, int], options: argparse.Namespace) -> None:
    found: dict[int, list[dict[str, float]]] = {count: [] for count in sequences}
    for _ in range(options.repeats):
        for count, total in sequences.items():
            found[count].append(_group(count, total, options))
    if not options.json:
        print(
            f"\n{title}\nprocesses  sequences  s/step  sequences/s         speedup  all-reduce, s"
        )
    first = 0.0
    for count, results in found.items():
        seconds = statistics.median(result["step_s"] for result in results)
        sums = statistics.median(result["all_reduce_s"] for result in results)
        rate = sequences[count] / seconds
        first = first or rate
        row: Row = {"table": title, "processes": count, "sequences": sequences[count]}
        row |= {"step_s": seconds, "all_reduce_s": sums, "speedup": rate / first}
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{count:>9}  {sequences[count]:>9}  {seconds:6.3f}  {rate:11.1f}  "
                f"{rate / first:15.2f}  {sums:13.3f}",
                flush=True,
            )


def _inputs(options: argparse.Namespace) -> None:
    """What the last of some processes needs per step for noise and the order of a pass."""
    if not options.json:
        print(
            f"{CORPUS:,} sequences\nprocesses  batch     noise, ms  of the whole batch, ms  "
            "order, ms  order, MiB"
        )
    for count in options.processes:
        row = _input_costs(count, options)
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{count:>9}  {row['sequences']:>7,}  {1e3 * row['noise_s']:10.3f}  "
                f"{1e3 * row['whole_noise_s']:22.3f}  {1e3 * row['order_s']:9.3f}  "
                f"{row['order_mib']:10.1f}",
                flush=True,
            )


def _input_costs(count: int, options: argparse.Namespace) -> dict[str, float]:
    size, process_group, alone = SIZES[options.size], ProcessGroup(count - 1, count), ProcessGroup()
    total = count * size.sequences
    rows = torch.tensor(process_group.part(total))
    source, like = CounterNoise(0), torch.zeros(())
    shape = torch.Size((size.sequences, size.steps, size.latent))
    whole = torch.Size((total, size.steps, size.latent))

    def sample() -> None:
        source.start_step(torch.tensor(1), rows)
        source.normal(shape, like)

    order = BatchOrder(CORPUS, total, lambda indices: 1 + indices % 40, shuffle=True)
    started = time.perf_counter()
    for _ in order.batches(0, process_group.part):
        pass
    seconds = (time.perf_counter() - started) / len(order)
    tracemalloc.start()
    for _ in itertools.islice(order.batches(0, process_group.part), 20):
        pass
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return {
        "processes": count,
        "sequences": total,
        "noise_s": _median_seconds(sample, options.steps, alone),
        "whole_noise_s": _median_seconds(lambda: torch.randn(whole), options.steps, alone),
        "order_s": seconds,
        "order_mib": peak,
    }


def _group(count: int, sequences: int, options: argparse.Namespace) -> dict[str, float]:
    """The measurements of the main process of a group."""
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "benchmarks.ranks", "--sequences", str(sequences), "--size", options.size]
    command += ["--threads", str(options.threads), "--device", options.device]
    command += ["--steps", str(options.steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(output.stdout.splitlines()[-1])


def _work(options: argparse.Namespace) -> None:
    """Time the steps and an all-reduce of all gradients in one process of a group."""
    keep_freed_memory()
    size = dataclasses.replace(SIZES[options.size], sequences=options.sequences)
    with init_distributed(options.device) as process_group:
        step = training_step(size, torch.device(options.device), process_group)
        seconds = _median_seconds(step, options.steps, process_group)
        gradients = torch.zeros(size.parameters, device=options.device)
        sums = _median_seconds(lambda: process_group.sum(gradients), options.steps, process_group)
        if process_group.is_main_process:
            print(json.dumps({"step_s": seconds, "all_reduce_s": sums}))


def _median_seconds(
    function: Callable[[], object], times: int, process_group: ProcessGroup
) -> float:
    found: list[float] = []
    for _ in range(WARM_UP + times):
        _wait(process_group)
        started = time.perf_counter()
        function()
        _wait(process_group)
        found.append(time.perf_counter() - started)
    return statistics.median(found[WARM_UP:])


def _wait(process_group: ProcessGroup) -> None:
    """Wait for every process and its device."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if process_group.world_size > 1:
        dist.barrier()


if __name__ == "__main__":
    main()
