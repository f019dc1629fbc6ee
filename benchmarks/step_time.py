"""Time of a training step: ``python -m benchmarks.step_time --size small --json``.

Times, alternately and in one process, one training step (forward, all terms, backward, gradient
clipping at 100, Adam) of

- (a) published: the published algorithm with every network inside the time loop,
- (b) floor: the same multiplications without feedback, two ``nn.LSTM`` and batched MLPs,
- (c) fast: zpyro's terms, computed without Pyro,
- (d) svi: ``SVI.step`` with ``ZForcingELBO`` and ``JointOptim``; svi_stock: ``pyro.optim.Adam``,
- (e) step_sites: the same with one Pyro site per step,
- (f) training: the step of ``zpyro train`` with a batch from the host; on CUDA it is one recorded
  graph.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from benchmarks.contenders import make
from benchmarks.measure import (
    common_arguments,
    matmul_gflops,
    median_seconds,
    peak_mib,
    start,
)
from benchmarks.sizes import SIZES
from zpyro.nn.kernels import compiled

CONTENDERS = ("published", "floor", "fast", "svi", "svi_stock", "step_sites", "training")
REPEATS = {"small": 31, "timit": 7, "blizzard": 3, "long": 5}
RARE = ("step_sites",)
"""Slow contenders, which are timed less often."""


def main() -> None:
    """Print a table per size, or one JSON object per line."""
    options = _options()
    start(options)
    if options.tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if not options.json:
        print(f"compiled recurrence: {compiled.status()}")
    for size in options.size or ["small", "timit", "long"]:
        result = measure(size, options)
        print(json.dumps(result) if options.json else _table(result), flush=True)


def _options() -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--size", action="append", choices=SIZES, help="may be repeated")
    parser.add_argument("--repeats", type=int, help="calls of each contender")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tf32", action="store_true", help="let products run in TF32 (CUDA)")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time (with --threads 1)"
    )
    parser.add_argument("--skip", action="append", choices=CONTENDERS, default=[])
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace) -> dict[str, str | int | float | None]:
    """All results of one size; seconds are medians."""
    size = SIZES[name]
    contenders = [contender for contender in CONTENDERS if contender not in options.skip]
    repeats = options.repeats or REPEATS[name]
    turns = {c: max(1, repeats // 5) if c in RARE else repeats for c in contenders}
    steps = {
        contender: make(contender, size, options.device, precision=options.precision)
        for contender in contenders
    }
    clock = time.process_time if options.processor_time else time.perf_counter
    seconds = median_seconds(steps, turns, options.device, clock)
    del steps
    fast = seconds["fast"]
    return {
        "size": name,
        "threads": torch.get_num_threads(),
        **{f"{contender}_s": seconds.get(contender) for contender in CONTENDERS},
        "fast_peak_mib": peak_mib("fast", name, options.threads, options.device),
        "floor_peak_mib": peak_mib("floor", name, options.threads, options.device),
        "gflops": size.operations / fast / 1e9,
        "matmul_gflops": matmul_gflops(size, options.device),
        "frames_per_s": size.frames / fast,
    }


def _table(result: dict[str, str | int | float | None]) -> str:
    def value(key: str) -> float:
        number = result[key]
        return float("nan") if number is None else float(number)

    published, floor, fast, svi, stock, sites, training = (
        value(f"{name}_s") for name in CONTENDERS
    )
    lines = [
        f"\n{result['size']}, {result['threads']} threads",
        f"  (a) published  {published:9.3f} s   (a)/(c) {published / fast:6.2f}",
        f"  (b) floor      {floor:9.3f} s   (c)/(b) {fast / floor:6.2f}",
        f"  (c) fast       {fast:9.3f} s   {value('frames_per_s'):.0f} frames/s, "
        f"{value('gflops'):.0f} of {value('matmul_gflops'):.0f} GFLOP/s",
        f"  (d) SVI.step   {svi:9.3f} s   (d)/(c) {svi / fast:6.2f}",
        f"      with pyro.optim.Adam {stock:.3f} s, {stock / fast:.2f} of (c)",
        f"  (e) step sites {sites:9.3f} s   (e)/(c) {sites / fast:6.2f}",
        f"  (f) training   {training:9.3f} s   (a)/(f) {published / training:6.2f}, "
        f"(f)/(b) {training / floor:6.2f}",
        f"  peak memory: fast {value('fast_peak_mib'):.0f} MiB, floor "
        f"{value('floor_peak_mib'):.0f} MiB, (c)/(b) "
        f"{value('fast_peak_mib') / value('floor_peak_mib'):.2f}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
