"""``blizzard``: the audiobooks of the Blizzard Challenge 2013, one reader (licensed)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.wav import WavSettings, read_folder, to_sequences, waveform_normalization
from zpyro.errors import UserError

MISSING = (
    "Blizzard 2013 (about 300 hours of audiobooks read by one speaker) is licensed: ask the"
    " Blizzard Challenge organisers for it, then point --data at its folder, e.g."
    " blizzard/BOOK/CHAPTER.mp3 (or .wav); right now, run `zpyro train --dataset vowels`, or"
    " `zpyro train --dataset wav --data FOLDER` on recordings of your own"
)


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

    Every frame's target is the next frame of its own recording. The recordings stand in the order
    of their paths; the last rows are the test, those before them validation.

    Raises:
        UserError: if the folder or a file cannot be used, or a split would be empty.
    """
    names, waveforms, rate = read_folder(folder, settings)
    rows = to_sequences(names, waveforms, rate, settings, Normalization())
    test = round(settings.test_fraction * len(rows))
    valid = round(settings.valid_fraction * len(rows))
    train = len(rows) - valid - test
    if min(train, valid, test) < 1:
        raise UserError(f"{folder}: {len(rows)} rows are too few for three splits; add recordings")
    normalization = waveform_normalization([value.reshape(-1) for value in rows.values[:train]])
    whole = _normalised(rows, normalization)
    splits = whole[:train], whole[train : train + valid], whole[train + valid :]
    return Dataset("blizzard", *splits, likelihood="gaussian", frame_size=settings.frame_size)


def load_all(folder: Path, settings: BlizzardSettings, normalization: Normalization) -> Sequences:
    """Every row of a folder as one split, normalised as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    names, waveforms, rate = read_folder(folder, settings)
    return to_sequences(names, waveforms, rate, settings, normalization)


def _normalised(rows: Sequences, normalization: Normalization) -> Sequences:
    start = None if rows.start is None else normalization.apply(rows.start)
    values = tuple(normalization.apply(value) for value in rows.values)
    return replace(rows, values=values, start=start, normalization=normalization)
