"""Reading the file that samples go on from, or that an interpolation begins with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .common import log

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.vocabulary import Vocabulary
    from zpyro.training.checkpoint import Checkpoint


def read_prefix(path: Path, checkpoint: Checkpoint) -> np.ndarray:
    """Raw frames (P, D) or tokens (P,) of a file.

    Args:
        path: a recording or a text file, as the run's data are, or an array ``.npy`` of frames, of
            the samples of a recording, of the rows or the pixels of a picture, or of tokens.
        checkpoint: of the run.

    Raises:
        UserError: if it cannot be read, is empty, or is none of what the model was trained on.
    """
    from zpyro.analysis import selection as choosing
    from zpyro.errors import UserError

    if not path.is_file():
        what = "is no file" if path.exists() else "is missing"
        raise UserError(f"{path}: {what}; give another")
    if path.suffix.lower() == ".npy":
        frames = _in_frames(_array(path), checkpoint)
    elif checkpoint.data.data_type == "audio":
        frames = _recording(path, checkpoint)
    elif checkpoint.vocabulary is not None:
        frames = _line(path, checkpoint.vocabulary)
    else:
        raise UserError(
            f"{path}: is no .npy array, and the run is one of {checkpoint.data.data_type} data; "
            "save the frames with numpy.save"
        )
    choosing.check_frames(checkpoint, frames, str(path))
    return frames


def _recording(path: Path, checkpoint: Checkpoint) -> np.ndarray:
    from zpyro.datasets.formats import audio
    from zpyro.errors import UserError

    rate, size = checkpoint.data.sample_rate, checkpoint.module.likelihood.size
    assert rate is not None
    samples, found = audio.read(path)
    frames = audio.frame(audio.resample(samples, found, rate), size)
    if len(frames) == 0:
        raise UserError(
            f"{path}: is shorter than a frame, {size} samples at {rate} Hz; give a longer one"
        )
    return frames


def _line(path: Path, vocabulary: Vocabulary) -> np.ndarray:
    from zpyro.datasets.formats import text_files
    from zpyro.datasets.vocabulary import UNKNOWN
    from zpyro.errors import UserError

    line, *more = text_files.read_text(path).strip().splitlines()
    if more:
        raise UserError(
            f"{path}: has {len(more) + 1} lines, and a sequence is one; leave the one to go on from"
        )
    words = vocabulary.split(line)
    tokens = vocabulary.encode(words)
    unknown = [word for word, token in zip(words, tokens, strict=True) if token == UNKNOWN]
    if unknown:
        shown = " ".join(dict.fromkeys(unknown))
        log(f"note: not in the vocabulary, so read as <unknown>: {shown}")
    return tokens


def _array(path: Path) -> np.ndarray:
    import numpy as np

    from zpyro.datasets import npz
    from zpyro.datasets.formats.declared import DAMAGED
    from zpyro.errors import UserError

    try:
        values = npz.load_plain(path)
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        raise UserError(f"{path}: is no .npy array; save one with numpy.save") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise UserError(f"{path}: is no .npy array of numbers; save one with numpy.save")
    if not values.size:
        raise UserError(f"{path}: has shape {values.shape}, it is empty; give another")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: has values that are not finite; mend them")
    return values


def _in_frames(values: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    """A recording's samples as frames, and a picture's rows or pixels as the model's steps."""
    from zpyro.datasets.formats import audio

    data, size = checkpoint.data, checkpoint.module.likelihood.size
    if data.data_type == "audio" and values.ndim == 1:
        return audio.frame(values, size)
    shape = data.image_shape
    rows = shape is not None and values.shape[-1] in (1, shape[1]) and values.ndim <= 2
    return values.reshape(-1, size) if rows and values.size % size == 0 else values
