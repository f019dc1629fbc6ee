"""Recordings as a corpus to prepare: 16-bit samples, one stream a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zpyro.datasets.formats import audio
from zpyro.datasets.formats.folders import relative_name
from zpyro.datasets.prepared.corpus import FileSpan, ParsedFile, Reader, SourceFile
from zpyro.datasets.splitting import describe_split, named_splits
from zpyro.errors import UserError, pluralize

LARGEST_ERROR = 1e-3
"""Share of a recording's power that rounding may change unnoticed."""


def items_in(folder: Path) -> list[SourceFile]:
    """Every recording below a folder, in the order of their paths, its split by name as its group.

    Raises:
        UserError: if there is none.
    """
    paths = audio.find(folder)
    names = [relative_name(path, folder) for path in paths]
    return [
        SourceFile(name, path, split)
        for name, path, split in zip(names, paths, named_splits(names), strict=True)
        if split is not None
    ]


def file_notes(folder: Path) -> tuple[str, ...]:
    """Which splits names of files and folders decide, and which files are left out."""
    names = [relative_name(path, folder) for path in audio.find(folder)]
    return (*describe_split(names, "the last rows of train"), *audio.left_out(folder))


class RecordingReader(Reader):
    """Reads a recording as 16-bit samples of one rate.

    Args:
        rate: samples a second that are wanted.
        shortest: samples that a recording must have.
        same_rate: refuse recordings of another rate in place of resampling them.
    """

    def __init__(self, rate: int, shortest: int, *, same_rate: bool = False) -> None:
        self._rate = rate
        self._shortest = shortest
        self._same_rate = same_rate

    def read(self, item: SourceFile) -> ParsedFile:
        waveform, rate, remarks = audio.read_with_remarks(item.path)
        if self._same_rate and rate != self._rate:
            raise UserError(
                f"{item.path}: has {rate} samples a second, not {self._rate}; resample it"
            )
        waveform = audio.resample(waveform, rate, self._rate)
        if len(waveform) < self._shortest:
            raise UserError(
                f"{item.path}: has {pluralize(len(waveform), 'sample')}; {self._shortest} "
                "are needed; remove it"
            )
        if rate != self._rate:
            remarks[f"resampled to {self._rate} samples a second"] = f"from {rate}"
        peak = audio.peak(waveform)
        if peak > 1.0:
            what = "samples beyond full scale, divided by the peak"
            remarks[what] = f"peak {audio.describe_peak(peak)}"
        fitting = audio.fit(waveform)
        samples, scaled = audio.to_int16(fitting), fitting * audio.FULL_SCALE
        # Of integers nothing is lost, of a quiet float recording everything may be.
        error = float(np.square(samples - scaled, dtype=np.float64).sum())
        if peak < 1.0 and error > LARGEST_ERROR * float(np.square(scaled, dtype=np.float64).sum()):
            remarks["too quiet for 16 bits, rounded"] = f"peak {peak:.2g}"
        metadata = {"rate": rate, "remarks": remarks}
        return ParsedFile(samples, [len(samples)], metadata=metadata)


def notes(spans: Iterable[FileSpan]) -> tuple[str, ...]:
    """What is odd about the recordings, one line for each kind."""
    return audio.notes(
        audio.Remark(span.key, what, measure)
        for span in spans
        for what, measure in span.metadata.get("remarks", {}).items()
    )
