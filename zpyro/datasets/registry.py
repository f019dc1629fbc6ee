"""The data sets by name: loading and describing them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zpyro.datasets import blizzard, imdb, mnist, music, npz, table, text, timit, vowels, wav
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.midi import TEMPO
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLITS, list_files
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError, pluralize
from zpyro.io.paths import user_path
from zpyro.io.registry import Registry
from zpyro.settings import build, plain

DATASETS: Registry[DatasetEntry] = Registry("data set", group="zpyro.datasets")
"""Data sets by the name that ``--dataset`` takes."""

_ROW = re.compile(r"(#\d+)?(, frames \d+ to \d+)?$")
"""What the names of rows and of excerpts add to the name of their file."""

for _module in (vowels, wav, npz, table, blizzard, imdb, text, timit, mnist, music):
    DATASETS.register(_module.ENTRY.name, _module.ENTRY)


def register(entry: DatasetEntry) -> DatasetEntry:
    """Make a data set available by its name.

    Raises:
        UserError: if the name belongs to another data set.
    """
    return DATASETS.register(entry.name, entry)


def names() -> tuple[str, ...]:
    """The names of all data sets."""
    return tuple(DATASETS)


def entry(name: str) -> DatasetEntry:
    """The data set of that name.

    Raises:
        UserError: naming the nearest one if there is none.
    """
    return DATASETS.find(name)


def load(
    name: str,
    data: str | Path | None = None,
    settings: Any = None,
    *,
    vocabulary: Vocabulary | None = None,
    workers: int = 1,
    **changes: Any,
) -> Dataset:
    """Read a data set.

    The result does not depend on ``workers``. Other processes than the calling one import the
    running script again, so that with more than one the script needs a main guard.

    Args:
        name: one of :func:`names`.
        data: its folder or file, where it needs one.
        settings: an instance of its settings, by default the published or usual ones.
        vocabulary: of text: the words of a trained model, by default those of train.
        workers: processes that read where files are prepared on first use; with 1 no process is
            started.
        **changes: single settings to change, e.g. ``frame_size=100``.

    Raises:
        UserError: if the data set is unknown, a setting is unknown or out of its range, or the
            files cannot be used.

    Example::

        if __name__ == "__main__":
            data = zpyro.datasets.load("blizzard", "/corpora/blizzard", workers=8)
    """
    found = entry(name)
    given = found.settings() if settings is None else settings
    chosen = build(type(given), {**plain(given), **changes}, f"data set {name}")
    return found.load(_folder(found, data), chosen, **_options(found, vocabulary, workers))


def load_all(
    name: str,
    data: str | Path,
    settings: Any,
    normalization: Normalization,
    vocabulary: Vocabulary | None = None,
    *,
    workers: int = 1,
) -> Sequences:
    """Other data of the same kind as one split, normalized and numbered as in training.

    ``workers`` is that of :func:`load`.

    Raises:
        UserError: if the data set has no other data, or its files cannot be used.
    """
    found = entry(name)
    if found.load_all is None:
        raise UserError(f"data set {name} is built in and reads no --data; leave it out")
    return found.load_all(
        _folder(found, data), settings, normalization, **_options(found, vocabulary, workers)
    )


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """What to show of a data set, as (property, value) rows."""
    first = dataset.train
    rows = [
        ("data set", dataset.name),
        ("likelihood", dataset.likelihood),
        ("frame size" if first.data_type != "tokens" else "vocabulary", str(dataset.frame_size)),
    ]
    if first.sample_rate is not None:
        rows.append(("sample rate", f"{first.sample_rate} Hz"))
    if first.normalization != Normalization():
        scale = first.normalization
        shown = "each dimension by its own mean and standard deviation"
        if isinstance(scale.mean, float | int):
            centered = f"(raw {'-' if scale.mean >= 0 else '+'} {abs(scale.mean):.6g})"
            shown = f"{centered} / {scale.scale:.6g}"
        rows.append(("normalization", f"{shown}, from train"))
    start = "the first recorded frame, not scored"
    if first.start is None:
        start = "a start token" if first.data_type == "tokens" else "zeros"
    if first.image_shape is not None:
        rows.append(("image", "{} x {} pixels, row after row".format(*first.image_shape)))
    if first.steps_per_quarter is not None:
        frames = pluralize(first.steps_per_quarter, "frame")
        shown = f"{frames} in a quarter note (data.grid), {TEMPO} quarter notes a minute"
        rows.append(("tempo of samples", shown))
    rows.append(("start frame", start))
    for name in SPLITS:
        rows.append((name, _describe_split(dataset.split(name))))
    known = DATASETS.get(dataset.name)
    if known is None or known.needs_data:
        rows += [(f"{name} files", _files(dataset.split(name))) for name in SPLITS]
    return rows + [("note", note) for note in dataset.notes]


def _files(split: Sequences) -> str:
    """What the sequences are cut from; those of one array have numbers for names."""
    names = dict.fromkeys(_ROW.sub("", name) for name in split.names)
    return "rows of one array" if all(name.isdecimal() for name in names) else list_files(names)


def _describe_split(split: Sequences) -> str:
    lengths = sorted(split.lengths.tolist())
    what = "token" if split.data_type == "tokens" else "frame"
    spread = f"{lengths[0]} to {pluralize(lengths[-1], what)}, median {lengths[len(lengths) // 2]}"
    more = "" if split.seconds is None else f", {_duration(split.seconds)}"
    if split.steps_per_quarter is not None:
        notes = sum(int(roll.sum()) for roll in split.values) / split.num_frames
        more = f", {notes:.2f} notes a frame"
    sequences = pluralize(len(split), "sequence")
    return f"{sequences}, {pluralize(split.num_frames, what)}{more} ({spread})"


def _duration(seconds: float) -> str:
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def _options(found: DatasetEntry, vocabulary: Vocabulary | None, workers: int) -> dict[str, Any]:
    """The arguments that only some data sets take."""
    words = {"vocabulary": vocabulary} if found.has_words and vocabulary is not None else {}
    return {**words, "workers": workers} if found.has_workers else words


def _folder(found: DatasetEntry, data: str | Path | None) -> Path | None:
    if data is None and found.missing is not None:
        raise UserError(f"data set {found.name}: {found.missing}")
    if data is not None and found.missing is None:
        raise UserError(f"data set {found.name} is built in and reads no --data; leave it out")
    return None if data is None else user_path(data)
