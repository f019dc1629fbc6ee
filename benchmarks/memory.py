"""Peak memory of one contender: ``python -m benchmarks.memory fast --size small``.

On a CPU it is the peak growth of the process between the construction of the model and the end of
three training steps: parameters, gradients, optimizer state and all allocations of a step. On an
accelerator it is the peak that torch reports.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.contenders import MAKERS, make
from benchmarks.sizes import SIZES, Size
from zpyro.training.allocation import keep_freed_memory

STEPS = 3


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description="Peak memory of one contender.")
    parser.add_argument("contender", choices=MAKERS)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    measure = _on_cpu if options.device == "cpu" else _on_accelerator
    mib = measure(options.contender, SIZES[options.size], options.device)
    print(json.dumps({"contender": options.contender, "size": options.size, "peak_mib": mib}))


def _on_cpu(contender: str, size: Size, device: str) -> float:
    # A tiny model first: libraries allocate their permanent buffers and threads now.
    tiny = make(contender, Size(8, 2, 4, 4, sequences=2, steps=2, frame=3), device)
    tiny()
    del tiny
    # Resets the peak size that the kernel reports.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    step = make(contender, size, device)
    for _ in range(STEPS):
        step()
    return _status_mib("VmHWM") - before


def _on_accelerator(contender: str, size: Size, device: str) -> float:
    torch.cuda.reset_peak_memory_stats()
    step = make(contender, size, device)
    for _ in range(STEPS):
        step()
    return torch.cuda.max_memory_allocated() / 2**20


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this kernel does not report {field}")


if __name__ == "__main__":
    main()
