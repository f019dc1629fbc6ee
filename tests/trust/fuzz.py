"""Fuzz the readers of files: ``python -m tests.trust.fuzz TARGET --minutes 10``.

Hypothesis damages valid files and generates headers. A process whose address space may grow by
1 GiB reads them. Each input must be read, or refused with the library's one-line error that names
the file. A finding is any other exception, a warning of a failed allocation, a crash, or no answer
within the limit of time per input. Each finding is printed with its traceback, and ``--keep``
writes its input to a folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.trust import fuzz_audio, fuzz_files
from tests.trust.fuzz_inputs import Target

TARGETS: dict[str, Target] = {**fuzz_audio.TARGETS, **fuzz_files.TARGETS}
"""Readers by the name that the command takes."""

ALLOWANCE = 1 << 30
"""Bytes by which the address space of the reading process may grow."""

LIMIT = 60.0
"""Seconds without an answer that count as a hang."""

BATCH = 500
"""Inputs between two looks at the clock."""


@dataclass
class Report:
    """What became of the inputs of a target.

    Attributes:
        counts: of "accepted", "refused", "exception", "crash" and "hang".
        findings: a description and the input of each finding.
        peak: bytes by which the resident memory grew at its highest.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    findings: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    peak: int = 0

    def __str__(self) -> str:
        parts = [f"{sum(self.counts.values())} runs"]
        parts += [f"{self.counts[name]} {name}" for name in ("accepted", "refused")]
        parts += [f"{self.counts[name]} {name}s" for name in ("exception", "hang")]
        parts += [f"{self.counts['crash']} crashes", f"peak {self.peak / 2**20:.0f} MiB"]
        return ", ".join(parts)


class Reader:
    """A process that reads inputs under a limit of memory; started again after a hang or a crash.

    Args:
        folder: where it writes its inputs.
        targets: what it can read; pickled.
        limit: seconds without an answer that count as a hang.
    """

    def __init__(
        self, folder: Path, targets: Mapping[str, Target] = TARGETS, limit: float = LIMIT
    ) -> None:
        self._folder = folder
        self._targets = targets
        self._limit = limit
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def run(self, name: str, number: int, examples: int, report: Report) -> None:
        """Read so many inputs of a target, fixed by the number, and add to the report."""
        if self._process is None:
            self._start()
        self._pipe.send((name, number, examples))
        while True:
            try:
                answer = (
                    self._pipe.recv() if self._pipe.poll(self._limit) else ("hang", "no answer", 0)
                )
            except EOFError:
                answer = ("crash", f"the process ended ({self._ended()})", 0)
            what, text, grown = answer
            if what == "done":
                return
            report.counts[what] += 1
            report.peak = max(report.peak, grown)
            if what not in ("accepted", "refused"):
                path = self._folder / self._targets[name].file_name
                # A process may hang or crash before it has written an input.
                content = path.read_bytes() if path.exists() else b""
                report.findings.append((f"{what}: {text}", content))
            if what in ("hang", "crash"):
                self.close()
                return

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(other, self._folder, self._targets), daemon=True
        )
        self._process.start()
        other.close()
        # Importing and making seeds may take longer than an input may.
        self._pipe.recv()  # raises EOFError where a seed cannot be made

    def _ended(self) -> int | None:
        self._process.join(LIMIT)
        return self._process.exitcode


def _serve(pipe: Connection, folder: Path, targets: Mapping[str, Target]) -> None:
    # What readers import counts as there before the first input.
    import zpyro.datasets  # noqa: F401

    inputs = {name: target.inputs() for name, target in targets.items()}
    limit = _memory("VmSize") + ALLOWANCE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resident = _memory("VmRSS")
    pipe.send(None)
    while True:
        name, number, examples = pipe.recv()
        target, path = targets[name], folder / targets[name].file_name

        def one(content: bytes, target: Target, path: Path) -> None:
            path.write_bytes(content)
            what, text = outcome(target, path)
            pipe.send((what, text, max(0, _memory("VmHWM") - resident)))

        chosen = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(chosen(given(inputs[name], st.just(target), st.just(path))(one)))()
        pipe.send(("done", "", 0))


def outcome(target: Target, path: Path) -> tuple[str, str]:
    """What reading a file gives: "accepted", "refused" or "exception", and the error."""
    # Imported in the process that reads, so that the other one starts at once.
    from zpyro.errors import UserError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except UserError as error:
        message = str(error)
        named = any(name in message for name in (path.name, *target.others))
        if "\n" in message or not named or "alloc" in message.lower():
            return "exception", f"not one line that names the file: {message!r}"
        return "refused", message
    except Exception:
        return "exception", traceback.format_exc()
    return "accepted", ""


def fuzz(name: str, *, minutes: float, number: int, keep: Path | None) -> Report:
    """Fuzz a target for a time; gives its report."""
    report, end = Report(), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        while time.monotonic() < end:
            reader.run(name, number, BATCH, report)
            number += 1
        reader.close()
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for index, (_, content) in enumerate(report.findings):
            (keep / f"{index}-{TARGETS[name].file_name}").write_bytes(content)
    return report


def _memory(entry: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{entry} is not in /proc/self/status")


def main() -> int:
    """Print the figures; the exit status is 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Folder for the inputs of findings.")
    options = parser.parse_args()
    report = fuzz(options.target, minutes=options.minutes, number=options.seed, keep=options.keep)
    last_lines = Counter(text.strip().splitlines()[-1] for text, _ in report.findings)
    shown: set[str] = set()
    for text, _ in report.findings:
        line = text.strip().splitlines()[-1]
        if line not in shown:
            shown.add(line)
            print(f"{last_lines[line]} x {text}\n")
    print(f"{options.target}: {report}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
