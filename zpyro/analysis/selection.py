"""Sequences that a user names or brings: by name or number in a split, a file, or a sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zpyro.datasets import npz
from zpyro.datasets.arrays import LARGEST_NUMBER
from zpyro.datasets.formats import audio, midi, text_files
from zpyro.datasets.formats.declared import DAMAGED
from zpyro.datasets.sequences import Array, Normalization, Sequences
from zpyro.datasets.vocabulary import END, UNKNOWN, Vocabulary
from zpyro.errors import UserError, pluralize
from zpyro.io.paths import user_path
from zpyro.training.checkpoint import Checkpoint

SHOWN_NAMES = 3
FILE_SUFFIXES = (*sorted(audio.EXTENSIONS), ".npy", ".txt")

OnNote = Callable[[str], None]
"""Receives a line that the user should see."""


def find_sequence(sequences: Sequences, wanted: str, split: str) -> int:
    """The index of the sequence with a name, or with a number counted from 0.

    Args:
        sequences: a split that is not empty.
        wanted: a name or a number.
        split: name of the split, for errors.

    Raises:
        UserError: if there is no such sequence.
    """
    names = list(sequences.names)
    if wanted in names:
        return names.index(wanted)
    if not wanted.lstrip("-").isdecimal():
        near = difflib.get_close_matches(wanted, names, n=SHOWN_NAMES, cutoff=0.4)
        raise UserError(
            f"sequence {wanted!r} is not in the {split} split; name one, such as "
            f"{', '.join(near or names[:SHOWN_NAMES])}, or a number from 0 to {len(names) - 1}"
        )
    if not 0 <= int(wanted) < len(names):
        raise UserError(
            f"sequence {wanted} is out of range: the {split} split has {len(names)}; give a number "
            f"from 0 to {len(names) - 1}, or a name such as {names[0]}"
        )
    return int(wanted)


def select_sequences(
    sequences: Sequences, wanted: Sequence[str], split: str, *, default_count: int
) -> list[int]:
    """The indices of the wanted sequences, each once.

    Args:
        sequences: the split.
        wanted: names or numbers; empty for the first ``default_count``.
        split: name of the split, for errors.
        default_count: how many sequences without ``wanted``.

    Raises:
        UserError: if one of them is not there.
    """
    if not wanted:
        return list(range(min(default_count, len(sequences))))
    return list(dict.fromkeys(find_sequence(sequences, each, split) for each in wanted))


def parse_sequence(
    checkpoint: Checkpoint, text: str, on_note: OnNote | None = None
) -> Sequences | None:
    """A sequence given as a file or, for a model of text, as a sentence.

    Args:
        checkpoint: the model.
        text: name of a file, a sentence, or anything else.
        on_note: receives notes about the file.

    Returns:
        None if the text is neither, so that it can only name a sequence of a split.

    Raises:
        UserError: if the file cannot be read or does not suit the model.
    """
    if is_file_name(text):
        frames = frames_from_file(user_path(text), checkpoint, on_note)
        if checkpoint.vocabulary is not None and not text.endswith(".npy"):
            frames = np.append(frames, END)
        return sequence_from_array(checkpoint, frames, text)
    if checkpoint.vocabulary is not None and " " in text.strip():
        return sequence_from_sentence(checkpoint, text)
    return None


def is_file_name(text: str) -> bool:
    """Whether a text is meant as a file: the file exists, or the suffix is that of a file."""
    path = Path(os.path.expanduser(text))
    try:
        exists = path.is_file()
    except OSError:  # a long sentence is not a valid file name
        return False
    return exists or path.suffix.lower() in FILE_SUFFIXES


def sequence_from_sentence(checkpoint: Checkpoint, sentence: str) -> Sequences:
    """A sentence and its end as one sequence of tokens.

    Raises:
        UserError: if the model is not one of text, or the sentence is empty.
    """
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        raise UserError(f"{sentence!r} is a sentence, but the run is not trained on text")
    words = vocabulary.split(sentence.strip())
    if not words:
        raise UserError("the sentence is empty; give words")
    return sequence_from_array(checkpoint, np.append(vocabulary.encode(words), END), sentence)


def sequence_from_array(checkpoint: Checkpoint, frames: Array, name: str) -> Sequences:
    """Raw frames (P, D) or tokens (P,) as one sequence for a model.

    If the data have start frames, the first frame becomes the start frame.

    Raises:
        UserError: if there are too few frames, or they do not suit the model.
    """
    data = checkpoint.data
    check_frames(checkpoint, frames, name, min_frames=1 if checkpoint.start is None else 2)
    scale = data.normalization
    values = normalize(checkpoint, frames)
    start = None
    if checkpoint.start is not None:
        start, values = values[:1], values[1:]
    return Sequences(
        values=(values,),
        names=(name,),
        start=start,
        normalization=scale if data.data_type in ("audio", "frames") else Normalization(),
        sample_rate=data.sample_rate,
        data_type=data.data_type,
        image_shape=data.image_shape,
        steps_per_quarter=data.steps_per_quarter,
    )


def normalize(checkpoint: Checkpoint, raw: Array) -> Array:
    """Raw frames on the scale of a model, float32; tokens as int64, bits unchanged."""
    data = checkpoint.data
    if data.data_type in ("tokens", "binary"):
        return raw.astype(np.int64 if data.data_type == "tokens" else np.float32)
    return data.normalization.apply(raw)


def denormalize(checkpoint: Checkpoint, frames: Array) -> Array:
    """Normalized frames on the scale of the raw data; tokens and bits unchanged."""
    data = checkpoint.data
    if data.data_type in ("tokens", "binary"):
        return frames
    return data.normalization.invert(frames)


def check_frames(checkpoint: Checkpoint, frames: Array, name: str, *, min_frames: int = 1) -> None:
    """Check that raw frames (P, D) or tokens (P,) suit a model.

    Args:
        checkpoint: the model.
        frames: the raw frames.
        name: what to call them in an error.
        min_frames: the smallest P.

    Raises:
        UserError: if there are too few frames, or their shape or values do not suit the model.
    """
    likelihood = checkpoint.model.likelihood
    event = tuple(likelihood.event_shape)
    if frames.ndim != 1 + len(event) or frames.shape[1:] != event or len(frames) < min_frames:
        wanted = "(P,)" if not event else f"(P, {event[0]})"
        raise UserError(
            f"{name}: has shape {frames.shape}; it must be {wanted} with P at least {min_frames}"
        )
    if likelihood.discrete_tokens and (
        (frames % 1 != 0).any() or frames.min() < 0 or frames.max() >= likelihood.size
    ):
        raise UserError(
            f"{name}: has values that are not tokens of the model; use 0 to {likelihood.size - 1}"
        )
    if checkpoint.data.data_type == "binary" and not np.isin(frames, (0, 1)).all():
        raise UserError(f"{name}: has values other than 0 and 1; make it binary first")


def frames_from_file(path: Path, checkpoint: Checkpoint, on_note: OnNote | None = None) -> Array:
    """Raw frames (P, D) or tokens (P,) of a file.

    Args:
        path: a recording, a MIDI file (of type 2 its first piece) or a text file of one line, as
            the run's data are, or a ``.npy`` array of frames, of the samples of a recording, of the
            rows or pixels of an image, or of tokens.
        checkpoint: the model.
        on_note: receives a line about words that are not in the vocabulary, or about a recording
            that is odd.

    Raises:
        UserError: if the file cannot be read, is empty, or does not suit the model.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "is missing"
        raise UserError(f"{path}: {problem}; choose another file")
    data = checkpoint.data
    if path.suffix.lower() == ".npy":
        frames = _in_frames(_read_array(path), checkpoint)
    elif data.data_type == "audio":
        frames = _read_recording(path, checkpoint, on_note)
    elif data.steps_per_quarter is not None and path.suffix.lower() in midi.SUFFIXES:
        frames = midi.read(path, data.steps_per_quarter)[0].roll
    elif checkpoint.vocabulary is not None:
        frames = _read_line(path, checkpoint.vocabulary, on_note)
    else:
        if data.steps_per_quarter is not None:
            raise UserError(
                f"{path}: is no MIDI file ({', '.join(midi.SUFFIXES)}) or .npy array, which a run "
                "trained on music needs; choose another file"
            )
        raise UserError(
            f"{path}: is not a .npy array, and the run is trained on {data.data_type} "
            "data; save the frames with numpy.save"
        )
    check_frames(checkpoint, frames, str(path))
    return frames


def covariates_from_file(path: Path, checkpoint: Checkpoint) -> Array:
    """Raw covariates (R, C) of R frames, from a ``.npy`` array.

    Raises:
        UserError: if the file cannot be read, or does not suit the model.
    """
    size = checkpoint.model.covariate_size
    if not size:
        raise UserError(f"{path}: the run has no covariates; leave --covariates out")
    if not path.is_file():
        problem = "is not a file" if path.exists() else "is missing"
        raise UserError(f"{path}: {problem}; choose another file")
    found = _read_array(path)
    if found.ndim != 2 or found.shape[1] != size or not len(found):
        raise UserError(f"{path}: has shape {found.shape}; it must be (frames, {size})")
    if np.abs(found).max() > LARGEST_NUMBER:
        raise UserError(f"{path}: has numbers beyond {LARGEST_NUMBER:.0e}; scale them down")
    return found


def _read_recording(path: Path, checkpoint: Checkpoint, on_note: OnNote | None) -> Array:
    rate, size = checkpoint.data.sample_rate, checkpoint.model.likelihood.size
    assert rate is not None
    samples, found, remarks = audio.read_with_remarks(path)
    if on_note is not None:
        for note in audio.notes(audio.Remark(str(path), *remark) for remark in remarks.items()):
            on_note(f"note: {note}")
    frames = audio.frame(audio.resample(samples, found, rate), size)
    if len(frames) == 0:
        raise UserError(
            f"{path}: is shorter than a frame, {pluralize(size, 'sample')} at {rate} Hz; give a "
            "longer one"
        )
    return frames


def _read_line(path: Path, vocabulary: Vocabulary, on_note: OnNote | None) -> Array:
    line, *more = text_files.read_text(path).strip().splitlines()
    if more:
        raise UserError(
            f"{path}: has {len(more) + 1} lines, but a sequence is one line; keep only that line"
        )
    words = vocabulary.split(line)
    tokens = vocabulary.encode(words)
    unknown = [word for word, token in zip(words, tokens, strict=True) if token == UNKNOWN]
    if unknown and on_note is not None:
        shown = " ".join(dict.fromkeys(unknown))
        on_note(f"note: not in the vocabulary, so read as <unknown>: {shown}")
    return tokens


def _read_array(path: Path) -> Array:
    try:
        values = npz.load_plain(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: is not a .npy array; save one with numpy.save") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise UserError(f"{path}: is not a .npy array of numbers; save one with numpy.save")
    if not values.size:
        raise UserError(f"{path}: has shape {values.shape}, it is empty; choose another file")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: has values that are not finite; remove or replace them")
    return values


def _in_frames(values: Array, checkpoint: Checkpoint) -> Array:
    """The samples of a recording, or the rows or pixels of an image, as frames of the model."""
    data, size = checkpoint.data, checkpoint.model.likelihood.size
    if data.data_type == "audio" and values.ndim == 1:
        return audio.frame(values, size)
    shape = data.image_shape
    is_image = shape is not None and values.shape[-1] in (1, shape[1]) and values.ndim <= 2
    return values.reshape(-1, size) if is_image and values.size % size == 0 else values
