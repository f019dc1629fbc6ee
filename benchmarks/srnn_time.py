"""Time of a training step of the SRNN: ``python -m benchmarks.srnn_time --threads 1``.

Times, alternately and in one process, one step (forward, the plain bound, backward, gradient
clipping at 100, Adam) of

- plain_srnn: the same products in plain PyTorch (:mod:`benchmarks.plain_srnn`),
- plain_srnn_mlp: with one MLP before the backward LSTM, 18 % fewer multiplications,
- srnn: zpyro's model, with reports of the auxiliary terms,
- srnn_fused: zpyro's model with its loop as torch operations.
"""

from __future__ import annotations

import json
import time

from benchmarks.contenders import make
from benchmarks.measure import common_arguments, median_seconds, start
from benchmarks.sizes import SIZES

CONTENDERS = ("plain_srnn", "plain_srnn_mlp", "srnn", "srnn_fused")


def main() -> None:
    """Print the processor time of a step of each, and its ratio to the first."""
    parser = common_arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=31, help="calls of each contender")
    options = parser.parse_args()
    start(options)
    steps = {name: make(name, SIZES[options.size]) for name in CONTENDERS}
    repeats = {name: int(options.repeats) for name in steps}
    seconds = median_seconds(steps, repeats, clock=time.process_time)
    if options.json:
        print(json.dumps(seconds))
        return
    for name, value in seconds.items():
        print(f"{name:>15} {1e3 * value:8.1f} ms {value / seconds[CONTENDERS[0]]:6.2f}")


if __name__ == "__main__":
    main()
