"""One shard: the numbers of some files one after another, and a record of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets.prepared.corpus import Corpus, FileSpan, SourceFile
from zpyro.errors import UserError
from zpyro.io import files

SHARD_BYTES = 32 << 20
"""Source files are grouped into shards of at least so many bytes."""


@dataclass(frozen=True)
class Task:
    """One shard to make.

    Attributes:
        corpus: reads the files.
        settings: of the data set.
        items: the files.
        data: where the numbers go.
        record: where the record goes, last of all.
    """

    corpus: Corpus
    settings: Any
    items: tuple[SourceFile, ...]
    data: Path
    record: Path

    def fingerprint(self) -> str:
        """Changes when a file, the order of files or a setting does."""
        metadata = [[item.key, item.group, *_stamp(item.path)] for item in self.items]
        text = json.dumps([self.corpus.name, self.corpus.revision, repr(self.settings), metadata])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def group(items: Sequence[SourceFile]) -> list[tuple[SourceFile, ...]]:
    """Files in order, in groups that depend on their sizes alone."""
    groups: list[tuple[SourceFile, ...]] = []
    current: list[SourceFile] = []
    size = 0
    for item in items:
        current.append(item)
        size += max(0, _stamp(item.path)[0])
        if size >= SHARD_BYTES:
            groups.append(tuple(current))
            current, size = [], 0
    return [*groups, tuple(current)] if current else groups


def write(task: Task) -> dict[str, Any]:
    """Make a shard; gives its record. Of one that is there already, only the record is read."""
    fingerprint = task.fingerprint()
    known = read_record(task)
    if known is not None and known["fingerprint"] == fingerprint and not known["problems"]:
        return known
    reader = task.corpus.reader(task.settings)
    digest = hashlib.sha256()
    entries: list[dict[str, Any]] = []
    problems: list[tuple[str, str]] = []
    # Another process may write the same shard: a worker of a preparation that was killed, or the
    # same part on another machine.
    with (
        files.translate_os_errors(task.data),
        files.replacing(task.data, several_writers=True) as writing,
        writing.open("wb") as out,
    ):
        for item in task.items:
            try:
                piece = reader.read(item)
                source = _checksum(item.path)
            except UserError as problem:
                problems.append((item.key, str(problem)))
                continue
            data = np.ascontiguousarray(piece.values, dtype=task.corpus.dtype).tobytes()
            digest.update(data)
            out.write(data)
            entry = {"key": item.key, "group": item.group, "sha256": source}
            entry |= {"lengths": list(piece.lengths), "names": list(piece.names)}
            entries.append({**entry, "facts": dict(piece.metadata)})
    record = {
        "fingerprint": fingerprint,
        "sha256": digest.hexdigest(),
        "items": entries,
        "problems": problems,
        "facts": reader.metadata(),
    }
    files.replace_file(task.record, json.dumps(record), several_writers=True)
    return record


def read_record(task: Task) -> dict[str, Any] | None:
    """The record of a shard that is complete, else None."""
    try:
        record = json.loads(task.record.read_text(encoding="utf-8", errors="surrogateescape"))
        count = sum(sum(entry["lengths"]) for entry in record["items"])
        whole = task.data.stat().st_size == count * np.dtype(task.corpus.dtype).itemsize
    except (OSError, ValueError):
        return None
    return record if whole else None


def file_spans(record: dict[str, Any], start: int) -> list[FileSpan]:
    """The files of a shard whose first number has that position."""
    found: list[FileSpan] = []
    for entry in record["items"]:
        lengths = tuple(entry["lengths"])
        names = tuple(entry["names"])
        found.append(FileSpan(entry["key"], entry["group"], start, lengths, names, entry["facts"]))
        start += sum(lengths)
    return found


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; of what cannot be looked at, none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _checksum(path: Path) -> str:
    try:
        return files.checksum(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); change its permissions"
        ) from error
