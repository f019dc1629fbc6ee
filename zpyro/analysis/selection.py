"""Sequences that a user names: by name or number in a split, a file, or a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zpyro import datasets
from zpyro.datasets.sequences import Array, Normalization, Sequences
from zpyro.datasets.vocabulary import END
from zpyro.errors import UserError
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.runs import Run

SHOWN_NAMES = 3


def find(sequences: Sequences, wanted: str, split: str) -> int:
    """Where the sequence of that name stands, or the one of that number, counted from 0.

    Args:
        sequences: a split that is not empty.
        wanted: a name, or a number.
        split: what to call the split in an error.

    Raises:
        UserError: if there is none.
    """
    names = list(sequences.names)
    if wanted in names:
        return names.index(wanted)
    if not wanted.lstrip("-").isdecimal():
        # Nearness is judged on names alone: they may be many, those shown are few.
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


def choose(sequences: Sequences, wanted: Sequence[str], split: str, *, first: int) -> list[int]:
    """The places of the wanted sequences, each once.

    Args:
        sequences: what to choose from.
        wanted: names, or numbers from 0; none for the first ones.
        split: what to call the sequences in an error.
        first: how many of the first ones.

    Raises:
        UserError: for a number out of range, or a name that is not there.
    """
    if not wanted:
        return list(range(min(first, len(sequences))))
    return list(dict.fromkeys(find(sequences, each, split) for each in wanted))


def load_split(
    run: Run, checkpoint: Checkpoint, split: str, data_folder: Path | None = None
) -> Sequences:
    """A split of the data that a run was trained on, on the scale of its training.

    Args:
        run: whose settings name the data.
        checkpoint: whose scale and vocabulary count.
        split: "train", "valid", "test" or "all".
        data_folder: where the data are now; by default where they were at training.

    Raises:
        UserError: if the data are gone, are of another shape than the model's, or the split is
            unknown or empty.
    """
    config = run.config()
    folder = data_folder
    if folder is None and config.data_folder is not None:
        folder = Path(config.data_folder)
    data = datasets.load(config.dataset, folder, config.data, vocabulary=checkpoint.vocabulary)
    found = data.split(split)
    if len(found) == 0:
        raise UserError(f"the {split} split of {config.dataset} is empty; choose another split")
    return renormalize_like(checkpoint, found)


def renormalize_like(checkpoint: Checkpoint, sequences: Sequences) -> Sequences:
    """The sequences on the scale that a model was trained on.

    Raises:
        UserError: if they are of another kind than the model reads.
    """
    data, likelihood = checkpoint.data, checkpoint.module.likelihood
    size = 1 if data.data_type == "tokens" else likelihood.size
    if (sequences.data_type, sequences.frame_size) != (data.data_type, size):
        found, wanted = (
            _described(sequences.data_type, sequences.frame_size),
            _described(data.data_type, size),
        )
        raise UserError(
            f"the data are {found}, the run was trained on {wanted}; point --data at such"
        )
    if sequences.sample_rate != data.sample_rate:
        raise UserError(
            f"the data have {sequences.sample_rate} samples a second, this run was trained on "
            f"{data.sample_rate}; resample them"
        )
    if likelihood.discrete_tokens:
        largest = max((int(np.max(value)) for value in sequences.values), default=0)
        if largest >= likelihood.size:
            raise UserError(
                f"the data hold token {largest}, this run knows {likelihood.size}; "
                "give data with the same vocabulary"
            )
    return sequences.renormalized(Normalization(data.mean, data.scale))


def _described(kind: str, size: int) -> str:
    return kind if kind == "tokens" else f"{kind} of {size} numbers a frame"


def check_frames(checkpoint: Checkpoint, frames: Array, name: str, *, least: int = 1) -> None:
    """See that raw frames (P, D) or tokens (P,) are what a model was trained on.

    Args:
        checkpoint: the model and what it knows of its data.
        frames: the raw frames.
        name: what to call them in an error.
        least: the smallest P.

    Raises:
        UserError: if there are too few of them, they have another shape, or are no tokens or bits.
    """
    likelihood = checkpoint.module.likelihood
    event = tuple(likelihood.event_shape)
    if frames.ndim != 1 + len(event) or frames.shape[1:] != event or len(frames) < least:
        wanted = "(P,)" if not event else f"(P, {event[0]})"
        raise UserError(
            f"{name}: has shape {frames.shape}; it must be {wanted} with P at least {least}"
        )
    if likelihood.discrete_tokens and (
        (frames % 1 != 0).any() or frames.min() < 0 or frames.max() >= likelihood.size
    ):
        raise UserError(
            f"{name}: has other numbers than the tokens 0 to {likelihood.size - 1}; mend them"
        )
    if checkpoint.data.data_type == "binary" and not np.isin(frames, (0, 1)).all():
        raise UserError(f"{name}: has values other than 0 and 1; make it binary first")


def sequence_from_array(checkpoint: Checkpoint, frames: Array, name: str) -> Sequences:
    """Raw frames (P, D) or tokens (P,) as one sequence of the kind that a model was trained on.

    Where the data have start frames, the first one is it.

    Raises:
        UserError: if there are too few of them, or they have another shape or are no tokens.
    """
    data = checkpoint.data
    check_frames(checkpoint, frames, name, least=1 if checkpoint.start is None else 2)
    scale = Normalization(data.mean, data.scale)
    plain = data.data_type in ("tokens", "binary")
    whole = np.int64 if data.data_type == "tokens" else np.float32
    values = frames.astype(whole) if plain else scale.apply(frames)
    start = None
    if checkpoint.start is not None:
        start, values = values[:1], values[1:]
    return Sequences(
        values=(values,),
        names=(name,),
        start=start,
        normalization=Normalization() if plain else scale,
        sample_rate=data.sample_rate,
        data_type=data.data_type,
        image_shape=data.image_shape,
    )


def of_sentence(checkpoint: Checkpoint, sentence: str) -> Sequences:
    """A sentence, and its end, as one sequence of tokens.

    Raises:
        UserError: if the model is none of text, or the sentence is empty.
    """
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        raise UserError(f"{sentence!r} is a sentence, and this run is none of text")
    words = vocabulary.split(sentence.strip())
    if not words:
        raise UserError("the sentence is empty; give words")
    tokens = np.append(vocabulary.encode(words), END)
    return sequence_from_array(checkpoint, tokens, sentence)


def looks_like_file(wanted: str) -> bool:
    """Whether something is meant as a file: it is there, or its name ends as one's."""
    path = Path(wanted)
    try:
        there = path.is_file()
    except OSError:
        # A long sentence is no file name.
        return False
    return there or path.suffix.lower() in (".wav", ".flac", ".mp3", ".npy", ".txt", ".ogg")
