"""``timit``: the TIMIT corpus of read sentences (licensed), and NLTK's sample of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zpyro.datasets.audio import Waveform
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.timit_files import MISSING, RATE, Utterance, find, read_all
from zpyro.datasets.wav import WavSettings, to_sequences, waveform_normalization
from zpyro.errors import UserError
from zpyro.settings import setting

__all__ = ["MISSING", "TimitSettings", "describe", "load", "load_all", "split"]

TRAIN_UTTERANCES, TEST_UTTERANCES = 4620, 1680
"""Of the whole corpus."""


@dataclass(frozen=True)
class TimitSettings:
    """How utterances become sequences; as published (arXiv:1711.05411, section 5)."""

    frame_size: int = setting(200, "samples in a frame", at_least=1)
    row_frames: int = setting(40, "scored frames in a row of train and validation", at_least=1)
    concatenate: bool = setting(
        True, "join utterances before rows are cut; else rows end with their utterance"
    )
    valid_fraction: float = setting(
        0.05, "share of the training utterances that validates", above=0, below=1
    )
    test_fraction: float = setting(
        0.1, "share of the speakers tested where there is no TEST half", above=0, below=1
    )


Split = tuple[list[Utterance], list[Utterance], list[Utterance]]


def load(folder: Path, settings: TimitSettings) -> Dataset:
    """Read TIMIT from a copy of its disc, or from NLTK's sample.

    Train and validation utterances, in the order of their names, are joined and cut into rows of 40
    scored frames as published; so a frame at the end of an utterance is followed by the beginning
    of the next one (``data.concatenate=false`` keeps rows within utterances). Each test utterance
    is one sequence, whole but for a last frame that is not full. The first frame of each sequence
    is its start frame: conditioned on, not scored. The scale is that of the training samples.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    parts = split(find(folder), settings)
    waveforms = [read_all(part, settings.frame_size) for part in parts]
    normalization = waveform_normalization(waveforms[0])
    train, valid = (
        _rows(name, [u.name for u in part], found, settings, normalization)
        for name, part, found in zip(("train", "valid"), parts, waveforms, strict=False)
    )
    test = _whole(parts[2], waveforms[2], settings, normalization)
    notes = (describe(parts),)
    return Dataset("timit", train, valid, test, "gaussian", settings.frame_size, notes)


def load_all(folder: Path, settings: TimitSettings, normalization: Normalization) -> Sequences:
    """Every utterance of a folder whole, as one split, normalised as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    found = find(folder)
    return _whole(found, read_all(found, settings.frame_size), settings, normalization)


def split(utterances: Sequence[Utterance], settings: TimitSettings) -> Split:
    """Train, validation and test utterances.

    The disc's TEST half is the test. NLTK's sample has no halves: there all sentences of some
    speakers are the test, so that as in TIMIT nobody is heard in both. Of the other utterances
    some validate. Which ones depends on a hash of speaker and sentence alone.

    Raises:
        UserError: if one of them would be empty.
    """
    if any(utterance.half for utterance in utterances):
        test = [utterance for utterance in utterances if utterance.half == "test"]
    else:
        speakers = _some({u.speaker for u in utterances}, settings.test_fraction)
        test = [utterance for utterance in utterances if utterance.speaker in speakers]
    tested = {utterance.key for utterance in test}
    rest = [utterance for utterance in utterances if utterance.key not in tested]
    held_out = _some({utterance.key for utterance in rest}, settings.valid_fraction)
    valid = [utterance for utterance in rest if utterance.key in held_out]
    train = [utterance for utterance in rest if utterance.key not in held_out]
    if not (train and valid and test):
        raise UserError(
            f"TIMIT with {len(utterances)} utterances gives {len(train)} to train on, {len(valid)}"
            f" to validate and {len(test)} to test; give more of it"
        )
    return train, valid, test


def describe(parts: Split) -> str:
    """How many utterances there are, and what that says of the copy."""
    train, valid, test = map(len, parts)
    counts = f"{train} + {valid} utterances to train and validate, {test} to test"
    if not parts[2][0].half:
        speakers = sorted({utterance.speaker for utterance in parts[2]})
        return f"{counts}; there is no TEST half, the test is all of {', '.join(speakers)}"
    if (train + valid, test) != (TRAIN_UTTERANCES, TEST_UTTERANCES):
        return f"{counts}; the whole corpus has {TRAIN_UTTERANCES} and {TEST_UTTERANCES}"
    return counts


def _some(names: set[str], fraction: float) -> set[str]:
    """A share of the names, at least one: those with the least hashes."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ranked[: max(1, round(fraction * len(ranked)))])


def _rows(
    split_name: str,
    names: Sequence[str],
    waveforms: Sequence[Waveform],
    settings: TimitSettings,
    normalization: Normalization,
) -> Sequences:
    """Rows of train or validation."""
    cutting = WavSettings(frame_size=settings.frame_size, row_frames=settings.row_frames)
    if not settings.concatenate:
        return to_sequences(names, waveforms, RATE, cutting, normalization)
    rows = to_sequences([split_name], [np.concatenate(waveforms)], RATE, cutting, normalization)
    whole = rows[[i for i, row in enumerate(rows.values) if len(row) == settings.row_frames]]
    if not len(whole):
        raise UserError(f"the {split_name} utterances fill no row of {settings.row_frames} frames")
    return whole


def _whole(
    utterances: Sequence[Utterance],
    waveforms: Sequence[Waveform],
    settings: TimitSettings,
    normalization: Normalization,
) -> Sequences:
    framing = WavSettings(frame_size=settings.frame_size)
    names = [utterance.name for utterance in utterances]
    return to_sequences(names, waveforms, RATE, framing, normalization)
