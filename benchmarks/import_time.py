"""How long ``import zpyro`` takes: ``python -m benchmarks.import_time``.

Each repetition is a fresh process. What torch and Pyro take is measured in the same process before
zpyro is imported, so that the last row is zpyro's own: its modules, and what they need beyond the
two (numpy is torch's; soundfile, soxr and the standard library are not).
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
    """Seconds that each of torch, pyro and zpyro adds, the medians over fresh processes."""
    found: list[dict[str, float]] = []
    # The first one reads the files from the disk and is not counted.
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    return {name: statistics.median(each[name] for each in found[1:]) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds that importing zpyro takes.")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes")
    seconds = measure(parser.parse_args().repeats)
    print(f"torch                    {seconds['torch']:6.2f} s")
    print(f"Pyro beyond torch        {seconds['pyro']:6.2f} s")
    print(f"zpyro beyond both        {seconds['zpyro']:6.2f} s")
    print(f"import zpyro, all of it  {sum(seconds.values()):6.2f} s")


if __name__ == "__main__":
    main()
