"""Growth of the cost of a training step: ``python -m benchmarks.scaling``.

Time per frame of zpyro's fast step at the size "small" for more steps, sequences and particles,
relative to the first row of each table.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.contenders import bare_terms, make, zforcing
from benchmarks.measure import common_arguments, median_seconds, start
from benchmarks.sizes import SIZES, Size

STEPS = (40, 196, 784, 3136)
SEQUENCES = (1, 8, 32, 128)
PARTICLES = (1, 2, 5, 10)
EVALUATION = 8
"""Sequences in the batch for the table of particles."""


def main() -> None:
    """Print three tables, or one JSON object per row."""
    parser = common_arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("steps", "sequences", "particles"))
    options = parser.parse_args()
    start(options)
    for name, contenders, frames in _tables(SIZES["small"]):
        if options.only in (None, name):
            repeats = dict.fromkeys(contenders, int(options.repeats))
            seconds = median_seconds(contenders, repeats)
            _report(name, seconds, frames, options.json)


Table = tuple[str, dict[str, Callable[[], object]], dict[str, int]]


def _tables(size: Size) -> list[Table]:
    """Tables as (the varied quantity, steps by label, frames by label)."""
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
    """Evaluation of a batch with vectorized particles, as for the IWAE bound."""
    torch.manual_seed(0)
    frames = torch.randn(size.steps + 1, size.sequences, size.frame)
    model = zforcing(size, frames)
    x = frames[1:].transpose(0, 1).contiguous()
    return partial(torch.no_grad()(bare_terms), model, x, frames[0], particles)


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
