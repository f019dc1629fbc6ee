"""``timit``: the TIMIT corpus of read sentences (licensed), and NLTK's sample of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zpyro.datasets import audio
from zpyro.datasets.audio import Waveform
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.wav import WavSettings, to_sequences, waveform_normalization
from zpyro.errors import UserError
from zpyro.settings import setting

RATE = 16_000
TRAIN_UTTERANCES, TEST_UTTERANCES = 4620, 1680
"""Of the whole corpus."""

TREE = (
    "TIMIT/TRAIN/DR1/FCJF0/SA1.WAV and TIMIT/TEST/DR1/FAKS0/SA1.WAV (NIST SPHERE or RIFF; names in"
    " upper or lower case)"
)
MISSING = (
    "TIMIT is licensed by the Linguistic Data Consortium (LDC93S1); once you have it, point --data"
    f" at its folder, laid out as {TREE}; NLTK's free sample, timit/dr1-fvmh0/sa1.wav, is read too;"
    " right now, run `zpyro train --dataset vowels`"
)

_SENTENCE = r"(?P<sentence>(sa|si|sx)\d+)(\.wav)?\.(wav|sph|nist|flac)"
_SPEAKER = r"(?P<speaker>[fm][a-z]{2}[a-z0-9]\d)"
_PATH = re.compile(rf"((?P<above>.*)/)?(?P<dialect>dr\d)[/-]{_SPEAKER}/{_SENTENCE}")


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


@dataclass(frozen=True)
class Utterance:
    """One sentence of one speaker.

    Attributes:
        path: the recording.
        half: "train", "test", or "" where the layout has no halves.
        dialect: region, "dr1" to "dr8".
        speaker: such as "fcjf0".
        sentence: such as "sa1".
    """

    path: Path
    half: str
    dialect: str
    speaker: str
    sentence: str

    @property
    def key(self) -> str:
        """Speaker and sentence: what the split is drawn by."""
        return f"{self.speaker}/{self.sentence}"

    @property
    def name(self) -> str:
        """As the sequence is called."""
        return "/".join(filter(None, (self.half, self.dialect, self.key)))


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
    waveforms = [read_all(part, settings) for part in parts]
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
    return _whole(found, read_all(found, settings), settings, normalization)


def find(folder: Path) -> list[Utterance]:
    """Every utterance below a folder, sorted by name.

    Where a copy holds ``SA1.WAV.wav`` beside ``SA1.WAV``, the shorter name counts.

    Raises:
        UserError: if there are none, some are there twice, or the layout is of neither kind.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; {MISSING}")
    if folder.resolve().name.lower() in ("train", "test"):
        raise UserError(f"{folder} is one half of TIMIT; point --data at the folder that holds it")
    found: dict[str, Utterance] = {}
    for path in sorted(audio.walk(folder), key=lambda path: (len(path.name), path)):
        utterance = _utterance(path, path.relative_to(folder).as_posix().lower())
        if utterance is None:
            continue
        other = found.setdefault(utterance.key, utterance)
        if other.path.parent != path.parent:
            raise UserError(
                f"{folder} holds {utterance.key} twice, {other.path} and {path};"
                " point --data at one copy of TIMIT"
            )
    if not found:
        raise UserError(f"{folder} holds no utterances of TIMIT; {MISSING}")
    _check_halves(folder, found.values())
    return sorted(found.values(), key=lambda utterance: utterance.name)


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


def read(utterance: Utterance, settings: TimitSettings) -> Waveform:
    """The samples of an utterance, 16 kHz.

    Raises:
        UserError: if the file cannot be used or has another rate.
    """
    waveform, rate = audio.read(utterance.path)
    if rate != RATE:
        raise UserError(f"{utterance.path}: has {rate} samples a second; TIMIT has {RATE}")
    if len(waveform) < 2 * settings.frame_size:
        raise UserError(
            f"{utterance.path}: has {len(waveform)} samples; two frames of {settings.frame_size}"
            " are needed; remove it"
        )
    return waveform


def read_all(utterances: Sequence[Utterance], settings: TimitSettings) -> list[Waveform]:
    """The samples of utterances.

    Raises:
        UserError: naming the first file that cannot be used, and how many more there are.
    """
    waveforms: list[Waveform] = []
    problems: list[UserError] = []
    for utterance in utterances:
        try:
            waveforms.append(read(utterance, settings))
        except UserError as problem:
            problems.append(problem)
    if problems:
        more = f" (and {len(problems) - 1} more files like it)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}")
    return waveforms


def _utterance(path: Path, name: str) -> Utterance | None:
    match = _PATH.fullmatch(name)
    if match is None:
        return None
    parts = match.group("dialect"), match.group("speaker"), match.group("sentence")
    above = (match.group("above") or "").rpartition("/")[2]
    return Utterance(path, above if above in ("train", "test") else "", *parts)


def _check_halves(folder: Path, utterances: Iterable[Utterance]) -> None:
    halves = {utterance.half: utterance.path for utterance in utterances}
    if len(halves) > 1 and "" in halves:
        raise UserError(f"{halves['']} lies in neither TRAIN nor TEST; point --data at {TREE}")
    if set(halves) in ({"train"}, {"test"}):
        missing = "TEST" if "train" in halves else "TRAIN"
        raise UserError(f"{folder} has no utterances in {missing}; point --data at {TREE}")


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
