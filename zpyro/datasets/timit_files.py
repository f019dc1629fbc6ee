"""The utterances of TIMIT in a folder: copies of its disc, and NLTK's sample."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zpyro.datasets.formats.audio import EXTENSIONS
from zpyro.datasets.formats.folders import check_folder, relative_name, walk
from zpyro.datasets.splitting import split_of_folder
from zpyro.errors import UserError

RATE = 16_000
TREE = (
    "TIMIT/TRAIN/DR1/FCJF0/SA1.WAV and TIMIT/TEST/DR1/FAKS0/SA1.WAV (NIST SPHERE or RIFF; names in"
    " upper or lower case)"
)
MISSING = (
    "TIMIT is licensed by the Linguistic Data Consortium (LDC93S1); once you have it, point --data"
    f" at its folder, laid out as {TREE}; NLTK's free sample, timit/dr1-fvmh0/sa1.wav, is read too;"
    " right now, run `zpyro train --dataset vowels`"
)

_SUFFIX = "|".join(sorted(re.escape(extension) for extension in EXTENSIONS))
_SENTENCE = rf"(?P<sentence>(sa|si|sx)\d+)(\.wav)?({_SUFFIX})"
_SPEAKER = r"(?P<speaker>[fm][a-z]{2}[a-z0-9]\d)"
_PATH = re.compile(rf"((?P<above>.*)/)?(?P<dialect>dr\d)[/-]{_SPEAKER}/{_SENTENCE}")


@dataclass(frozen=True)
class Utterance:
    """One sentence of one speaker.

    Attributes:
        path: the recording.
        half: "train", "valid", "test", or "" where the layout has no halves.
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


def find(folder: Path) -> list[Utterance]:
    """Every utterance below a folder, sorted by name.

    Where a copy holds ``SA1.WAV.wav`` beside ``SA1.WAV``, the shorter name counts.

    Raises:
        UserError: if there are none, some are there twice, or the layout is of neither kind.
    """
    check_folder(folder, "the folder that holds TRAIN and TEST", MISSING)
    if folder.resolve().name.lower() in ("train", "test"):
        raise UserError(f"{folder} is one half of TIMIT; point --data at the folder that holds it")
    found: dict[str, Utterance] = {}
    for path in sorted(walk(folder), key=lambda path: (len(path.name), path)):
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


def other_recordings(folder: Path) -> list[str]:
    """Relative paths of the recordings below a folder that are no utterances of TIMIT."""
    names = [
        relative_name(path, folder) for path in walk(folder) if path.suffix.lower() in EXTENSIONS
    ]
    return sorted(name for name in names if _PATH.fullmatch(name.lower()) is None)


def _utterance(path: Path, name: str) -> Utterance | None:
    match = _PATH.fullmatch(name)
    if match is None:
        return None
    parts = match.group("dialect"), match.group("speaker"), match.group("sentence")
    half = split_of_folder(PurePosixPath(match.group("above") or ""))
    return Utterance(path, half, *parts)


def _check_halves(folder: Path, utterances: Iterable[Utterance]) -> None:
    halves = {utterance.half: utterance.path for utterance in utterances}
    if len(halves) > 1 and "" in halves:
        raise UserError(f"{halves['']} lies in neither TRAIN nor TEST; point --data at {TREE}")
    missing = {"train", "test"} - halves.keys()
    if missing and "" not in halves:
        found = max(missing).upper()
        raise UserError(f"{folder} has no utterances in {found}; point --data at {TREE}")
