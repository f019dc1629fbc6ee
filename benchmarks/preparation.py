"""How fast and in how much memory a corpus is prepared: ``python -m benchmarks.preparation``.

Writes simulated audiobooks (noise, 16 kHz wav, chapters of ten minutes) of two sizes to a temporary
folder, prepares each with one worker in a process of its own, then draws shuffled batches from the
larger. Prints hours of sound prepared in a second, the most memory each process held, and what
that makes for 300 hours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.prepared import Store, prepare

RATE, CHAPTER = 16_000, 600
CORPUS_HOURS = 300.0
BATCH_SIZE, BATCHES = 128, 50


def main() -> None:
    """Print one line a step, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hours", type=float, nargs=2, default=(1.0, 6.0), metavar=("A", "B"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        print(json.dumps(_prepare(options.folder, options.out)))
    elif options.out is not None:
        print(json.dumps(_read(options.out)))
    else:
        result = measure(options.hours)
        print(json.dumps(result) if options.json else _lines(result))


def measure(hours: tuple[float, float]) -> dict[str, float]:
    """Everything, for a corpus of each size."""
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for label, size in zip(("small", "large"), hours, strict=True):
            books, out = Path(place, f"books-{label}"), Path(place, f"out-{label}")
            _simulate(books, size)
            found = _in_process("--folder", str(books), "--out", str(out))
            result |= {f"{label}_{key}": value for key, value in found.items()}
            result[f"{label}_hours"] = size
            result[f"{label}_real_time_factor"] = size * 3600 / found["seconds"]
        result |= _in_process("--out", str(out))
    result["corpus_minutes"] = CORPUS_HOURS * 60 / result["large_real_time_factor"]
    return result


def _in_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.preparation", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _simulate(folder: Path, hours: float) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(round(hours * 3600 / CHAPTER)):
        samples = random.integers(-3000, 3000, CHAPTER * RATE, dtype=np.int16)
        soundfile.write(folder / f"{number:04d}.wav", samples, RATE, subtype="PCM_16")


def _prepare(books: Path, out: Path) -> dict[str, float]:
    started = time.perf_counter()
    prepare(Blizzard(), books, out, BlizzardSettings())
    return {"seconds": time.perf_counter() - started, "peak_mib": _peak_mib()}


def _read(out: Path) -> dict[str, float]:
    before = _private_mib()
    train = Store(out).dataset().train
    started = time.perf_counter()
    rows = 0
    for batch, _ in zip(train.batches(BATCH_SIZE, shuffle=True), range(BATCHES), strict=False):
        rows += len(batch)
    return {
        "rows_per_second": rows / (time.perf_counter() - started),
        "reading_mib": _private_mib() - before,
    }


def _private_mib() -> float:
    """Memory of this process alone; pages of mapped files are the system's to take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _lines(result: dict[str, float]) -> str:
    lines = [
        f"{result[f'{label}_hours']:6.1f} h: {result[f'{label}_seconds']:6.1f} s, "
        f"{result[f'{label}_real_time_factor']:6.0f} times real time, "
        f"at most {result[f'{label}_peak_mib']:.0f} MiB"
        for label in ("small", "large")
    ]
    return "\n".join(
        [
            *lines,
            f"shuffled batches of {BATCH_SIZE} rows: {result['rows_per_second']:.0f} rows/s, "
            f"{result['reading_mib']:.0f} MiB more than before",
            f"{CORPUS_HOURS:.0f} h at that rate: {result['corpus_minutes']:.1f} min on one core",
        ]
    )


if __name__ == "__main__":
    main()
