"""TIMIT from copies of its disc and from NLTK's sample, written here in the original formats."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.datasets.test_audio import write_sphere
from tests.datasets.test_mnist import in_memory
from zpyro import UserError, datasets
from zpyro.datasets import timit, timit_files
from zpyro.datasets.formats import audio
from zpyro.datasets.prepared import prepare
from zpyro.datasets.sequences import Normalization
from zpyro.datasets.timit import Timit, TimitSettings

FRAME = 20
SENTENCES = ("SA1", "SA2", "SI648", "SX307", "SX37")


def codes(utterance: int, frames: int) -> np.ndarray:
    """Samples that say which utterance and which frame they are of, as 16-bit numbers."""
    return np.repeat(100 * utterance + np.arange(frames), FRAME).astype(np.int16)


def write_disc(folder: Path, *, lower: bool = False, sphere: bool = True) -> list[str]:
    """Three training and two test speakers, frames coded; the names in order."""
    names = []
    halves = {"TRAIN": ("DR1/FCJF0", "DR1/MCPM0", "DR8/MTCS0"), "TEST": ("DR1/FAKS0", "DR2/MWEW0")}
    for half, speakers in halves.items():
        for speaker, sentence in itertools.product(speakers, SENTENCES):
            name = f"{half}/{speaker}/{sentence}.WAV"
            path = folder / (name.lower() if lower else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = codes(len(names), 12 + len(names))
            if sphere:
                write_sphere(path, samples / 32767, 16_000)
            else:
                soundfile.write(path, samples, 16_000, subtype="PCM_16", format="WAV")
            path.with_suffix(".TXT").write_text("0 1 Not a recording.")
            names.append(name.lower().removesuffix(".wav"))
    return names


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    write_disc(tmp_path / "TIMIT")
    return tmp_path / "TIMIT"


def load(folder: Path, **changes: Any) -> datasets.Dataset:
    """As the command line loads it, prepared in one process and into a place of its own."""
    settings = TimitSettings(**{"frame_size": FRAME, "segment_length": 5, **changes})
    with TemporaryDirectory() as place:
        return in_memory(Timit().dataset(prepare(Timit(), folder, Path(place) / "out", settings)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are prepared on first use."""
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def frame_codes(sequences: datasets.Sequences) -> list[np.ndarray]:
    """The code of every frame, the start frame first, of each sequence."""
    assert sequences.start is not None
    found = []
    for start, value in zip(sequences.start, sequences.values, strict=True):
        frames = sequences.normalization.invert(np.concatenate([start[None], value])) * 32768
        rounded = np.rint(frames).astype(int)
        assert (rounded == rounded[:, :1]).all()
        found.append(rounded[:, 0])
    return found


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("root", ["", "timit", "cd/TIMIT"])
def test_every_copy_of_the_disc_gives_the_same(
    tmp_path: Path, disc: Path, lower: bool, sphere: bool, root: str
) -> None:
    copy = tmp_path / "copy"
    write_disc(copy / root, lower=lower, sphere=sphere)
    expected, found = load(disc), load(copy)
    for name in ("train", "valid", "test"):
        one, other = expected.split(name), found.split(name)
        assert one.names == other.names
        for first, second in zip(frame_codes(one), frame_codes(other), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.fast
def test_test_utterances_are_whole(disc: Path, tmp_path: Path) -> None:
    names = write_disc(tmp_path / "again")
    test = load(disc).test
    assert list(test.names) == names[15:]
    for number, found in zip(range(15, 25), frame_codes(test), strict=True):
        np.testing.assert_array_equal(found, 100 * number + np.arange(12 + number))
    batch = test.batch()
    assert batch.lengths.tolist() == [11 + number for number in range(15, 25)]
    assert (batch.x[0, 26:] == 0).all()


@pytest.mark.fast
def test_joined_rows_are_the_training_utterances_one_after_another(disc: Path) -> None:
    settings = TimitSettings(frame_size=FRAME, segment_length=5)
    data = load(disc)
    train, valid, _ = timit.split(timit_files.find(disc), settings).values()
    assert (len(train), len(valid)) == (14, 1)
    for part, rows in ((train, data.train), (valid, data.valid)):
        numbers = [timit_files.find(disc).index(utterance) for utterance in part]
        numbers = [number - 10 for number in numbers]  # The test sorts before train.
        stream = np.concatenate([100 * n + np.arange(12 + n) for n in numbers])
        found = frame_codes(rows)
        assert set(rows.lengths) == {5}
        assert len(found) == (len(stream) - 1) // 5
        for number, row in enumerate(found):
            np.testing.assert_array_equal(row, stream[5 * number : 5 * number + 6])


@pytest.mark.fast
def test_rows_may_stay_within_utterances(disc: Path) -> None:
    data = load(disc, concatenate=False)
    found = frame_codes(data.train) + frame_codes(data.valid)
    assert all((np.diff(row) == 1).all() for row in found)
    # Every frame but the first of each utterance is scored once.
    assert sum(len(row) - 1 for row in found) == sum(11 + number for number in range(15))


@pytest.mark.fast
def test_the_scale_is_that_of_the_scored_training_samples(disc: Path) -> None:
    data = load(disc)
    scored = np.concatenate([value.reshape(-1) for value in data.train.values]).astype(np.float64)
    assert scored.mean() == pytest.approx(0.0, abs=1e-5)
    assert scored.std() == pytest.approx(1.0, abs=1e-5)
    assert data.test.normalization == data.valid.normalization == data.train.normalization


@pytest.mark.fast
def test_a_part_of_the_corpus_is_told(disc: Path) -> None:
    assert "14 + 1 utterances" in load(disc).notes[0]
    assert "the whole corpus has 4620 and 1680" in load(disc).notes[0]


@pytest.mark.fast
def test_the_published_counts_give_the_published_split() -> None:
    speakers = [f"f{a}{b}{c}0" for a, b, c in itertools.product("abcdefgh", "abcdefgh", "abcdefgh")]
    utterances = [
        timit_files.Utterance(Path(), half, "dr1", speaker, f"sx{number}")
        for half, some in (("train", speakers[:462]), ("test", speakers[462:]))
        for speaker in some
        for number in range(10)
    ]
    train, valid, test = timit.split(utterances, TimitSettings()).values()
    assert (len(train), len(valid), len(test)) == (4389, 231, 500)
    # The rule is a hash of speaker and sentence: no order, path or case of names has a part in it.
    again = timit.split(list(reversed(utterances)), TimitSettings())
    assert {u.key for u in again["valid"]} == {u.key for u in valid}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """As NLTK lays it out."""
    folder = tmp_path / "sample"
    for number, (speaker, sentence) in enumerate(
        itertools.product(("dr1-fvmh0", "dr1-mcpm0", "dr7-madd0"), SENTENCES)
    ):
        path = folder / "timit" / speaker / f"{sentence.lower()}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, codes(number, 12), 16_000, subtype="PCM_16")
    return folder


@pytest.mark.fast
def test_without_a_test_half_whole_speakers_are_tested(sample: Path) -> None:
    settings = TimitSettings()
    train, valid, test = timit.split(timit_files.find(sample), settings).values()
    assert (len(train), len(valid), len(test)) == (9, 1, 5)
    speakers = {utterance.speaker for utterance in test}
    assert len(speakers) == 1
    assert not speakers & {utterance.speaker for utterance in train + valid}
    assert f"the test is all of {speakers.pop()}" in load(sample).notes[0]
    two = timit.split(timit_files.find(sample), TimitSettings(test_fraction=0.6))["test"]
    assert len({utterance.speaker for utterance in two}) == 2


@pytest.mark.fast
def test_other_utterances_take_the_training_scale(sample: Path, cache: Path) -> None:
    settings = TimitSettings(frame_size=FRAME)
    found = datasets.load_all("timit", sample, settings, Normalization(0.5, 2.0))
    assert set(found.lengths) == {11}
    np.testing.assert_allclose(found.values[0][0], (1 / 32768 - 0.5) / 2.0, rtol=1e-5)


@pytest.mark.fast
def test_converted_doubles_are_left_out(disc: Path) -> None:
    before = timit_files.find(disc)
    for utterance in before:
        soundfile.write(f"{utterance.path}.wav", np.zeros(500), 16_000)
    assert timit_files.find(disc) == before
    before[0].path.unlink()
    assert timit_files.find(disc)[0].path.name == "SA1.WAV.wav"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "is cut short"),
        ("empty", "is an empty file"),
        ("magic", "cannot be read as audio"),
        ("shorten", "compressed with shorten"),
        ("loop", "cannot be opened"),
        ("rate", "has 8000 samples a second, not 16000"),
        ("short", "has 30 samples; 40 are needed"),
    ],
)
def test_bad_utterances_are_named(disc: Path, kind: str, message: str) -> None:
    path = disc / "TRAIN" / "DR1" / "FCJF0" / "SX37.WAV"
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[:-40])
    elif kind in ("empty", "magic"):
        path.write_bytes(b"" if kind == "empty" else b"NIST_2B" + whole[7:])
    elif kind == "shorten":
        write_sphere(path, np.zeros(400), 16_000, coding="pcm,embedded-shorten-v2.00")
    elif kind == "loop":
        path.unlink()
        path.symlink_to(path)
    else:
        write_sphere(path, np.zeros(30 if kind == "short" else 400), 8000 * (1 + (kind == "short")))
    with pytest.raises(UserError, match=message) as caught:
        load(disc)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_several_bad_utterances_are_counted(disc: Path) -> None:
    for path in (disc / "TRAIN" / "DR1" / "FCJF0").glob("*.WAV"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"is an empty file.*\(and [34] more files like it\)"):
        load(disc)


@pytest.mark.fast
def test_other_folders_are_told_what_is_expected(disc: Path, tmp_path: Path) -> None:
    for data in (None, tmp_path / "nothing", tmp_path / "void"):
        (tmp_path / "void").mkdir(exist_ok=True)
        with pytest.raises(UserError) as caught:
            datasets.load("timit", data)
        for words in (
            "licensed",
            "Linguistic Data Consortium",
            "LDC93S1",
            "TRAIN/DR1/FCJF0/SA1.WAV",
        ):
            assert words in str(caught.value)
    with pytest.raises(UserError, match="is one half of TIMIT"):
        datasets.load("timit", disc / "TRAIN")
    (disc / "TEST").rename(tmp_path / "aside")
    with pytest.raises(UserError, match="has no utterances in TEST"):
        datasets.load("timit", disc)


@pytest.mark.fast
def test_two_copies_are_told(disc: Path) -> None:
    write_disc(disc / "copy", lower=True)
    with pytest.raises(UserError, match=r"holds .* twice"):
        datasets.load("timit", disc)


@pytest.mark.fast
def test_layouts_are_not_mixed(disc: Path) -> None:
    path = disc / "dr3-falk0" / "sa1.wav"
    path.parent.mkdir()
    soundfile.write(path, codes(0, 12), 16_000)
    with pytest.raises(UserError, match=r"sa1\.wav lies in neither TRAIN nor TEST"):
        datasets.load("timit", disc)


@pytest.mark.fast
def test_few_utterances_cannot_be_split(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "dr3-falk0" / "sa1.wav"
    path.parent.mkdir()
    soundfile.write(path, codes(0, 30), 16_000)
    with pytest.raises(UserError, match="too few sequences for three splits"):
        datasets.load("timit", tmp_path)


@pytest.mark.fast
def test_the_real_sample(data_folder: Path, cache: Path) -> None:
    """Counts and durations only: some of its files are noise at full scale."""
    folder = data_folder / "timit_nltk_sample"
    utterances = timit_files.find(folder)
    assert len(utterances) == 60
    assert len({utterance.speaker for utterance in utterances}) == 6
    samples = {u.name: len(audio.read(u.path)[0]) for u in utterances}
    assert sum(samples.values()) / 16_000 / 60 == pytest.approx(3.0, abs=0.1)
    data = datasets.load("timit", folder)
    train, valid, test = timit.split(utterances, TimitSettings()).values()
    assert (len(train), len(valid), len(test)) == (48, 2, 10)
    assert dict(zip(data.test.names, data.test.lengths.tolist(), strict=True)) == {
        u.name: samples[u.name] // 200 - 1 for u in test
    }
    for part, rows in ((train, data.train), (valid, data.valid)):
        frames = sum(samples[u.name] for u in part) // 200
        assert len(rows) == (frames - 1) // 40
        assert set(rows.lengths) == {40}
