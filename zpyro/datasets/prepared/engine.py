"""All shards of a corpus: several at once, resumed where they stopped, the index last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zpyro.datasets.formats.folders import first_of
from zpyro.datasets.prepared import shards
from zpyro.datasets.prepared.corpus import Corpus, FileSpan, Indices, Layout, SourceFile, Split
from zpyro.datasets.prepared.numbers import Numbers
from zpyro.datasets.prepared.shards import Task
from zpyro.datasets.prepared.store import FORMAT, INDEX, SPLITS, VERSION, Store, is_prepared
from zpyro.errors import UserError, pluralize
from zpyro.io import files
from zpyro.io.cache import ADVICE, cache_folder, is_cached
from zpyro.io.locking import locked

JOURNAL = "journal"
ROWS_AT_ONCE = 4096


class Progress(Protocol):
    """Told how far a preparation is."""

    def __call__(self, done: int, total: int) -> None:
        """So many files are read."""
        ...


class BadFiles(UserError):
    """Some files cannot be used.

    Attributes:
        problems: (key, what is wrong) of each.
    """

    def __init__(self, source: Path, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        first = first_of([UserError(problem) for _, problem in problems])
        super().__init__(
            f"{first}; or leave out what cannot be used in {source}:"
            " zpyro data prepare ... --skip-bad"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self), self.problems)


def prepare(
    corpus: Corpus,
    source: Path,
    out: Path,
    settings: Any,
    *,
    workers: int = 1,
    skip_bad: bool = False,
    join: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
    wait: bool = False,
) -> Store:
    """Read a corpus in its original files and write it as a prepared data set.

    The result depends on the files and the settings alone, not on the number of workers, the
    executor or interruptions. Memory does not grow with the corpus: each worker holds one file.

    Args:
        corpus: how to read it.
        source: the folder of original files.
        out: the folder to write, new or left by an interrupted preparation.
        settings: of the data set.
        workers: processes that read; 1 is the calling process.
        skip_bad: leave out files that cannot be used; they are listed in the index.
        join: put together what :func:`prepare_part` made in ``out``, without reading any file.
        executor: reads the files instead of the workers, for example on other machines, which must
            see ``source`` and ``out`` under the same names; it is shut down after an error.
        progress: receives progress.
        wait: return what ``out`` holds if it is prepared already, and wait where another process
            prepares into it.

    Raises:
        BadFiles: if files cannot be used and are not to be left out; what was read well is kept
            for the next try.
        UserError: if the layout is not the corpus's, the folder cannot be written, another process
            prepares into it, a worker process ends too early, or a part to join is missing or of
            other files or settings.
    """
    if executor is not None:
        # Its tasks may run in another working directory.
        source, out = source.absolute(), out.absolute()
    if wait and is_prepared(out):
        return Store(out)
    items, tasks = _begin(corpus, source, out, settings, wait)
    with locked(out / JOURNAL, work="preparation", wait=wait, shown=out):
        # Another process may have finished since the last look.
        finished = is_prepared(out)
        if not finished:
            with _mapping(min(workers, len(tasks)), executor) as mapped:
                records = _joined(tasks) if join else _write_all(tasks, mapped, progress)
                problems = _problems(source, records, skip_bad)
                if not any(record["items"] for record in records):
                    raise UserError(
                        f"{source}: none of its {pluralize(len(items), 'file')} can be used"
                    )
                index = _finish(corpus, settings, tasks, records, out, mapped)
            index["notes"] = [*index["notes"], *corpus.file_notes(source, settings)]
            index["skipped"] = [{"key": key, "problem": problem} for key, problem in problems]
            _remove_leftovers(out, len(tasks))
            files.replace_file(out / INDEX, json.dumps(index, indent=1))
    # Whoever waited for the lock may remove it too.
    shutil.rmtree(out / JOURNAL, ignore_errors=True)
    if finished:
        _check_out(out, prepared_is_fine=wait)
    return Store(out)


def prepare_part(
    corpus: Corpus,
    source: Path,
    out: Path,
    settings: Any,
    number: int,
    parts: int,
    *,
    workers: int = 1,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> int:
    """Read one of several parts of a corpus, which may run at the same time on many machines.

    :func:`prepare` with ``join=True`` makes the data set when all are done. Arguments as there, all
    parts with the same ones; ``out`` must be a folder that all machines see.

    Args:
        number: of the part, from 1.
        parts: how many there are.

    Returns:
        How many shards the part has.

    Raises:
        BadFiles, UserError: as :func:`prepare`.
    """
    tasks = _begin(corpus, source, out, settings)[1][number - 1 :: parts]
    with _mapping(min(workers, len(tasks))) as mapped:
        _problems(source, _write_all(tasks, mapped, progress), skip_bad)
    return len(tasks)


def _begin(
    corpus: Corpus, source: Path, out: Path, settings: Any, prepared_is_fine: bool = False
) -> tuple[list[SourceFile], list[Task]]:
    """All files and shards, and the folder for them."""
    _check_out(out, prepared_is_fine)
    items = corpus.items(source, settings)
    tasks = _tasks(corpus, settings, items, out)
    with files.translate_os_errors(out):
        (out / JOURNAL).mkdir(parents=True, exist_ok=True)
    return items, tasks


def _joined(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The records of all shards, each made of the files and settings of now."""
    found = [(task, shards.read_record(task)) for task in tasks]
    missing = [task.data.name for task, record in found if record is None]
    if missing:
        raise UserError(
            f"{tasks[0].data.parent}: {len(missing)} of {len(tasks)} shards are missing, "
            f"{missing[0]} first; run zpyro data prepare --part for every part, then --join"
        )
    records = [record for _, record in found if record is not None]
    for task, record in zip(tasks, records, strict=True):
        if record["fingerprint"] != task.fingerprint():
            raise UserError(
                f"{task.data}: was made of other files or with other settings; run the parts "
                "again with these, then --join"
            )
    return records


def _problems(
    source: Path, records: Sequence[dict[str, Any]], skip_bad: bool
) -> list[tuple[str, str]]:
    """What could not be used, if that may be left out."""
    problems = [(key, text) for record in records for key, text in record["problems"]]
    if problems and not skip_bad:
        raise BadFiles(source, problems)
    return problems


def prepared_folder(corpus: Corpus, source: Path, settings: Any) -> Path:
    """Where a corpus is prepared on first use: in the cache, by its files and settings."""
    items = corpus.items(source, settings)
    task = Task(corpus, settings, tuple(items), Path(), Path())
    # The index keeps the notes too, so that other notes need another folder.
    known = [str(source.resolve()), task.fingerprint(), *corpus.file_notes(source, settings)]
    digest = hashlib.sha256(os.fsencode(" ".join(known)))
    return cache_folder() / "prepared" / f"{corpus.name}-{digest.hexdigest()[:16]}"


def _check_out(out: Path, prepared_is_fine: bool = False) -> None:
    advice = f"remove it, or {ADVICE}" if is_cached(out) else "choose another --out"
    # Looked for first: the index is there before the journal goes.
    has_journal = (out / JOURNAL).is_dir()
    if is_prepared(out):
        if not prepared_is_fine:
            raise UserError(f"{out}: holds a prepared data set already; {advice}")
    elif out.is_dir() and any(out.iterdir()) and not has_journal:
        raise UserError(f"{out}: is not empty; {advice}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is not a directory; {advice}")


def _tasks(corpus: Corpus, settings: Any, items: Sequence[SourceFile], out: Path) -> list[Task]:
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise UserError(f"{item.path}: {item.key} is there twice; remove one")
        seen.add(item.key)
    return [
        Task(
            corpus,
            settings,
            group,
            out / f"shard-{number:05d}.bin",
            out / JOURNAL / f"shard-{number:05d}.json",
        )
        for number, group in enumerate(shards.group(items))
    ]


@contextmanager
def _mapping(workers: int, executor: Executor | None = None) -> Generator[Any, None, None]:
    """A map over the tasks of an executor, or else over processes; results in order.

    One worker is this process.
    """
    if executor is None and workers <= 1:
        yield map
        return
    # Spawned, not forked: a fork would copy threads' locks in whatever state they are.
    context = multiprocessing.get_context("spawn")
    # An executor that was given stays open, except after an error.
    own = (
        nullcontext(executor)
        if executor
        else ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    )
    with own as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise UserError(
                "workers: a process that reads files ended too early, for lack of memory or because"
                ' the script has no line if __name__ == "__main__": before the call; add the line,'
                " or use 1 worker"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this worker with the process that started it, also if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_all(
    tasks: Sequence[Task], mapped: Any, progress: Progress | None
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    done, total = 0, sum(len(task.items) for task in tasks)
    for task, record in zip(tasks, mapped(shards.write, tasks), strict=True):
        records.append(record)
        done += len(task.items)
        if progress is not None:
            progress(done, total)
    return records


def _finish(
    corpus: Corpus,
    settings: Any,
    tasks: Sequence[Task],
    records: Sequence[dict[str, Any]],
    out: Path,
    mapped: Any,
) -> dict[str, Any]:
    """Arrange the splits and write their tables; gives the index."""
    spans: list[FileSpan] = []
    start = 0
    counts: list[int] = []
    for record in records:
        found = shards.file_spans(record, start)
        spans += found
        counts.append(sum(item.count for item in found))
        start += counts[-1]
    splits, layout = corpus.make_splits(spans, [record["facts"] for record in records], settings)
    sums = [record["sha256"] for record in records]
    for number, (task, record) in enumerate(zip(tasks, records, strict=True)):
        final = corpus.translate(record["facts"], layout)
        if final is not None:
            sums[number] = _translate(task, final)
    names = [(task.data.name, count) for task, count in zip(tasks, counts, strict=True)]
    mean, scale = 0.0, 1.0
    if layout.normalized:
        numbers = Numbers(out, names, corpus.dtype)
        mean, scale = _normalization(numbers, splits["train"].rows, layout, mapped)
    described = dataclasses.asdict(layout)
    # The key in index.json since format 1.
    described["kind"] = described.pop("data_type")
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": corpus.name,
        "settings": _plain(settings),
        "dtype": corpus.dtype,
        **described,
        "normalization": [mean, scale],
        "shards": [
            {"file": name, "count": count, "sha256": digest}
            for (name, count), digest in zip(names, sums, strict=True)
        ],
        "splits": {name: _write_split(out, name, splits[name]) for name in SPLITS},
        "sources": [
            {"key": entry["key"], "sha256": entry["sha256"], "count": sum(entry["lengths"])}
            for record in records
            for entry in record["items"]
        ],
    }


def _write_split(out: Path, name: str, split: Split) -> dict[str, Any]:
    path = out / f"{name}.npy"

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.save(file, split.rows, allow_pickle=False)

    files.replace_file(path, write)
    digest = files.checksum(path)
    return {"sequences": len(split.rows), "labels": list(split.labels), "sha256": digest}


def _translate(task: Task, final: Any) -> str:
    """Replace a shard's provisional numbers by the final ones; gives its new checksum."""
    dtype = np.dtype(task.corpus.dtype)
    # The record goes first: until the index is there, a shard without one is made again.
    task.record.unlink(missing_ok=True)
    numbers = np.fromfile(task.data, dtype)
    files.replace_file(task.data, lambda place: final[numbers].astype(dtype).tofile(place))
    return files.checksum(task.data)


def _normalization(
    numbers: Numbers, rows: Indices, layout: Layout, mapped: Any
) -> tuple[float, float]:
    """Mean and standard deviation of the raw scored samples; sums of whole numbers are exact.

    The deviation of silence, or of nothing, is 0.
    """
    if not len(rows):
        return 0.0, 0.0
    skipped = layout.frame_size if layout.start else 0
    blocks = [rows[i : i + ROWS_AT_ONCE] for i in range(0, len(rows), ROWS_AT_ONCE)]
    parts = list(mapped(_Moments(numbers, skipped), blocks))
    count, total, squares = (sum(part[i] for part in parts) for i in range(3))
    mean = total / count
    variance = (squares * count - total * total) / (count * count) * layout.gain**2
    return mean * layout.gain, math.sqrt(variance)


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Count, sum and sum of squares of the numbers in some rows."""

    numbers: Numbers
    skipped: int

    def __call__(self, rows: Indices) -> tuple[int, int, int]:
        count = total = squares = 0
        for start, length in rows[:, :2].tolist():
            part = self.numbers.read(start + self.skipped, length - self.skipped).astype(np.int64)
            count += len(part)
            total += int(part.sum())
            squares += int(np.dot(part, part))
        self.numbers.forget()
        return count, total, squares


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _remove_leftovers(out: Path, shards_used: int) -> None:
    """Shards of an earlier try with more files."""
    known = {f"shard-{number:05d}.bin" for number in range(shards_used)}
    for path in out.glob("shard-*.bin*"):
        if path.name not in known:
            os.unlink(path)


def _again(text: str, problems: tuple[tuple[str, str], ...]) -> BadFiles:
    error = BadFiles.__new__(BadFiles)
    ValueError.__init__(error, text)
    error.problems = problems
    return error
