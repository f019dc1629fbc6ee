"""MIDI files byte by byte: what is read from them, and what is refused in one line."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import zpyro
from zpyro import UserError
from zpyro.datasets.formats import midi
from zpyro.datasets.sequences import Normalization

pytestmark = pytest.mark.fast
pytest.importorskip("mido", reason="the extra music is not installed")

TICKS = 96
END = b"\x00\xff\x2f\x00"


def varint(number: int) -> bytes:
    found = [number & 0x7F]
    while number := number >> 7:
        found.append(0x80 | number & 0x7F)
    return bytes(reversed(found))


def track(*events: tuple[int, bytes]) -> bytes:
    """A track of messages, each so many ticks after the one before."""
    return b"".join(varint(ticks) + message for ticks, message in events) + END


def on(note: int, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, note, 64])


def off(note: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, note, 0])


def pedal(value: int) -> bytes:
    return bytes([0xB0, 64, value])


def tempo(microseconds: int) -> bytes:
    return b"\xff\x51\x03" + microseconds.to_bytes(3, "big")


def smf(*tracks: bytes, kind: int = 1, division: int = TICKS) -> bytes:
    header = b"MThd" + struct.pack(">IHHh", 6, kind, len(tracks), division)
    return header + b"".join(b"MTrk" + struct.pack(">I", len(t)) + t for t in tracks)


def written(folder: Path, content: bytes, name: str = "a.mid") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def spans(roll: np.ndarray) -> list[tuple[int, int, int]]:
    """MIDI number, first frame, and the one after the last of each note."""
    return [(21 + key, begin, end) for key, begin, end in midi.notes(roll)]


def read_one(folder: Path, content: bytes, grid: int = 4) -> list[tuple[int, int, int]]:
    (piece,) = midi.read(written(folder, content), grid)
    return spans(piece.roll)


def test_notes_are_put_on_the_grid(tmp_path: Path) -> None:
    # 24 ticks a frame: begins at 0, 11 (down), 12 (up); ends at 35 (down), 36 (up).
    events = [
        (0, on(60)),
        (11, on(62)),
        (1, on(64)),
        (23, off(60)),
        (1, off(62)),
        (60, off(64)),
    ]
    assert read_one(tmp_path, smf(track(*events))) == [(60, 0, 1), (62, 0, 2), (64, 1, 4)]
    assert read_one(tmp_path, smf(track(*events)), 1) == [(60, 0, 1), (62, 0, 1), (64, 0, 1)]


def test_changes_of_tempo_move_nothing(tmp_path: Path) -> None:
    notes = [(0, on(60)), (TICKS, off(60)), (0, on(62)), (TICKS, off(62))]
    plain = read_one(tmp_path, smf(track(*notes), kind=0))
    changed = [notes[0], (10, tempo(250_000)), (TICKS - 10, off(60)), (0, tempo(999_999))]
    assert read_one(tmp_path, smf(track(*changed, *notes[2:]), kind=0)) == plain
    assert read_one(tmp_path, smf(track((0, tempo(1))), track(*notes))) == plain
    assert plain == [(60, 0, 4), (62, 4, 8)]


def test_a_note_may_end_by_no_velocity_anew_or_never(tmp_path: Path) -> None:
    silent = bytes([0x90, 60, 0])
    assert read_one(tmp_path, smf(track((0, on(60)), (48, silent)))) == [(60, 0, 2)]
    # Running status: the second message has no status byte.
    assert read_one(tmp_path, smf(track((0, on(60)), (48, silent[1:])))) == [(60, 0, 2)]
    again = track((0, on(60)), (24, on(60)), (24, off(60)), (24, off(60)))
    assert read_one(tmp_path, smf(again)) == [(60, 0, 2)]
    assert read_one(tmp_path, smf(track((0, on(60)), (96, tempo(5))))) == [(60, 0, 4)]
    # A short note has one frame.
    assert read_one(tmp_path, smf(track((0, on(60)), (1, off(60))))) == [(60, 0, 1)]


def test_the_pedal_sustains_notes_of_its_channel(tmp_path: Path) -> None:
    events = [(0, pedal(127)), (0, on(60)), (0, on(50, 1)), (24, off(60)), (0, off(50, 1))]
    found = read_one(tmp_path, smf(track(*events, (48, pedal(0)), (24, on(62)), (24, off(62)))))
    assert found == [(50, 0, 1), (60, 0, 3), (62, 4, 5)]
    # Struck again while it is held, and held until the end.
    again = track(*events, (24, on(60)), (24, off(60)), (24, tempo(5)))
    assert read_one(tmp_path, smf(again)) == [(50, 0, 1), (60, 0, 4)]


def test_percussion_and_other_notes_are_left_out(tmp_path: Path) -> None:
    events = [(0, on(20)), (0, on(109)), (0, on(60, 9)), (0, on(21)), (0, on(108))]
    ends = [(24, off(20)), (0, off(109)), (0, off(60, 9)), (0, off(21)), (0, off(108))]
    (piece,) = midi.read(written(tmp_path, smf(track(*events, *ends))), 4)
    assert spans(piece.roll) == [(21, 0, 1), (108, 0, 1)]
    assert (piece.beyond, piece.percussion) == (2, 1)


def test_types_zero_one_and_two(tmp_path: Path) -> None:
    first, second = (track((0, on(note)), (24, off(note))) for note in (60, 64))
    assert read_one(tmp_path, smf(first, kind=0)) == [(60, 0, 1)]
    assert read_one(tmp_path, smf(first, second, kind=1)) == [(60, 0, 1), (64, 0, 1)]
    # Tracks of type 2 are pieces of their own.
    pieces = midi.read(written(tmp_path, smf(first, second, kind=2)), 4)
    assert [spans(piece.roll) for piece in pieces] == [[(60, 0, 1)], [(64, 0, 1)]]


def test_a_roll_comes_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    roll = (random.random((40, 88)) < 0.1).astype(np.uint8)
    roll[-1, 5] = 1
    for grid in (1, 2, 3, 4, 7, 96):
        midi.write(tmp_path / "a.mid", roll, grid)
        (piece,) = midi.read(tmp_path / "a.mid", grid)
        np.testing.assert_array_equal(piece.roll, roll)


def test_notes_of_a_roll() -> None:
    roll = np.zeros((6, 88), np.uint8)
    roll[0:2, 3] = roll[3:6, 3] = roll[2, 0] = 1
    assert midi.notes(roll) == [(3, 0, 2), (0, 2, 3), (3, 3, 6)]
    assert midi.notes(np.zeros((2, 88), np.uint8)) == []


# -- files that nobody should write ---------------------------------------------------------------

NOTE = track((0, on(60)), (24, off(60)))
BAD = {
    "no notes": (smf(track((0, tempo(5)))), "has no notes; remove it"),
    "no tracks": (smf(), "has no notes"),
    "beyond": (smf(track((0, on(110)))), "has no notes (1 beyond the 88 keys and 0 of percussion"),
    "drums": (smf(track((0, on(60, 9)))), "(0 beyond the 88 keys and 1 of percussion"),
    "cut": (smf(NOTE)[:-6], "is cut short"),
    "half a header": (smf(NOTE)[:10], "is"),
    "not MIDI": (b"RIFF" + smf(NOTE), "is not a MIDI file"),
    "data byte": (smf(track((0, bytes([0x90, 200, 64])))), "is damaged"),
    "seconds": (smf(NOTE, division=-25 * 256 + 40), "has no ticks in a quarter note"),
    "no division": (smf(NOTE, division=0), "has no ticks in a quarter note"),
    "absurd time": (smf(track((0, on(60)), (0xFFFFFFF, off(60)))), "lasts 11,184,811 frames"),
    "a long number": (smf(track((1 << 700, on(60)), (1, off(60)))), "lasts"),
    "sixteen megabytes of text": (smf(b"\x00\xff\x01" + varint(1 << 24)), "is"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    content, message = BAD[what]
    path = written(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            midi.read(path, 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 5_000_000


# -- directories of files -------------------------------------------------------------------------


def folder_of(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(smf(track((0, on(50 + number)), (24 + 24 * number, off(50 + number)))))
    return root


def test_named_directories_are_splits(tmp_path: Path) -> None:
    names = ["train/a.mid", "train/b.MIDI", "valid/c.mid", "test/d.mid", "other/e.mid"]
    data = zpyro.datasets.load("music", folder_of(tmp_path, names))
    assert data.train.names == ("train/a.mid", "train/b.MIDI")
    assert (data.valid.names, data.test.names) == (("valid/c.mid",), ("test/d.mid",))
    assert data.train.steps_per_quarter == 4
    assert any("other/" in note for note in data.notes)
    grid = "MIDI files are put on a grid of 4 frames in a quarter note (data.grid)"
    assert data.notes[0] == grid
    assert dict(zpyro.datasets.describe(data))["tempo of samples"].startswith("4 frames")


def test_other_files_are_split_by_a_hash_of_their_names(tmp_path: Path) -> None:
    data = zpyro.datasets.load("music", folder_of(tmp_path, [f"{i}.mid" for i in range(10)]))
    assert [len(split) for split in (data.train, data.valid, data.test)] == [8, 1, 1]
    chosen = zpyro.datasets.load("music", tmp_path, valid_files="[12].mid", test_files="3.mid")
    assert chosen.valid.names == ("1.mid", "2.mid")
    # One file can be scored.
    settings = zpyro.datasets.entry("music").settings()
    only = zpyro.datasets.load_all("music", tmp_path / "3.mid", settings, data.train.normalization)
    assert spans(only.values[0]) == [(53, 0, 4)]


def test_files_of_a_directory_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{i}.mid" for i in range(10)])
    (tmp_path / "3.mid").write_bytes(b"MThd")
    (tmp_path / "4.mid").write_bytes(b"")
    with pytest.raises(UserError, match=r"\d.mid: is .*"):
        zpyro.datasets.load("music", tmp_path)
    empty = folder_of(tmp_path / "none", ["a.txt"])
    with pytest.raises(UserError, match=r"holds no MIDI files .*; give .*JSB_Chorales\.mat"):
        zpyro.datasets.load("music", empty)
    with pytest.raises(UserError, match="is one MIDI file; give a directory"):
        zpyro.datasets.load("music", tmp_path / "5.mid")


def test_bad_files_of_all_splits_are_counted(tmp_path: Path) -> None:
    drums = smf(track((0, on(40, 9)), (TICKS, off(40, 9))))
    for number in range(8):
        written(tmp_path, drums, f"d{number}.mid")
    expected = (
        f"{tmp_path / 'd0.mid'}: has no notes (0 beyond the 88 keys and 1 of percussion are left"
        " out); remove it (and 7 more files like it)"
    )
    for load in (zpyro.datasets.load, load_all):
        with pytest.raises(UserError) as caught:
            load("music", tmp_path)
        assert str(caught.value) == expected


def load_all(name: str, path: Path) -> None:
    settings = zpyro.datasets.entry(name).settings()
    zpyro.datasets.load_all(name, path, settings, Normalization())


def test_a_directory_with_files_of_rolls_names_them(tmp_path: Path) -> None:
    for name in ("Nottingham.mat", "JSB_Chorales.MAT", "chorales.json", "README.md"):
        (tmp_path / name).write_bytes(b"")
    for load in (zpyro.datasets.load, load_all):
        with pytest.raises(UserError) as caught:
            load("music", tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: holds no MIDI files (.mid, .midi, .smf); give one of its files of rolls:"
            " JSB_Chorales.MAT, Nottingham.mat, chorales.json"
        )


def test_the_absence_of_mido_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    with pytest.raises(UserError, match=r'pip install "zpyro\[music\]"'):
        midi.read(written(tmp_path, smf(NOTE)), 4)
