"""``wav``: a folder of the user's own recordings, split by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats import audio
from zpyro.datasets.formats.audio import Waveform
from zpyro.datasets.formats.folders import first_of, relative_name
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import Splits, describe_split, split_by_name
from zpyro.errors import UserError, pluralize


@dataclass(frozen=True)
class WavSettings:
    """How a folder of recordings becomes sequences.

    Attributes:
        sample_rate: samples a second to resample to; None keeps the recordings' own.
        frame_size: samples in a frame.
        segment_length: cut recordings into rows of at most so many scored frames; None keeps them
            whole.
        valid_fraction: share of the files held out for validation.
        test_fraction: share of the files held out for the test.
        valid_files: pattern of the validation files' names, in place of folders' names and the
            fraction.
        test_files: pattern of the test files' names, likewise.
        seed: fixes which files are held out.
    """

    sample_rate: int | None = None
    frame_size: int = 200
    segment_length: int | None = None
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    valid_files: str = ""
    test_files: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sample_rate", "frame_size", "segment_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; give a positive number")
        if self.sample_rate is not None and self.sample_rate not in audio.RATES:
            raise UserError(
                f"data.sample_rate is {self.sample_rate}; it must be {audio.RATES.start} to"
                f" {audio.RATES.stop - 1}"
            )
        for name in ("valid_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be in [0, 1)")


def load(folder: Path, settings: WavSettings) -> Dataset:
    """Read a folder of recordings in any container that libsndfile reads.

    The samples are normalized by the mean and standard deviation of the training waveform. The
    first frame of each recording or row is its start frame: conditioned on, not scored.

    Folders and files named train, valid or test are that split, see
    :mod:`zpyro.datasets.splitting`. Files that belong to no split are not read.

    Raises:
        UserError: if the folder or a file cannot be used, or a split would be empty.
    """
    remarks = list[audio.Remark]()
    paths = audio.find(folder)
    names = [relative_name(path, folder) for path in paths]
    splits = split_by_name(
        names,
        settings.valid_fraction,
        settings.test_fraction,
        valid_files=settings.valid_files,
        test_files=settings.test_files,
        seed=settings.seed,
    )
    used = sorted(index for part in splits for index in part)
    read, waveforms, rate = read_folder(
        folder, settings, remarks.append, [paths[index] for index in used]
    )
    place = {index: number for number, index in enumerate(used)}
    train, valid, test = ([place[index] for index in part] for part in splits)
    data = assemble("wav", read, waveforms, (train, valid, test), rate, settings)
    notes = (*audio.notes(remarks), *describe_split(names), *audio.left_out(folder))
    return replace(data, notes=(*data.notes, *notes))


def load_all(folder: Path, settings: WavSettings, normalization: Normalization) -> Sequences:
    """Every recording of a folder as one split, normalized as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    remarks = list[audio.Remark]()
    names, waveforms, rate = read_folder(folder, settings, remarks.append)
    sequences = to_sequences(names, waveforms, rate, settings, normalization)
    return replace(sequences, notes=(*audio.notes(remarks), *audio.left_out(folder)))


def assemble(
    name: str,
    names: Sequence[str],
    waveforms: Sequence[Waveform],
    splits: Splits,
    rate: int,
    settings: WavSettings,
) -> Dataset:
    """A data set of recordings from their splits, normalized by the training waveform."""
    normalization = waveform_normalization(waveforms[i] for i in splits[0])
    parts = [
        to_sequences(
            [names[i] for i in part], [waveforms[i] for i in part], rate, settings, normalization
        )
        for part in splits
    ]
    return Dataset(name, parts[0], parts[1], parts[2], "gaussian", settings.frame_size)


def read_folder(
    folder: Path,
    settings: WavSettings,
    on_remark: Callable[[audio.Remark], None],
    paths: Sequence[Path] | None = None,
) -> tuple[list[str], list[Waveform], int]:
    """Names (relative paths), waveforms and the one sample rate of a folder's recordings.

    Args:
        folder: where they are.
        settings: the rate, and how long a recording must be.
        on_remark: receives what is odd about recordings.
        paths: the recordings to read; all by default.

    Raises:
        UserError: naming the first file that cannot be used, and how many more there are.
    """
    paths = audio.find(folder) if paths is None else paths
    names = [relative_name(path, folder) for path in paths]
    waveforms: list[Waveform] = []
    rates: dict[int, str] = {}
    problems: list[UserError] = []
    for name, path in zip(names, paths, strict=True):
        try:
            waveform, rate, odd = audio.read_with_remarks(path)
            rates.setdefault(rate if settings.sample_rate is None else settings.sample_rate, name)
            waveform = audio.resample(waveform, rate, settings.sample_rate or rate)
            _check_length(path, waveform, settings.frame_size)
            waveforms.append(waveform)
            wanted = settings.sample_rate or rate
            if rate != wanted:
                odd[f"resampled to {wanted} samples a second"] = f"from {rate}"
            peak = audio.peak(waveform)
            if peak > 1.0:
                odd["samples beyond full scale, kept"] = f"peak {audio.describe_peak(peak)}"
            for what, measure in odd.items():
                on_remark(audio.Remark(name, what, measure))
        except UserError as problem:
            problems.append(problem)
    if problems:
        raise first_of(problems)
    if len(rates) > 1:
        found = ", ".join(f"{rate} ({name})" for rate, name in sorted(rates.items()))
        raise UserError(f"{folder}: sample rates differ: {found}; choose with data.sample_rate")
    return names, waveforms, next(iter(rates))


def waveform_normalization(waveforms: Iterable[Waveform]) -> Normalization:
    """Mean and standard deviation over every sample, in double precision."""
    count, total, squares = 0, 0.0, 0.0
    for waveform in waveforms:
        samples = waveform.astype(np.float64)
        count += len(samples)
        total += float(samples.sum())
        squares += float(np.square(samples).sum())
    mean = total / count
    variance = squares / count - mean**2
    if variance <= 1e-20:
        raise UserError("the training recordings are silent throughout; nothing can be learned")
    return Normalization(mean, float(np.sqrt(variance)))


def to_sequences(
    names: Sequence[str],
    waveforms: Sequence[Waveform],
    rate: int,
    settings: WavSettings,
    normalization: Normalization,
) -> Sequences:
    """Frames of recordings: the first of each recording or row is the start, the rest is scored."""
    labels: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for name, waveform in zip(names, waveforms, strict=True):
        frames = normalization.apply(audio.frame(waveform, settings.frame_size))
        for number, row in enumerate(cut_rows(frames, settings.segment_length)):
            rows.append(row)
            labels.append(name if settings.segment_length is None else f"{name}#{number}")
    return Sequences(
        values=tuple(row[1:] for row in rows),
        names=tuple(labels),
        start=np.stack([row[0] for row in rows]),
        normalization=normalization,
        sample_rate=rate,
        data_type="audio",
    )


def cut_rows(frames: NDArray[np.float32], segment_length: int | None) -> list[NDArray[np.float32]]:
    """Contiguous rows of a start frame and at most ``segment_length`` scored ones.

    The start frame of a row is the last scored frame of the row before, so that every frame but
    the first is scored once.
    """
    if segment_length is None:
        return [frames]
    starts = range(0, len(frames) - 1, segment_length)
    return [frames[start : start + segment_length + 1] for start in starts]


def _check_length(path: Path, waveform: Waveform, frame_size: int) -> None:
    if len(waveform) < 2 * frame_size:
        raise UserError(
            f"{path}: has {pluralize(len(waveform), 'sample')}; two frames of {frame_size} "
            "are needed"
            " (remove it, or set data.frame_size lower)"
        )


ENTRY = DatasetEntry(
    "wav",
    "a folder of your own recordings (wav, flac, mp3, ogg, aiff, ...), split by file",
    WavSettings,
    load,
    load_all,
    "give a folder of recordings with --data DIR",
)
