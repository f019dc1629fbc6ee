"""Where the time of a training step goes: ``python -m benchmarks.breakdown --size small``."""

from __future__ import annotations

import argparse
import json

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import make
from benchmarks.measure import WARM_UP, machine
from benchmarks.sizes import SIZES
from zpyro.training.allocation import keep_freed_memory

STEPS = 5
PARTS = {
    "loop over time, forward": ("LSTMPath", "LayerNormPath"),
    "loop over time, backward": ("LSTMPathBackward", "LayerNormPathBackward"),
    "backward-running LSTM": ("aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"),
    "products for all steps at once": ("aten::mm", "aten::addmm", "aten::bmm"),
    "optimizer": ("aten::_fused_adam_", "aten::_foreach_norm", "aten::_foreach_mul_"),
}
"""Operations by what they belong to; all others are the pointwise rest."""
REST = "pointwise work, sums, copies"


def main() -> None:
    """Print shares of a step's time, or one JSON object a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", action="append", choices=SIZES, help="may be repeated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    if not options.json:
        print(machine())
    for name in options.size or ["small", "timit"]:
        shares = measure(name)
        if options.json:
            print(json.dumps({"size": name, **shares}), flush=True)
            continue
        print(f"\n{name}")
        for part, share in shares.items():
            print(f"  {part:32s} {share:6.1%}", flush=True)


def measure(name: str) -> dict[str, float]:
    """The share of each part in the time that all operations take themselves."""
    step = make("fast", SIZES[name])
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    parts = {operation: part for part, operations in PARTS.items() for operation in operations}
    times = dict.fromkeys((*PARTS, REST), 0.0)
    for event in profiled.key_averages():
        times[parts.get(event.key, REST)] += event.self_cpu_time_total
    total = sum(times.values())
    return {part: time / total for part, time in times.items()}


if __name__ == "__main__":
    main()
