"""Standard MIDI files as rolls of the 88 keys of a piano, and back (needs mido).

Source: "Standard MIDI Files 1.0" (MIDI Manufacturers Association, RP-001). Times are in ticks of a
quarter note, so changes of tempo do not move notes on the grid.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.formats.folders import walk
from zpyro.datasets.formats.plain_files import read_bytes
from zpyro.errors import UserError, printable
from zpyro.io import files

INSTALL = 'MIDI files need mido; pip install "zpyro[music]"'
SUFFIXES = (".mid", ".midi", ".smf")

KEYS = 88
LOWEST = 21
"""MIDI number of the lowest key of a piano; the highest is 108."""

LARGEST_FILE = 1 << 22
"""Bytes of a file; its messages take some hundred times as many in memory."""
LARGEST_FRAMES = 1 << 18
"""Frames of a piece: 4.5 hours at 4 frames in a quarter note and 240 frames a minute."""

TICKS = 480
"""About so many ticks has a quarter note of the files that are written."""
TEMPO = 120
"""Quarter notes a minute of written files, and of sound."""
VELOCITY = 80

_PERCUSSION = 9
_SUSTAIN_PEDAL = 64

Roll = NDArray[np.uint8]
"""(T, 88), 1 where a note sounds."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a MIDI file.

    Attributes:
        roll: (T, 88).
        beyond: notes that no key of a piano has, which are left out.
        percussion: notes of the percussion channel, which are left out.
    """

    roll: Roll
    beyond: int
    percussion: int


def find(folder: Path) -> list[Path]:
    """Every MIDI file below a folder, in the order of their paths.

    Raises:
        UserError: if a folder cannot be read.
    """
    return sorted(path for path in walk(folder) if path.suffix.lower() in SUFFIXES)


def read(path: Path, steps_per_quarter: int) -> list[Piece]:
    """The pieces of a MIDI file: all tracks together, or each track of a file of type 2.

    A note begins at the nearest frame border and ends at the nearest one, after one frame at
    least. It goes on while the sustain pedal of its channel is down. A note that never ends lasts
    until the last message. Percussion (channel 10) and notes beyond the 88 keys are left out.

    Args:
        path: the file.
        steps_per_quarter: frames in a quarter note.

    Raises:
        UserError: if mido is not installed, or the file is damaged, has no notes, counts time in
            seconds, or lasts too long.
    """
    mido = _mido()
    content = read_bytes(path, LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: is larger than {LARGEST_FILE >> 20} MiB; split it")
    if not content.startswith(b"MThd"):
        raise UserError(f"{path}: is not a MIDI file; export it as a standard MIDI file")
    parsed = _parsed(mido, path, content)
    if parsed.ticks_per_beat <= 0:
        raise UserError(
            f"{path}: has no ticks in a quarter note (its time is in seconds, or damaged); export"
            " it in musical time"
        )
    tracks = [_absolute(track) for track in parsed.tracks]
    scale = _Scale(steps_per_quarter, int(parsed.ticks_per_beat))
    parts = [[track] for track in tracks] if parsed.type == 2 else [tracks]
    pieces = [_piece(path, part, scale) for part in parts]
    found = [piece for piece in pieces if len(piece.roll)]
    if not found:
        beyond = sum(piece.beyond for piece in pieces)
        drums = sum(piece.percussion for piece in pieces)
        left = f" ({beyond} beyond the 88 keys and {drums} of percussion are left out)"
        raise UserError(f"{path}: has no notes{left if beyond or drums else ''}; remove it")
    return found


def write(path: Path, roll: Roll, steps_per_quarter: int) -> None:
    """Write a roll as a MIDI file of one track; frames of a note that follow each other are one.

    Args:
        path: the file.
        roll: (T, 88), 1 where a note sounds.
        steps_per_quarter: frames in a quarter note.

    Raises:
        UserError: if mido is not installed, or the file cannot be written.
    """
    mido = _mido()
    step = max(1, TICKS // steps_per_quarter)
    file = mido.MidiFile(type=0, ticks_per_beat=step * steps_per_quarter)
    track = file.add_track()
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(TEMPO)))
    before = 0
    for frame, key, on in _changes(roll):
        name = "note_on" if on else "note_off"
        time, before = (frame - before) * step, frame
        track.append(mido.Message(name, note=LOWEST + key, velocity=VELOCITY, time=time))
    track.append(mido.MetaMessage("end_of_track", time=(len(roll) - before) * step))
    files.replace_file(path, file.save)


def notes(roll: Roll) -> list[tuple[int, int, int]]:
    """Key, first frame and the frame after the last of each note, in the order of first frames."""
    padded = np.pad(np.asarray(roll, np.int8), ((1, 1), (0, 0)))
    edges = np.diff(padded, axis=0).T
    keys, begins = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    order = np.lexsort((keys, begins))
    return [(int(keys[i]), int(begins[i]), int(ends[i])) for i in order]


def _changes(roll: Roll) -> list[tuple[int, int, bool]]:
    """Frame, key, and whether the note begins, in the order of time; ends come first."""
    found: list[tuple[int, int, bool]] = []
    for key, begin, end in notes(roll):
        found += [(begin, key, True), (end, key, False)]
    return sorted(found, key=lambda change: (change[0], change[2], change[1]))


def is_installed() -> bool:
    """Whether MIDI files can be read and written."""
    return importlib.util.find_spec("mido") is not None


def _mido() -> Any:
    try:
        return importlib.import_module("mido")
    except ImportError as error:
        raise UserError(INSTALL) from error


def _parsed(mido: Any, path: Path, content: bytes) -> Any:
    damaged = (OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, struct.error)
    try:
        return mido.MidiFile(file=io.BytesIO(content))
    except EOFError as error:
        raise UserError(f"{path}: is cut short; copy it again") from error
    except (*damaged, mido.KeySignatureError) as error:
        raise UserError(f"{path}: is damaged ({printable(str(error))}); copy it again") from error


@dataclass(frozen=True)
class _Scale:
    """From ticks to frame borders."""

    steps_per_quarter: int
    ticks_per_quarter: int

    def border(self, ticks: int) -> int:
        """The nearest border of frames, halves up."""
        twice = 2 * ticks * self.steps_per_quarter + self.ticks_per_quarter
        return twice // (2 * self.ticks_per_quarter)


Event = tuple[int, Any]
"""Ticks since the beginning, and a message."""


def _absolute(track: Iterable[Any]) -> list[Event]:
    events: list[Event] = []
    now = 0
    for message in track:
        now += message.time
        events.append((now, message))
    return events


@dataclass
class _Channel:
    """Notes of a channel that sound, each by its track and number with the tick of its begin.

    Attributes:
        pressed: whose key is down.
        held: which only the pedal holds.
        pedal: whether it is down.
    """

    pressed: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    held: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    pedal: bool = False


def _piece(path: Path, tracks: list[list[Event]], scale: _Scale) -> Piece:
    """The notes of some tracks that sound together."""
    spans: list[tuple[int, int, int]] = []
    beyond = percussion = 0
    for note, channel, begin, end in _notes(tracks):
        if channel == _PERCUSSION:
            percussion += 1
        elif not 0 <= note - LOWEST < KEYS:
            beyond += 1
        else:
            first = scale.border(begin)
            spans.append((note - LOWEST, first, max(first + 1, scale.border(end))))
    if not spans:
        return Piece(np.zeros((0, KEYS), np.uint8), beyond, percussion)
    length = max(end for _, _, end in spans)
    if length > LARGEST_FRAMES:
        raise UserError(
            f"{path}: lasts {length:,} frames with data.grid {scale.steps_per_quarter}, at most"
            f" {LARGEST_FRAMES:,} are read; split it, or choose a coarser grid"
        )
    # How many notes begin less how many end, so that long notes cost no more than short ones.
    keys, begins, ends = np.array(spans).T
    edges = np.zeros((length + 1, KEYS), np.int32)
    np.add.at(edges, (begins, keys), 1)
    np.add.at(edges, (ends, keys), -1)
    roll = (np.cumsum(edges[:-1], axis=0) > 0).astype(np.uint8)
    return Piece(roll, beyond, percussion)


def _notes(tracks: list[list[Event]]) -> Iterator[tuple[int, int, int, int]]:
    """Number, channel, and ticks of begin and end of each note."""
    events = [
        (tick, number, message)
        for number, track in enumerate(tracks)
        for tick, message in track
        if message.type in ("note_on", "note_off", "control_change")
    ]
    last = max((track[-1][0] for track in tracks if track), default=0)
    channels: dict[int, _Channel] = {}
    for tick, track, message in sorted(events, key=lambda event: event[0]):
        channel = channels.setdefault(message.channel, _Channel())
        if message.type == "control_change":
            if message.control != _SUSTAIN_PEDAL:
                continue
            channel.pedal = message.value >= 64
            if not channel.pedal:
                for (_, note), begin in channel.held.items():
                    yield note, message.channel, begin, tick
                channel.held.clear()
            continue
        place = (track, message.note)
        begin = channel.pressed.pop(place, None)
        if begin is not None and channel.pedal:
            channel.held.setdefault(place, begin)
        elif begin is not None:
            yield message.note, message.channel, begin, tick
        if message.type == "note_on" and message.velocity > 0:
            struck = channel.held.pop(place, None)
            if struck is not None:
                yield message.note, message.channel, struck, tick
            channel.pressed[place] = tick
    for number, channel in channels.items():
        for (_, note), begin in (*channel.pressed.items(), *channel.held.items()):
            yield note, number, begin, last
