"""Reading, resampling, framing and writing recordings.

libsndfile (through soundfile) decodes wav, flac, mp3 and NIST SPHERE. It reads a file that was cut
short without a word, so the sizes that headers declare are checked here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from zpyro.errors import UserError

EXTENSIONS = frozenset({".wav", ".flac", ".mp3", ".sph", ".nist"})
SPHERE_MAGIC = b"NIST_1A\n"
SPHERE_HEADER_LIMIT = 1 << 16

Waveform = NDArray[np.float32]


def find(folder: Path) -> list[Path]:
    """Every recording below a folder, sorted by path; links to folders above are not followed.

    Raises:
        UserError: if there is no such folder or it holds no recording.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; point --data at a folder of recordings")
    found = sorted(path for path in _walk(folder) if path.suffix.lower() in EXTENSIONS)
    if not found:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"{folder} holds no recordings ({kinds}); point --data at some")
    return found


def read(path: Path) -> tuple[Waveform, int]:
    """A recording as mono float32 in [-1, 1] (channels averaged) and its samples a second.

    Raises:
        UserError: if the file cannot be read, is not audio, is cut short, empty, or holds NaN.
    """
    _check_declared_size(path)
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: cannot be read as audio ({_reason(error)})") from error
    waveform = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinity; mend or remove it")
    return waveform, int(rate)


def rate_of(path: Path) -> int:
    """Samples a second, from the header alone.

    Raises:
        UserError: if the file cannot be read or is not audio.
    """
    _check_declared_size(path)
    try:
        return int(soundfile.info(str(path)).samplerate)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: cannot be read as audio ({_reason(error)})") from error


def resample(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    """The recording at another number of samples a second."""
    if rate == wanted:
        return waveform
    return np.asarray(soxr.resample(waveform, rate, wanted), dtype=np.float32)


def frame(waveform: NDArray[Any], frame_size: int) -> NDArray[Any]:
    """Consecutive frames (T, frame_size); a last frame that is not full is left out."""
    count = len(waveform) // frame_size
    return waveform[: count * frame_size].reshape(count, frame_size)


def write_wav(path: Path, waveform: NDArray[Any], rate: int) -> None:
    """Write mono 16-bit wav, clipped to [-1, 1]."""
    soundfile.write(path, np.clip(waveform, -1.0, 1.0), rate, subtype="PCM_16")


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would lead round and round.
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(parent, name) for name in names)


def _check_declared_size(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(SPHERE_HEADER_LIMIT)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
    if size == 0:
        raise UserError(f"{path}: is an empty file; remove it")
    if head.startswith(SPHERE_MAGIC):
        declared = _sphere_size(path, head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        declared = _riff_size(head)
    else:
        return
    if declared > size:
        raise UserError(
            f"{path}: is cut short, its header declares {declared} bytes and it has {size};"
            " copy it again"
        )


def _riff_size(head: bytes) -> int:
    """Bytes up to the end of the data chunk, as the chunks declare them."""
    position = 12
    while position + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, position)
        position += 8 + length
        if name == b"data":
            # Streamed files declare the largest number there is, for want of a better one.
            return 0 if length >= 0xFFFFFF00 else position
        position += length & 1
    return 0


def _sphere_size(path: Path, head: bytes) -> int:
    """Bytes of header and samples, as the header declares them."""
    fields = _sphere_fields(path, head)
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding:
        raise UserError(
            f"{path}: is SPHERE compressed with shorten ({coding}); expand it with"
            " `w_decode -o pcm` of the LDC's SPHERE tools first"
        )
    try:
        header = int(head[8:16])
        numbers = [int(fields[key]) for key in ("sample_count", "sample_n_bytes")]
        return header + numbers[0] * numbers[1] * int(fields.get("channel_count", "1"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its SPHERE header is damaged ({error}); copy it again") from error


def _sphere_fields(path: Path, head: bytes) -> dict[str, str]:
    text, mark, _ = head.partition(b"end_head")
    if not mark:
        raise UserError(f"{path}: its SPHERE header has no end; copy it again")
    lines = (line.split(None, 2) for line in text.decode("latin-1").splitlines()[2:])
    return {parts[0]: parts[2] for parts in lines if len(parts) == 3}


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2].strip().rstrip(".") or type(error).__name__
