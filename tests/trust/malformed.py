"""Malformed files: ``python -m tests.trust.malformed --inputs 200 --seed 0 --processes 20``.

Valid files of every kind are damaged by seed and given to the command that reads them. It must end
with exit code 2 and one line ``error: ...`` that names the file or its folder: no traceback, no
more than 10 s, no more than 2 GiB, nothing written outside of --out (and the cache of prepared
data), nothing unpickled. Damage that leaves a file valid (a flipped bit in a sample) is counted
apart and made up for by another one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import CliRunner

from tests.processes import LIMIT
from tests.trust.mutations import mutate
from tests.trust.valid_files import KINDS, Kind, copy_for, write_all
from zpyro.datasets.npz import load as _  # noqa: F401  (torch and pyro, before memory is measured)
from zpyro_cli.main import main as zpyro

LONGEST = 10.0
LARGEST = 2 << 30


@dataclass
class Outcome:
    """What a command did with one damaged file.

    Attributes:
        what: kind, seed and mutation.
        code: exit code.
        stderr: everything it printed there, by whatever library.
        seconds: it took.
        grown: bytes that the process grew by at its highest.
        written: paths outside of --out that were opened to be written.
        trace: of an exception that was no user's mistake.
        names: what the error may name.
    """

    what: str
    code: int
    stderr: str
    seconds: float = 0.0
    grown: int = 0
    written: list[str] = field(default_factory=list)
    trace: str = ""
    names: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the file was still a valid one."""
        return self.code == 0 and not self._defects()

    @property
    def defects(self) -> list[str]:
        """What is not as promised."""
        found = self._defects()
        if self.code != 0:
            lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
            if self.code != 2:
                found.append(f"exit code {self.code}")
            if len(lines) != 1 or lines != self.stderr.splitlines()[-1:]:
                found.append("not one line of error at the end")
            elif not any(name in lines[0] for name in self.names):
                found.append("the error names no file")
        return found

    def _defects(self) -> list[str]:
        checks = {
            "traceback": "Traceback" in self.stderr or bool(self.trace),
            # Not "Warning: Xing ...", which mpg123 prints of a damaged mp3 whatever one does.
            "a warning": "Warning:"
            in self.stderr.replace("\nWarning: ", "\n").removeprefix("Warning: "),
            "something unpickled": "unpickled" in self.stderr.splitlines(),
            f"{self.seconds:.0f} s": self.seconds > LONGEST,
            f"{self.grown >> 20} MiB": self.grown > LARGEST,
            f"written outside: {self.written[:2]}": bool(self.written),
        }
        return [name for name, wrong in checks.items() if wrong]


class Harness:
    """Damages files and runs the commands within this process.

    Args:
        folder: where to work; empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valid = folder / "valid"
        # A folder of its own, so that preparations do not meet those of other runs.
        os.environ["ZPYRO_CACHE"] = str(folder / "cache")
        # matplotlib makes a folder for its fonts.
        os.environ["MPLCONFIGDIR"] = str(folder / "cache" / "matplotlib")
        write_all(self.valid)
        self._written: list[str] | None = None
        self._allowed: tuple[str, ...] = ()
        sys.addaudithook(self._audit)

    def prepared(self, kind: Kind, seed: int) -> tuple[Path, Path, str, tuple[str, ...]]:
        """A copy of the kind's files, one of them damaged: (folder, out, what, names)."""
        chance = random.Random(f"{kind.name} {seed}")
        place = self.folder / f"{KINDS.index(kind)}-{seed}"
        shutil.rmtree(place, ignore_errors=True)
        copy_for(kind, self.valid, place)
        found = sorted(path for pattern in kind.files for path in place.glob(pattern))
        path = chance.choice(found)
        mutation = mutate(path, chance)
        out = place / "out"
        out.mkdir()
        names = (str(path), str(path.parent), path.name)
        return place, out, f"{kind.name}, seed {seed}: {mutation}", names

    def run(self, kind: Kind, seed: int) -> Outcome:
        """One damaged file and what became of it."""
        place, out, what, names = self.prepared(kind, seed)
        arguments = [str(each) for each in kind.arguments(place, out)]
        own = (str(place / "run"),) if arguments[1] == "--resume" else ()
        self._allowed = (str(out), str(self.folder / "cache"), *own)
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        with _stderr(place / "stderr") as stderr, _limited(LIMIT):
            self._written = written = []
            # Of the processor: how long it waits for it depends on what else the machine does.
            started = time.process_time()
            result = CliRunner().invoke(zpyro, arguments)
            seconds = time.process_time() - started
            self._written = None
            stderr.append(result.stderr)
        unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
        trace = "".join(traceback.format_exception(*result.exc_info)) if unexpected else ""
        grown = _memory("VmHWM") - before
        text = "".join(reversed(stderr))
        return Outcome(what, result.exit_code, text, seconds, grown, written, trace, names)

    def process(self, kind: Kind, seed: int) -> Outcome:
        """The same as a process of its own."""
        place, out, what, names = self.prepared(kind, seed)
        arguments = [str(each) for each in kind.arguments(place, out)]
        before = _children_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "zpyro_cli", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        # Of the processor: the start of torch on a busy machine tells of the others there.
        seconds = _children_seconds() - before
        return Outcome(f"{what} (process)", done.returncode, done.stderr, seconds, names=names)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._written is None or event not in ("open", "os.mkdir", "os.rename", "os.remove"):
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if event == "open" and not _writes(arguments[1], arguments[2]):
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        # shutil.rmtree removes names in an open folder.
        parent = arguments[-1] if event in ("os.remove", "os.mkdir") else -1
        if isinstance(path, str):
            folder = os.readlink(f"/proc/self/fd/{parent}") if parent >= 0 else os.getcwd()
            whole = os.path.abspath(os.path.join(folder, path))
            if not whole.startswith((*self._allowed, "/dev/null", "/proc")):
                self._written.append(f"{event} {whole}")


def _writes(mode: str | None, flags: int) -> bool:
    if mode is not None:
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextlib.contextmanager
def _stderr(path: Path) -> Iterator[list[str]]:
    """What C libraries print on the descriptor itself; appended last."""
    found: list[str] = []
    kept = os.dup(2)
    with path.open("w+") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            found.append(file.read())


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """A hang becomes an exception."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _children_seconds() -> float:
    """Processor time of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(entry: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{entry} is not in /proc/self/status")


def refusals(harness: Harness, inputs: int, seed: int) -> tuple[list[Outcome], Counter[str]]:
    """So many damaged files that are no longer valid, kinds in turn; and those that still were."""
    found: list[Outcome] = []
    still_valid: Counter[str] = Counter()
    number = seed
    while len(found) < inputs:
        kind = KINDS[len(found) % len(KINDS)]
        number += 1
        outcome = harness.run(kind, number)
        if outcome.valid:
            still_valid[kind.name] += 1
        else:
            found.append(outcome)
    return found, still_valid


def main() -> int:
    """Print the figures; the exit status is 1 where anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=20, help="Besides, as real processes.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder))
        found, still_valid = refusals(harness, options.inputs, 10_000 * options.seed)
        chance = random.Random(options.seed)
        for outcome in found:
            _show(outcome)
        good = sum(not outcome.defects for outcome in found)
        print(f"{good} of {len(found)} malformed inputs: one line of error, exit code 2")
        print(f"longest {max((each.seconds for each in found), default=0.0):.1f} s")
        print(f"most memory {max((each.grown for each in found), default=0) >> 20} MiB")
        print(f"{still_valid.total()} more were still valid files: {dict(still_valid)}")
        processes: list[Outcome] = []
        while len(processes) < options.processes:
            kind = KINDS[len(processes) % len(KINDS)]
            outcome = harness.process(kind, chance.randrange(10**6, 10**9))
            if not outcome.valid:
                processes.append(outcome)
                _show(outcome)
        right = sum(not outcome.defects for outcome in processes)
        print(f"{right} of {len(processes)} as processes of their own")
    return 0 if good == len(found) and right == len(processes) else 1


def _show(outcome: Outcome) -> None:
    if outcome.defects:
        print(f"-- {outcome.what}: {', '.join(outcome.defects)}")
        print(outcome.trace or outcome.stderr)


if __name__ == "__main__":
    sys.exit(main())
