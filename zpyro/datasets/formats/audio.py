"""Reading, resampling, framing and writing recordings.

libsndfile (through soundfile) decodes every container but shorten; :mod:`containers` tells it where
the samples are.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from zpyro.datasets.formats import containers
from zpyro.datasets.formats.containers import CUT_SHORT, Part, PartFile
from zpyro.datasets.formats.folders import check_folder, relative_name, walk
from zpyro.errors import UserError, pluralize

_NOT_RECORDINGS = {"RAW", "MAT4", "MAT5", "HTK", "SD2", "XI"}
"""Containers of libsndfile without a header, for other data mostly, or in several files."""

_MORE_EXTENSIONS = {
    "AIFF": (".aif", ".aifc"),
    "AU": (".snd",),
    "IRCAM": (".sf",),
    "NIST": (".sph",),
    "OGG": (".oga", ".opus"),
    "SVX": (".8svx", ".16sv", ".iff"),
    "WAV": (".wave", ".bwf", ".bw64"),
}

EXTENSIONS = frozenset(
    extension
    for name in set(soundfile.available_formats()) - _NOT_RECORDINGS
    for extension in (f".{name.lower()}", *_MORE_EXTENSIONS.get(name, ()))
)
"""Names of recordings end like this, in lower case: what libsndfile reads."""

BLOCK = 1 << 20
"""Samples of all channels that are read at once."""

FULL_SCALE = 32768.0
"""16-bit samples are samples of [-1, 1] times this."""
RATES = range(1_000, 1_000_000)
"""Samples a second that a recording may have; a damaged header asks for others."""

LARGEST_PEAK = 4.0
"""A larger one is that of whole numbers stored as floats; full scale is 1."""

CANCELLING = 0.5
"""Share of the power of unrelated channels below which their average has lost the sound."""

SILENT = 1e-6
"""Share of the loudest channel's power below which a channel is silent."""

ROUNDING = 1e-12
"""Share of the squares about which the power of a constant may differ from 0."""

LARGEST_OFFSET = 0.05
"""A mean beyond this part of full scale is noted."""

NAMED = 3
"""Files that a note names."""

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Remark:
    """What is odd about a recording.

    Attributes:
        name: of the recording.
        what: is odd, and what was done.
        measure: how much, e.g. "peak 1.5", or nothing.
    """

    name: str
    what: str
    measure: str


def find(folder: Path) -> list[Path]:
    """Every recording below a folder, sorted by path.

    Links are followed, but not to a folder that was walked before; hidden files and folders (names
    with a leading dot) are left out.

    Raises:
        UserError: if there is no such folder, part of it cannot be read, or it holds no recording.
    """
    check_folder(folder, "a folder of recordings", "give a folder of recordings")
    found = sorted(path for path in walk(folder) if path.suffix.lower() in EXTENSIONS)
    if not found:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        others = "".join(f", {note}" for note in left_out(folder))
        raise UserError(f"{folder} holds no recordings ({kinds}){others}; point --data at some")
    return found


def left_out(folder: Path) -> tuple[str, ...]:
    """A note on the files below a folder that :func:`find` passes over, or nothing.

    Raises:
        UserError: if part of the folder cannot be read.
    """
    paths = sorted(path for path in walk(folder) if path.suffix.lower() not in EXTENSIONS)
    if not paths:
        return ()
    counts = Counter(path.suffix.lower() or "without suffix" for path in paths)
    what = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    names = [relative_name(path, folder) for path in paths]
    return (f"left out, not readable as audio: {what} ({_some(names)})",)


def notes(remarks: Iterable[Remark]) -> tuple[str, ...]:
    """One line for each kind of remark."""
    kinds: dict[str, list[str]] = {}
    for each in remarks:
        named = f"{each.name}, {each.measure}" if each.measure else each.name
        kinds.setdefault(each.what, []).append(named)
    return tuple(
        f"{what}: {pluralize(len(found), 'recording')} ({_some(found, '; ')})"
        for what, found in kinds.items()
    )


def read(path: Path) -> tuple[Waveform, int]:
    """A recording as mono float32 and its samples a second; full scale is 1.

    Channels are averaged, silent ones left out; where channels cancel each other, the loudest is
    taken. Samples slightly beyond full scale are kept.

    Raises:
        UserError: as :func:`read_with_remarks` does.
    """
    waveform, rate, _ = read_with_remarks(path)
    return waveform, rate


def read_with_remarks(path: Path) -> tuple[Waveform, int, dict[str, str]]:
    """A recording as :func:`read` gives it, and what is odd about it, with a measure of each.

    Raises:
        UserError: if the file cannot be read, is not audio, is cut short, empty, holds NaN, or its
            samples are not on a scale of 1.
    """
    found, rates, remarks = list[Waveform](), set[int](), dict[str, str]()
    parts = containers.parts(path)
    try:
        for part in parts:
            waveform, rate = _read_part(path, part, remarks)
            found.append(waveform)
            rates.add(rate)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as audio ({_reason(error)}); copy it again or convert"
            " it, or move it elsewhere if it is no recording"
        ) from error
    if len(rates) > 1:
        several = ", ".join(map(str, sorted(rates)))
        raise UserError(
            f"{path}: holds {len(parts)} recordings of {several} samples a second; split it"
        )
    waveform = np.concatenate(found) if len(found) > 1 else found[0]
    unfinished = any(part.unfinished for part in parts)
    if unfinished and not len(waveform):
        raise UserError(f"{path}: is cut short, before its first page of sound ends; copy it again")
    _check(path, waveform)
    if unfinished:
        remarks["an Ogg stream without its end, read as far as it goes"] = ""
    if any(part.placeholder for part in parts):
        remarks["no usable length in the header, read to the end of the file"] = ""
    if len(parts) > 1:
        remarks["recordings joined in one file, read one after another"] = f"{len(parts)}"
    offset = float(waveform.mean(dtype=np.float64))
    if abs(offset) > LARGEST_OFFSET:
        remarks["constant offset, kept"] = f"{offset:.2g}"
    if np.ptp(waveform) == 0.0:
        remarks["silent throughout, kept"] = ""
    return waveform, rates.pop(), remarks


def resample(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    """The recording at another number of samples a second."""
    if rate == wanted:
        return waveform
    return np.asarray(soxr.resample(waveform, rate, wanted), dtype=np.float32)


def frame(waveform: NDArray[Any], frame_size: int) -> NDArray[Any]:
    """Consecutive frames (T, frame_size); a last frame that is not full is left out."""
    count = len(waveform) // frame_size
    return waveform[: count * frame_size].reshape(count, frame_size)


def peak(waveform: NDArray[Any]) -> float:
    """The largest absolute sample; of no samples 0."""
    return float(max(waveform.max(), -waveform.min())) if waveform.size else 0.0


def describe_peak(value: float) -> str:
    """A peak beyond full scale, with as many digits as show that: "1.5", "1.00003"."""
    for digits in range(3, 17):
        shown = f"{value:.{digits}g}"
        if float(shown) > 1.0:
            return shown
    return f"{value:.17g}"


def fit(waveform: NDArray[Any]) -> NDArray[Any]:
    """The waveform, divided by its peak if that is beyond full scale."""
    return waveform / max(1.0, peak(waveform))


def to_int16(
    waveform: NDArray[Any], dither: np.random.Generator | None = None
) -> NDArray[np.int16]:
    """Samples of [-1, 1] rounded to 16 bits.

    Args:
        waveform: (N,).
        dither: random numbers of a triangular dither of one step on either side (Lipshitz,
            Wannamaker and Vanderkooy, Journal of the Audio Engineering Society 40, 1992). Mean
            and variance of the rounding error then do not depend on the sound. None without.
    """
    scaled = waveform * FULL_SCALE
    if dither is not None:
        first, second = dither.random((2, len(waveform)))
        scaled = scaled + (first - second)
    return np.clip(np.rint(scaled), -FULL_SCALE, FULL_SCALE - 1.0).astype(np.int16)


def write_wav(
    path: Path, waveform: NDArray[Any], rate: int, dither: np.random.Generator | None = None
) -> float:
    """Write mono 16-bit wav and return the peak; samples beyond full scale are scaled to fit.

    Args:
        path: the file.
        waveform: samples in [-1, 1].
        rate: samples a second.
        dither: see :func:`to_int16`.

    Raises:
        UserError: if a sample is NaN or infinite.
    """
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: its samples are not finite; nothing is written")
    soundfile.write(path, to_int16(fit(waveform), dither), rate, format="WAV", subtype="PCM_16")
    return peak(waveform)


class _Stream(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks after each block of a file that can be sought in, which fails where libsndfile
    does not know the length.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _opened(path: Path, part: Part) -> Generator[_Stream]:
    with contextlib.ExitStack() as stack:
        # As bytes: soundfile takes names in UTF-8 only.
        source: Any = os.fsencode(path)
        if (part.head, part.start, part.end) != (b"", 0, path.stat().st_size):
            source = stack.enter_context(PartFile(path, part))
        yield stack.enter_context(_Stream(source))


def _read_part(path: Path, part: Part, remarks: dict[str, str]) -> tuple[Waveform, int]:
    with _opened(path, part) as stream:
        declared, rate, container = stream.frames, stream.samplerate, stream.format
        if rate not in RATES:
            raise UserError(f"{path}: declares {rate} samples a second; repair or remove it")
        weights = np.full(stream.channels, 1.0 / stream.channels, np.float32)
        waveform, powers, mixed = _mix(stream, weights)
    if stream.channels > 1:
        chosen = _weights(powers, mixed, remarks)
        if chosen is not None:
            with _opened(path, part) as stream:
                waveform, _, _ = _mix(stream, chosen)
    # Ogg counts from the beginning of a broadcast, not of its recording. Without a length
    # libsndfile gives the largest number.
    known = container != "OGG" and declared < np.iinfo(np.int64).max
    if known and len(waveform) < CUT_SHORT * declared:
        raise UserError(
            f"{path}: is cut short, it announces {pluralize(declared, 'sample')} and "
            f"has {len(waveform)};"
            " copy it again"
        )
    return waveform, int(rate)


def _mix(
    stream: _Stream, weights: NDArray[np.float32]
) -> tuple[Waveform, NDArray[np.float64], NDArray[np.float64]]:
    """Channels mixed into one, and the power of channels (S, C) and mix (S,) in each second."""
    # In blocks: a damaged header may announce more samples than any memory holds. Of FLAC the
    # decoder must not look beyond the last sample: what follows, tags mostly, is an error to it.
    rest = stream.frames if stream.format == "FLAC" else np.iinfo(np.int64).max
    parts, powers, mixes = [np.zeros(0, np.float32)], list[Any](), list[Any]()
    count = max(1, BLOCK // stream.channels)
    while len(block := stream.read(min(count, rest), dtype="float32", always_2d=True)):
        rest -= len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are refused later
            parts.append(block @ weights)
            if stream.channels > 1:
                seconds = np.arange(0, len(block), stream.samplerate)
                powers.append(_powers(block, seconds))
                mixes.append(_powers(parts[-1], seconds))
    empty = np.zeros((0, stream.channels))
    return np.concatenate(parts), np.concatenate([empty, *powers]), np.concatenate([[], *mixes])


def _powers(samples: NDArray[Any], starts: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of squares of each piece about its mean: an offset is no sound."""
    squares = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    sums = np.add.reduceat(samples.astype(np.float64), starts)
    counts = np.diff(starts, append=len(samples)).reshape(-1, *[1] * (samples.ndim - 1))
    powers = squares - np.square(sums) / counts
    return np.where(powers > ROUNDING * squares, powers, 0.0)


def _weights(
    powers: NDArray[np.float64], mixed: NDArray[np.float64], remarks: dict[str, str]
) -> NDArray[np.float32] | None:
    """How to mix channels whose average does not do, or nothing where it does."""
    total, count = powers.sum(axis=0), powers.shape[1]
    if not np.isfinite(total).all() or not total.any():
        return None
    loudest, sounding = int(total.argmax()), total > SILENT * total.max()
    lost = mixed < CANCELLING * powers.sum(axis=1) / count**2
    if powers[lost].sum() > 0.1 * powers.sum():
        share = mixed.sum() * count**2 / total.sum()
        what = "channels cancel each other, only the loudest is read"
        remarks[what] = f"{share:.1g} of the power is left"
        return (np.arange(count) == loudest).astype(np.float32)
    if sounding.all():
        return None
    remarks["silent channels left out"] = f"{count - int(sounding.sum())} of {count}"
    return (sounding / sounding.sum()).astype(np.float32)


def _check(path: Path, waveform: Waveform) -> None:
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinity; repair or remove it")
    if peak(waveform) > LARGEST_PEAK:
        raise UserError(
            f"{path}: has a peak of {peak(waveform):.6g}, and full scale is 1; divide its samples"
            " by their full scale (32768 if they were 16-bit numbers)"
        )


def _some(names: list[str], between: str = ", ") -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return between.join([*names[:NAMED], *more])


def _reason(error: Exception) -> str:
    reason = str(error).rpartition(": ")[2].strip().rstrip(".")
    # Of text in a .mp3 file libsndfile says that the file does not exist.
    return "Format not recognised" if "does not exist" in reason else reason
