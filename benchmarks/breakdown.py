"""Time of the parts of a training step: ``python -m benchmarks.breakdown --size small``."""

from __future__ import annotations

import json

from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import make
from benchmarks.measure import WARM_UP, common_arguments, start
from benchmarks.sizes import SIZES

STEPS = 5
PARTS = {
    "loop over time, forward": ("LSTMPath", "LayerNormPath"),
    "loop over time, backward": ("LSTMPathBackward", "LayerNormPathBackward"),
    "backward-running LSTM": ("aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"),
    "products for all steps at once": ("aten::mm", "aten::addmm", "aten::bmm"),
    "optimizer": ("aten::_fused_adam_", "aten::_foreach_norm", "aten::_foreach_mul_"),
}
"""Operations of each part; all others belong to :data:`REST`."""
REST = "pointwise work, sums, copies"


def main() -> None:
    """Print shares of the time of a step, or one JSON object per size."""
    parser = common_arguments(__doc__)
    parser.add_argument("--size", action="append", choices=SIZES, help="may be repeated")
    options = parser.parse_args()
    start(options)
    for name in options.size or ["small", "timit"]:
        shares = measure(name)
        if options.json:
            print(json.dumps({"size": name, **shares}), flush=True)
            continue
        print(f"\n{name}")
        for part, share in shares.items():
            print(f"  {part:32s} {share:6.1%}", flush=True)


def measure(name: str) -> dict[str, float]:
    """The share of each part in the total self time of all operations."""
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
