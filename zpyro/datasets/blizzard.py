"""``blizzard``: the audiobooks of the Blizzard Challenge 2013, one reader (licensed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets.corpora import loaders
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.audio import FULL_SCALE, RATES
from zpyro.datasets.formats.folders import check_folder
from zpyro.datasets.prepared.corpus import (
    Corpus,
    FileSpan,
    Layout,
    SourceFile,
    Split,
    cut_rows,
    streams_of,
)
from zpyro.datasets.recordings import (
    RecordingReader,
    file_notes,
    items_in,
    notes,
)
from zpyro.datasets.splitting import SPLITS
from zpyro.settings import setting

MISSING = (
    "give a folder of recordings of one reader with --data FOLDER (mp3, wav, ...; such as"
    " FOLDER/BOOK/CHAPTER.mp3); those of Blizzard 2013 (audiobooks, about 300 hours) are licensed"
    " to those who register with the organizers of the Blizzard Challenge; without recordings, run"
    " `zpyro train --dataset vowels`"
)

WHOLE_ROWS = "only whole rows count: the end of a recording that does not fill one is left out"


@dataclass(frozen=True)
class BlizzardSettings:
    """As published (arXiv:1711.05411, section 5): 16 kHz, frames of 200, rows of 40 frames."""

    sample_rate: int = setting(
        16_000, "samples a second to resample to", at_least=RATES.start, below=RATES.stop
    )
    frame_size: int = setting(200, "samples in a frame", at_least=1)
    segment_length: int = setting(40, "scored frames in a row", at_least=1)
    valid_fraction: float = setting(0.05, "share of the rows that validates", above=0, below=1)
    test_fraction: float = setting(0.05, "share of the rows that is tested", above=0, below=1)


class Blizzard(Corpus):
    """Folders of recordings of one reader; rows split contiguously about 90/5/5.

    Every frame's target is the next frame of its own recording. A score is a sum over a row, so
    all rows are equally long: what does not fill one at a recording's end is left out. The
    recordings are in the order of their paths; the last rows are the test, those before them
    validation. Folders and files named train, valid or test are that split instead, see
    :mod:`zpyro.datasets.splitting`.
    """

    name = "blizzard"
    dtype = "int16"
    revision = 2

    def items(self, source: Path, settings: Any) -> list[SourceFile]:
        del settings
        check_folder(source, "a folder of recordings", MISSING)
        return items_in(source)

    def file_notes(self, source: Path, settings: Any) -> tuple[str, ...]:
        del settings
        return file_notes(source)

    def reader(self, settings: BlizzardSettings) -> RecordingReader:
        return RecordingReader(settings.sample_rate, 2 * settings.frame_size)

    def make_splits(
        self, spans: Sequence[FileSpan], shard_metadata: Sequence[Any], settings: BlizzardSettings
    ) -> tuple[dict[str, Split], Layout]:
        del shard_metadata
        rows, labels = cut_rows(
            list(streams_of(spans)), settings.frame_size, settings.segment_length
        )
        groups = np.array([span.group for span in spans])[rows[:, 2]]
        named = {name: rows[groups == name] for name in ("valid", "test")}
        free = rows[groups == ""]
        fractions = {"valid": settings.valid_fraction, "test": settings.test_fraction}
        counts = {
            name: 0 if len(named[name]) else round(fraction * len(free))
            for name, fraction in fractions.items()
        }
        train = len(free) - sum(counts.values())
        parts = dict(zip(SPLITS, np.split(free, [train, train + counts["valid"]]), strict=True))
        splits = {
            name: Split(named[name] if len(named.get(name, ())) else part, labels)
            for name, part in parts.items()
        }
        layout = Layout(
            data_type="audio",
            likelihood="gaussian",
            frame_size=settings.frame_size,
            start=True,
            gain=1.0 / FULL_SCALE,
            normalized=True,
            sample_rate=settings.sample_rate,
            notes=(WHOLE_ROWS, *notes(spans)),
        )
        return splits, layout


ENTRY = DatasetEntry(
    "blizzard",
    "Blizzard Challenge 2013 audiobooks (licensed): rows of 40 frames at 16 kHz",
    BlizzardSettings,
    *loaders(Blizzard()),
    MISSING,
    corpus=Blizzard(),
    has_workers=True,
)
