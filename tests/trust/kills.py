"""SIGKILL at random moments of a training: ``python -m tests.trust.kills --kills 50 --writes 20``.

Two kinds. One kills the command line's process at a moment drawn at random and resumes it: what it
ends with must equal, bit for bit, what an uninterrupted training ends with. The other lets the
process kill itself at a chosen file operation within the writing of a checkpoint: the checkpoint
before it, or the new one if it was complete, must load every time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Print the figures; the exit status is 1 where anything was lost."""
    from tests.trust.killing import kill_and_resume
    from tests.trust.writes import kill_within_writes

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = kill_and_resume(
            place,
            options.kills,
            steps=options.steps,
            seed=options.seed,
            workers=options.workers,
        )
        for bad in sorted(set(found) - {"equal"}):
            print(f"{found.count(bad)} x {bad}")
        print(f"{found.count('equal')} of {len(found)} killed trainings end bit-equal")
        (place / "writes").mkdir()
        loads = kill_within_writes(place / "writes", options.writes, seed=options.seed)
        for bad in sorted(set(loads) - {"loads"}):
            print(f"{loads.count(bad)} x {bad}")
        print(f"{loads.count('loads')} of {len(loads)} killed writes leave a checkpoint that loads")
    whole = found.count("equal") == len(found) and loads.count("loads") == len(loads)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
