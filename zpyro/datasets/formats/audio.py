"""Reading, resampling, framing and writing recordings.

libsndfile (through soundfile) decodes wav, flac, mp3 and NIST SPHERE. A known limit of its own: of
an mp3 with a variable bit rate and no Xing header it reads only as much as the first frame's bit
rate foretells.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from zpyro.datasets.formats.folders import walk
from zpyro.datasets.formats.headers import check_size
from zpyro.errors import UserError

EXTENSIONS = frozenset({".wav", ".flac", ".mp3", ".sph", ".nist"})

CUT_SHORT = 0.95
"""A file that gives less than this share of the samples it announces was cut short.

For an mp3 the declared number may be an estimate, so the share is not 1.
"""

BLOCK = 1 << 20
"""Samples of all channels that are read at once."""

RATES = range(1_000, 1_000_000)
"""Samples a second that a recording may have; a damaged header asks for others."""

Waveform = NDArray[np.float32]


def find(folder: Path) -> list[Path]:
    """Every recording below a folder, sorted by path.

    Links are followed, but not to a folder that was walked before; hidden files and folders (names
    with a leading dot) are left out.

    Raises:
        UserError: if there is no such folder, part of it cannot be read, or it holds no recording.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; point --data at a folder of recordings")
    found = sorted(path for path in walk(folder) if path.suffix.lower() in EXTENSIONS)
    if not found:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"{folder} holds no recordings ({kinds}); point --data at some")
    return found


def read(path: Path) -> tuple[Waveform, int]:
    """A recording as mono float32 in [-1, 1] (channels averaged) and its samples a second.

    Raises:
        UserError: if the file cannot be read, is not audio, is cut short, empty, or holds NaN.
    """
    check_size(path)
    try:
        # As bytes: soundfile takes names in UTF-8 only.
        with soundfile.SoundFile(os.fsencode(path)) as stream:
            declared, rate = stream.frames, stream.samplerate
            if rate not in RATES:
                raise UserError(f"{path}: declares {rate} samples a second; repair or remove it")
            waveform = _mono(stream)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as audio ({_reason(error)}); repair or remove it"
        ) from error
    if len(waveform) < CUT_SHORT * declared:
        raise UserError(
            f"{path}: is cut short, it announces {declared} samples and has {len(waveform)};"
            " copy it again"
        )
    if len(waveform) == 0:
        raise UserError(f"{path}: holds no samples; remove it")
    if not np.isfinite(waveform).all():
        raise UserError(f"{path}: holds NaN or infinity; repair or remove it")
    return waveform, int(rate)


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


def _mono(stream: soundfile.SoundFile) -> Waveform:
    # In blocks: a damaged header may announce more samples than any memory holds.
    parts = [np.zeros(0, np.float32)]
    count = max(1, BLOCK // stream.channels)
    while len(block := stream.read(count, dtype="float32", always_2d=True)):
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are refused below
            parts.append(block.mean(axis=1, dtype=np.float32))
    return np.concatenate(parts)


def _reason(error: Exception) -> str:
    reason = str(error).rpartition(": ")[2].strip().rstrip(".")
    # Of text in a .mp3 file libsndfile says that the file does not exist.
    return "Format not recognised" if "does not exist" in reason else reason
