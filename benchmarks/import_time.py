"""Time of ``import zpyro``: ``python -m benchmarks.import_time``.

Each repetition is a new process that imports torch, Pyro and zpyro in this order. The time of zpyro
includes the dependencies that torch and Pyro do not import, such as soundfile and soxr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

PROGRAM = """
import json, time
seconds = {}
before = time.perf_counter()
for name in ("torch", "pyro", "zpyro"):
    if name == "pyro":
        import pyro, pyro.distributions, pyro.infer, pyro.infer.autoguide, pyro.nn, pyro.optim
    else:
        __import__(name)
    now = time.perf_counter()
    seconds[name] = now - before
    before = now
print(json.dumps(seconds))
"""


def measure(repeats: int) -> dict[str, float]:
    """Seconds that torch, pyro and zpyro add, medians over new processes."""
    found: list[dict[str, float]] = []
    # The first process reads the files from the disk and is not counted.
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    return {name: statistics.median(each[name] for each in found[1:]) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds that importing zpyro takes.")
    parser.add_argument("--repeats", type=int, default=5, help="new processes")
    seconds = measure(parser.parse_args().repeats)
    print(f"torch                    {seconds['torch']:6.2f} s")
    print(f"Pyro beyond torch        {seconds['pyro']:6.2f} s")
    print(f"zpyro beyond both        {seconds['zpyro']:6.2f} s")
    print(f"import zpyro, all of it  {sum(seconds.values()):6.2f} s")


if __name__ == "__main__":
    main()
