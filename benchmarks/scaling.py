"""How the cost of a training step grows: ``python -m benchmarks.scaling``.

Time per frame of zpyro's fast step at the size "small", with more steps, more sequences, and more
particles; 1.00 is the first row of each table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial

import torch

import zpyro
from benchmarks.contenders import bare_terms, make, zforcing
from benchmarks.measure import interleaved, machine, medians
from benchmarks.sizes import SIZES, Size
from zpyro.training.allocation import keep_freed_memory

STEPS = (40, 196, 784, 3136)
SEQUENCES = (1, 8, 32, 128)
PARTICLES = (1, 2, 5, 10)
EVALUATION = 8
"""Sequences in the batch whose particles are counted."""


def main() -> None:
    """Print three tables, or one JSON object a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("steps", "sequences", "particles"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    if not options.json:
        print(machine())
    for name, contenders, frames in _tables(SIZES["small"]):
        if options.only in (None, name):
            seconds = medians(interleaved(contenders, dict.fromkeys(contenders, options.repeats)))
            _report(name, seconds, frames, options.json)


Table = tuple[str, dict[str, Callable[[], object]], dict[str, int]]


def _tables(size: Size) -> list[Table]:
    """(what grows, steps by label, frames by label)."""
    tables: list[Table] = []
    for name, values in (("steps", STEPS), ("sequences", SEQUENCES)):
        sizes = {str(value): dataclasses.replace(size, **{name: value}) for value in values}
        contenders = {label: make("fast", each) for label, each in sizes.items()}
        tables.append((name, contenders, {label: each.frames for label, each in sizes.items()}))
    batch = dataclasses.replace(size, sequences=EVALUATION)
    frames = {str(count): count * batch.frames for count in PARTICLES}
    tables.append(("particles", {str(k): _evaluation(batch, k) for k in PARTICLES}, frames))
    return tables


def _evaluation(size: Size, particles: int) -> Callable[[], object]:
    """Scoring a batch with so many vectorized particles, as the IWAE bound does."""
    torch.manual_seed(0)
    frames = torch.randn(size.steps + 1, size.sequences, size.frame)
    model = zforcing(size, frames)
    x, start = frames[1:].transpose(0, 1).contiguous(), frames[0]
    return partial(_score, model, x, start, particles)


@torch.no_grad()
def _score(model: zpyro.ZForcing, x: torch.Tensor, start: torch.Tensor, particles: int) -> object:
    return bare_terms(model, x, start, particles)


def _report(name: str, seconds: dict[str, float], frames: dict[str, int], as_json: bool) -> None:
    first = next(iter(seconds))
    unit = seconds[first] / frames[first]
    if not as_json:
        print(f"\n{name:>10}  seconds  us/frame  relative")
    for label, each in seconds.items():
        cost = each / frames[label]
        if as_json:
            row = {name: int(label), "seconds": each, "relative_cost_per_frame": cost / unit}
            print(json.dumps(row), flush=True)
        else:
            print(f"{label:>10}  {each:7.3f}  {cost * 1e6:8.1f}  {cost / unit:8.2f}", flush=True)


if __name__ == "__main__":
    main()
