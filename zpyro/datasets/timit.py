"""``timit``: the TIMIT corpus of read sentences (licensed), and NLTK's sample of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets import corpora
from zpyro.datasets.corpora import loaders
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.audio import FULL_SCALE
from zpyro.datasets.prepared.corpus import (
    Corpus,
    FileSpan,
    Indices,
    Layout,
    SourceFile,
    Split,
    cut_rows,
)
from zpyro.datasets.recordings import RecordingReader, notes
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.datasets.splitting import SPLITS, list_files
from zpyro.datasets.timit_files import MISSING, RATE, Utterance, find, other_recordings
from zpyro.settings import setting

__all__ = ["MISSING", "Timit", "TimitSettings", "load_all", "split"]

TRAIN_UTTERANCES, TEST_UTTERANCES = 4620, 1680
"""Of the whole corpus."""


@dataclass(frozen=True)
class TimitSettings:
    """How utterances become sequences; as published (arXiv:1711.05411, section 5)."""

    frame_size: int = setting(200, "samples in a frame", at_least=1)
    segment_length: int = setting(40, "scored frames in a row of train and validation", at_least=1)
    concatenate: bool = setting(
        True, "join utterances before rows are cut; else rows end with their utterance"
    )
    valid_fraction: float = setting(
        0.05, "share of the training utterances that validates", above=0, below=1
    )
    test_fraction: float = setting(
        0.1, "share of the speakers tested where there is no TEST half", above=0, below=1
    )


class Timit(Corpus):
    """A copy of TIMIT's disc, or NLTK's sample, at 16 kHz.

    Train and validation utterances, in the order of their names, are joined and cut into whole rows
    of 40 scored frames as published; so a frame at the end of an utterance is followed by the
    beginning of the next one (``data.concatenate=false`` keeps rows within utterances, the last of
    each shorter). Each test utterance is one sequence, whole but for a last frame that is not full.
    The first frame of each sequence is its start frame: conditioned on, not scored.
    """

    name = "timit"
    dtype = "int16"
    revision = 2

    def items(self, source: Path, settings: TimitSettings) -> list[SourceFile]:
        # Split by split, so that the utterances to be joined are stored one after another.
        parts = split(find(source), settings)
        return [SourceFile(u.name, u.path, name) for name, part in parts.items() for u in part]

    def file_notes(self, source: Path, settings: Any) -> tuple[str, ...]:
        del settings
        others = other_recordings(source)
        if not others:
            return ()
        return (f"left out, because they are no utterances of TIMIT: {list_files(others)}",)

    def reader(self, settings: TimitSettings) -> RecordingReader:
        return RecordingReader(RATE, 2 * settings.frame_size, same_rate=True)

    def make_splits(
        self, spans: Sequence[FileSpan], shard_metadata: Sequence[Any], settings: TimitSettings
    ) -> tuple[dict[str, Split], Layout]:
        del shard_metadata
        parts = {name: [p for p in spans if p.group == name] for name in ("train", "valid", "test")}
        splits = {name: _rows(name, parts[name], settings) for name in ("train", "valid")}
        tested = parts["test"]
        rows = _whole([(p.start, p.count) for p in tested], settings.frame_size)
        splits["test"] = Split(rows, [p.key for p in tested])
        layout = Layout(
            data_type="audio",
            likelihood="gaussian",
            frame_size=settings.frame_size,
            start=True,
            gain=1.0 / FULL_SCALE,
            normalized=True,
            sample_rate=RATE,
            notes=(
                _note({name: [p.key for p in part] for name, part in parts.items()}),
                *notes(spans),
            ),
        )
        return splits, layout


def load_all(
    folder: Path, settings: TimitSettings, normalization: Normalization, workers: int = 1
) -> Sequences:
    """Every utterance of a folder whole, as one split, normalized as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    store = corpora.opened(Timit(), folder, settings, workers)
    counts = [int(source["count"]) for source in store.index["sources"]]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    rows = _whole(list(zip(starts, counts, strict=True)), settings.frame_size)
    names = [str(source["key"]) for source in store.index["sources"]]
    return store.sequences(rows, names, normalization)


def split(utterances: Iterable[Utterance], settings: TimitSettings) -> dict[str, list[Utterance]]:
    """Train, validation and test utterances.

    The disc's TEST half is the test. NLTK's sample has no halves: there all sentences of some
    speakers are the test, so that as in TIMIT nobody is heard in both. A folder DEV or VALID beside
    the halves validates; without one some of the other utterances do. Which ones depends on a hash
    of speaker and sentence alone.
    """
    everything = list(utterances)
    if any(utterance.half for utterance in everything):
        test = [utterance for utterance in everything if utterance.half == "test"]
    else:
        speakers = _some({u.speaker for u in everything}, settings.test_fraction)
        test = [utterance for utterance in everything if utterance.speaker in speakers]
    tested = {utterance.key for utterance in test}
    rest = [utterance for utterance in everything if utterance.key not in tested]
    held_out = {utterance.key for utterance in rest if utterance.half == "valid"}
    held_out = held_out or _some({utterance.key for utterance in rest}, settings.valid_fraction)
    return {
        "train": [utterance for utterance in rest if utterance.key not in held_out],
        "valid": [utterance for utterance in rest if utterance.key in held_out],
        "test": test,
    }


def _some(names: set[str], fraction: float) -> set[str]:
    """A share of the names, at least one: those with the least hashes."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ranked[: max(1, round(fraction * len(ranked)))])


def _rows(name: str, spans: Sequence[FileSpan], settings: TimitSettings) -> Split:
    """Rows of train or validation."""
    size, length = settings.frame_size, settings.segment_length
    if settings.concatenate:
        stream = [(name, spans[0].start, sum(p.count for p in spans))] if spans else []
        return Split(*cut_rows(stream, size, length))
    rows = [
        (item.start + first * size, (min(length, frames - 1 - first) + 1) * size, label, number)
        for label, item in enumerate(spans)
        for frames in (item.count // size,)
        for number, first in enumerate(range(0, frames - 1, length))
    ]
    return Split(np.array(rows, np.int64).reshape(-1, 4), [item.key for item in spans])


def _whole(places: Sequence[tuple[int, int]], frame_size: int) -> Indices:
    """Utterances at (first sample, how many) as they are, up to a last frame that is not full."""
    rows = [
        (start, count // frame_size * frame_size, label, -1)
        for label, (start, count) in enumerate(places)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def _note(names: dict[str, list[str]]) -> str:
    """How many utterances there are, and what that says of the copy."""
    train, valid, test = (len(names[part]) for part in SPLITS)
    counts = f"{train} + {valid} utterances to train and validate, {test} to test"
    if not any(name.startswith("test/") for name in names["test"]):
        speakers = sorted({name.split("/")[-2] for name in names["test"]})
        return f"{counts}; there is no TEST half, the test is all of {', '.join(speakers)}"
    if (train + valid, test) != (TRAIN_UTTERANCES, TEST_UTTERANCES):
        return f"{counts}; the whole corpus has {TRAIN_UTTERANCES} and {TEST_UTTERANCES}"
    return counts


ENTRY = DatasetEntry(
    "timit",
    "TIMIT (licensed): rows of 40 frames at 16 kHz, test utterances whole",
    TimitSettings,
    loaders(Timit())[0],
    load_all,
    MISSING,
    corpus=Timit(),
    has_workers=True,
)
