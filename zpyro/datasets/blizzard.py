"""``blizzard``: the audiobooks of the Blizzard Challenge 2013, one reader (licensed)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.wav import WavSettings, read_folder, to_sequences, waveform_normalization
from zpyro.errors import UserError

MISSING = (
    "Blizzard 2013 (audiobooks, one female reader, about 300 hours) is licensed to those who"
    " register with the organisers of the Blizzard Challenge; once you have it, point --data at"
    " its folder, laid out as blizzard/BOOK/CHAPTER.mp3 (or .wav); right now, run"
    " `zpyro train --dataset vowels`, or `zpyro train --dataset wav --data FOLDER` on recordings"
    " of your own"
)

WHOLE_ROWS = "only whole rows count: the end of a recording that does not fill one is left out"


@dataclass(frozen=True)
class BlizzardSettings(WavSettings):
    """As published (arXiv:1711.05411, section 5): 16 kHz, frames of 200, rows of 40 frames.

    The settings are those of ``wav``; the fractions are of contiguous rows.
    """

    sample_rate: int | None = 16_000
    row_frames: int | None = 40
    valid_fraction: float = 0.05
    test_fraction: float = 0.05


def load(folder: Path, settings: BlizzardSettings) -> Dataset:
    """Read folders of mp3, wav or flac of one reader; rows split contiguously about 90/5/5.

    Every frame's target is the next frame of its own recording. A score is a sum over a row, so
    all rows are equally long: what does not fill one at a recording's end is left out. The
    recordings stand in the order of their paths; the last rows are the test, those before them
    validation.

    Raises:
        UserError: if the folder or a file cannot be used, or a split would be empty.
    """
    rows = _whole_rows(folder, settings, Normalization())
    test = round(settings.test_fraction * len(rows))
    valid = round(settings.valid_fraction * len(rows))
    train = len(rows) - valid - test
    if min(train, valid, test) < 1:
        raise UserError(f"{folder}: {len(rows)} rows are too few for three splits; add recordings")
    normalization = waveform_normalization([value.reshape(-1) for value in rows.values[:train]])
    whole = _normalised(rows, normalization)
    splits = whole[:train], whole[train : train + valid], whole[train + valid :]
    return Dataset("blizzard", *splits, "gaussian", settings.frame_size, notes=(WHOLE_ROWS,))


def load_all(folder: Path, settings: BlizzardSettings, normalization: Normalization) -> Sequences:
    """Every row of a folder as one split, normalised as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    return _whole_rows(folder, settings, normalization)


def _whole_rows(
    folder: Path, settings: BlizzardSettings, normalization: Normalization
) -> Sequences:
    names, waveforms, rate = read_folder(folder, settings)
    rows = to_sequences(names, waveforms, rate, settings, normalization)
    if settings.row_frames is None:
        return rows
    whole = rows[[i for i, row in enumerate(rows.values) if len(row) == settings.row_frames]]
    if not len(whole):
        raise UserError(f"{folder}: no recording fills a row of {settings.row_frames} frames")
    return whole


def _normalised(rows: Sequences, normalization: Normalization) -> Sequences:
    start = None if rows.start is None else normalization.apply(rows.start)
    values = tuple(normalization.apply(value) for value in rows.values)
    return replace(rows, values=values, start=start, normalization=normalization)
