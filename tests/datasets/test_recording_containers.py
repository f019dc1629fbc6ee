"""Every container that libsndfile reads is found; other files are counted and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from zpyro import UserError, datasets
from zpyro.datasets.formats import audio
from zpyro.datasets.prepared import prepare

TONE = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)

CONTAINERS = {
    "AIFF": ("aiff", "aif", "aifc", "AIFF"),
    "AU": ("au", "snd"),
    "AVR": ("avr",),
    "CAF": ("caf",),
    "FLAC": ("flac", "FLAC"),
    "IRCAM": ("ircam", "sf"),
    "MP3": ("mp3",),
    "NIST": ("nist", "sph"),
    "OGG": ("ogg", "oga", "Ogg"),
    "PAF": ("paf",),
    "PVF": ("pvf",),
    "RF64": ("rf64", "wav"),
    "SVX": ("svx", "8svx"),
    "VOC": ("voc",),
    "W64": ("w64",),
    "WAV": ("wav", "wave", "bwf"),
    "WAVEX": ("wav",),
}


@pytest.mark.parametrize(
    ("container", "extension"),
    [(name, each) for name, found in CONTAINERS.items() for each in found],
)
def test_every_container_is_found_and_read(tmp_path: Path, container: str, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    subtype = "PCM_16" if container in ("AU", "NIST", "AVR", "IRCAM", "PAF", "PVF") else None
    soundfile.write(path, TONE, 16_000, format=container, subtype=subtype)
    assert audio.find(tmp_path) == [path]
    waveform, rate = audio.read(path)
    assert rate == 16_000
    assert len(waveform) == pytest.approx(16_000, abs=10)
    assert waveform.std() == pytest.approx(TONE.std(), rel=0.05)
    assert audio.left_out(tmp_path) == ()


def test_opus_is_found_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    soundfile.write(path, TONE, 16_000, format="OGG", subtype="OPUS")
    assert audio.find(tmp_path) == [path]
    assert audio.read(path)[0].std() == pytest.approx(TONE.std(), rel=0.05)


def test_all_that_libsndfile_has_is_known() -> None:
    """A new container of libsndfile is found by its name, without another table."""
    extensions = {f".{name.lower()}" for name in soundfile.available_formats()}
    assert extensions - audio.EXTENSIONS == {".raw", ".mat4", ".mat5", ".htk", ".sd2", ".xi"}


OTHERS = ("b.m4a", "below/c.m4a", "d.wma", "e.webm", "notes.txt", "README", "f.wav.part")


@pytest.mark.parametrize("name", ["wav", "blizzard"])
def test_other_files_are_counted_and_named(tmp_path: Path, name: str) -> None:
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.ogg", TONE, 16_000)
    (tmp_path / "below").mkdir()
    for other in OTHERS:
        (tmp_path / other).write_bytes(b"something")
    (tmp_path / ".hidden").write_bytes(b"not counted")
    more = {} if name == "wav" else {"segment_length": 4}
    data = datasets.load(name, tmp_path, **more)
    expected = (
        "left out, not readable as audio: 2 .m4a, 1 .part, 1 .txt, 1 .webm, 1 .wma,"
        " 1 without suffix (README, b.m4a, below/c.m4a, and 4 more)"
    )
    assert expected in data.notes


def test_prepared_data_keep_the_notes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        soundfile.write(source / f"{number}.aiff", np.stack([TONE, -TONE], axis=1), 16_000)
    (source / "x.m4a").write_bytes(b"something")
    entry = datasets.entry("blizzard")
    assert entry.corpus is not None
    settings = entry.settings(segment_length=4)
    store = prepare(entry.corpus, source, tmp_path / "out", settings)
    for notes in (
        store.dataset().notes,
        datasets.load("blizzard", tmp_path / "out", settings).notes,
    ):
        assert any("cancel" in note and "6 recordings" in note for note in notes)
        assert "left out, not readable as audio: 1 .m4a (x.m4a)" in notes


def test_a_folder_of_other_files_names_what_can_be_read(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.m4a").write_bytes(b"something")
    with pytest.raises(
        UserError, match=r"holds no recordings \(.*flac.*ogg.*wav.*\), left out.* 3 \.m4a"
    ):
        datasets.load("wav", tmp_path)


def test_files_named_as_recordings_must_be_some(tmp_path: Path) -> None:
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.flac", TONE, 16_000)
    (tmp_path / "x.ogg").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"x\.ogg: cannot be read as audio"):
        datasets.load("wav", tmp_path)
