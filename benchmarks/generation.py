"""Speed of generation: ``python -m benchmarks.generation``.

Samples sound from the prior and prints the real-time factor at 16 kHz in frames of 200 samples:
seconds of sound per second of computation, for one voice and for several in parallel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from benchmarks.contenders import zforcing
from benchmarks.measure import common_arguments, start
from benchmarks.sizes import SIZES, Size

SAMPLE_RATE = 16_000


def main() -> None:
    """Print one line per size and number of voices, or JSON objects."""
    parser = common_arguments(__doc__)
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--voices", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=2.0, help="of sound to sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    start(options)
    for name in options.size or ["small", "timit"]:
        for voices in options.voices or [1, 32]:
            result = measure(name, voices, options, SIZES[name])
            print(json.dumps(result) if options.json else _line(result), flush=True)


def measure(
    name: str, voices: int, options: argparse.Namespace, size: Size
) -> dict[str, str | int | float]:
    """Medians over the repeats."""
    frames = int(options.seconds * SAMPLE_RATE / size.frame)
    torch.manual_seed(0)
    model = zforcing(size, torch.empty(0, device=options.device))
    model.generate(frames, num_sequences=voices)
    seconds: list[float] = []
    for _ in range(options.repeats):
        started = time.perf_counter()
        model.generate(frames, num_sequences=voices).cpu()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    sound = frames * size.frame / SAMPLE_RATE
    return {
        "size": name,
        "threads": torch.get_num_threads(),
        "voices": voices,
        "seconds": median,
        "real_time_factor": sound / median,
        "all_voices_real_time_factor": voices * sound / median,
    }


def _line(result: dict[str, str | int | float]) -> str:
    return (
        f"{result['size']:>8}, {result['voices']:3d} voices:"
        f" {result['real_time_factor']:6.1f} times real time each,"
        f" {result['all_voices_real_time_factor']:7.1f} times together"
    )


if __name__ == "__main__":
    main()
