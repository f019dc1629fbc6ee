"""Which names stand for a split, and that no others do, for every data set that reads folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from zpyro import datasets
from zpyro.datasets.splitting import (
    describe_split,
    list_files,
    named_splits,
    split_by_name,
    split_named,
)
from zpyro.errors import UserError
from zpyro_cli.main import main

pytestmark = pytest.mark.fast

OTHERS = (
    "train_station.wav",
    "latest.txt",
    "contest.npz",
    "data_test_of_time.csv",
    "pretrain/a.wav",
    "testing/a.wav",
    "my-test/a.wav",
    "train-clean-100/a.flac",
    "dev_tools.txt",
    "valid8.wav",
    "interval.txt",
    "test.final.txt",
    "testament.txt",
    "untrained/valid_until.wav",
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("name", OTHERS)
def test_parts_of_names_stand_for_no_split(name: str) -> None:
    assert split_named(name) == ""


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/a.wav", "train"),
        ("TRAIN/DR1/a.wav", "train"),
        ("Validation/a.wav", "valid"),
        ("val/a.wav", "valid"),
        ("dev/deep/a.wav", "valid"),
        ("speaker/test/a.wav", "test"),
        ("test/train/a.wav", "test"),
        ("test.txt", "test"),
        ("ptb.valid.txt", "valid"),
        ("wiki.Test.tokens", "test"),
        ("dev-2.txt", "valid"),
        ("train-00003-of-00010.txt", "train"),
        ("test", "test"),
    ],
)
def test_whole_names_stand_for_a_split(name: str, split: str) -> None:
    assert split_named(name) == split


def test_names_are_ignored_where_there_is_nothing_to_keep_apart() -> None:
    assert named_splits(["train/a.wav", "dog/b.wav"]) == ["", ""]
    assert describe_split(["train/a.wav", "dog/b.wav"]) == ()


@pytest.mark.parametrize(
    "folder",
    [
        "Test-1",
        "testing",
        "test_clean",
        "eval",
        "Evaluation",
        "held-out",
        "my test",
        "2_val",
        "dev2",
    ],
)
@pytest.mark.parametrize("others", [["train/b.wav"], ["dog/b.wav", "train/c.wav"], ["b.wav"]])
def test_folders_that_are_like_a_split_are_named_where_they_are_shared_out(
    folder: str, others: list[str]
) -> None:
    names = [f"{folder}/a.wav", *others]
    assert named_splits(names) == [""] * len(names)
    (note,) = describe_split(names)
    assert f"{folder}/ (1 file); rename a folder to train, valid or test" in note
    assert "dog" not in note


@pytest.mark.parametrize("folder", ["contest", "Latest", "trainspotting", "evaluated", "devices"])
def test_other_folders_are_not_called_like_a_split(folder: str) -> None:
    assert describe_split([f"{folder}/a.wav", "dog/b.wav"]) == ()


def test_data_info_names_folders_that_are_like_a_split(tmp_path: Path) -> None:
    sound = np.sin(np.arange(2000) / 5) / 2
    for name in ("train/a", "train/b", "train/c", "train/d", "Test-1/e"):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, 8000)
    result = CliRunner().invoke(main, ["data", "info", "wav", "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.replace("│", " ").split())
    assert "Test-1/ (1 file); rename a folder" in told


def test_files_of_no_split_are_left_out_and_named() -> None:
    names = ["train/a.wav", "test/b.wav", "extra/c.wav", "extra/d.wav", "e.wav"]
    assert named_splits(names) == ["", "test", None, None, None]
    told, left_out = describe_split(names)
    assert told.endswith("is train and test; valid is a share of train")
    assert left_out.endswith("extra/ (2 files), e.wav")


def test_without_train_other_files_are_train() -> None:
    names = [f"speaker/{n}.wav" for n in range(10)] + ["test/x.wav"]
    train, valid, test = split_by_name(names, 0.1, 0.5)
    assert test == [10]
    assert len(valid) == 1
    assert sorted(train + valid) == list(range(10))


def test_patterns_come_before_names() -> None:
    names = ["train/a1.wav", "train/a2.wav", "train/b2.wav", "test/a1.wav", "test/b2.wav"]
    train, valid, test = split_by_name(names, 0.1, 0.1, test_files="b2.wav", valid_files="a2.wav")
    # What is in test/ is never trained on, whatever is tested instead.
    assert (train, valid, test) == ([0], [1], [2, 4])


def test_lists_of_files_are_short() -> None:
    names = [f"{n:02}.wav" for n in range(40)] + ["deep/a/b.wav", "deep/c.wav"]
    assert list_files(names) == "deep/ (2 files), 00.wav, 01.wav, 02.wav, 03.wav and 36 more"


def write_recording(path: Path, seed: int, seconds: float = 0.2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, int(16_000 * seconds))
    soundfile.write(path, noise, 16_000)


def write_text(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"line {n} of {path.name} {seed}\n" for n in range(40)), "utf-8")


CASES = [
    ("wav", write_recording, "wav"),
    ("blizzard", write_recording, "wav"),
    ("text", write_text, "txt"),
]
SETTINGS: dict[str, dict[str, Any]] = {"wav": {}, "blizzard": {"segment_length": 2}, "text": {}}


def owners(split: datasets.Sequences) -> set[str]:
    return {name.partition("#")[0] for name in split.names}


@pytest.mark.parametrize(("name", "write", "suffix"), CASES)
@pytest.mark.parametrize("valid", ["valid", "VAL", "dev", ""])
def test_folders_of_splits_are_kept_apart(
    tmp_path: Path, name: str, write: Callable[[Path, int], None], suffix: str, valid: str
) -> None:
    places = ["train/a", "train/b", "train/deep/c", "Test/a", "Test/b", "other/x", "y"]
    places += [f"{valid}/v"] if valid else []
    for seed, place in enumerate(places):
        write(tmp_path / f"{place}.{suffix}", seed)
    data = datasets.load(name, tmp_path, **SETTINGS[name])
    tested, validated, trained = map(owners, (data.test, data.valid, data.train))
    assert tested == {f"Test/a.{suffix}", f"Test/b.{suffix}"}
    assert all(each.startswith("train/") for each in trained)
    assert all(each.startswith(f"{valid or 'train'}/") for each in validated)
    rows = dict(datasets.describe(data))
    assert rows["test files"] == "Test/ (2 files)"
    notes = " ".join(data.notes)
    assert f"other/ (1 file), y.{suffix}" in notes
    assert ("valid is" in notes) == (not valid)


@pytest.mark.parametrize(("name", "write", "suffix"), CASES)
def test_words_within_names_do_not_matter(
    tmp_path: Path, name: str, write: Callable[[Path, int], None], suffix: str
) -> None:
    stems = ["train_station", "latest", "contest", "test-drive", "pretrain/one", "valid_until"]
    for seed, stem in enumerate(stems):
        write(tmp_path / f"{stem}.{suffix}", seed)
    data = datasets.load(name, tmp_path, **SETTINGS[name])
    assert not any("decide what is" in note for note in data.notes)
    found = owners(data.train) | owners(data.valid) | owners(data.test)
    assert found == {f"{stem}.{suffix}" for stem in stems}


def test_other_files_beside_text_are_named(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", 0)
    write_text(tmp_path / "B.TXT", 1)
    write_text(tmp_path / "c.csv", 2)
    data = datasets.load("text", tmp_path)
    assert owners(data.train) == {"a.txt", "B.TXT"}
    assert data.notes[-1] == "left out, because they are no *.txt: c.csv"


def write_reviews(folder: Path, *places: str) -> None:
    for place in places:
        for n in range(6):
            path = folder / place / f"{n}_1.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"Film {n} of {place}. It was long.\n", "utf-8")


@pytest.mark.parametrize("valid", ["valid", "Dev", "validation"])
def test_reviews_have_a_validation_folder(tmp_path: Path, valid: str) -> None:
    places = [f"{split}/{label}" for split in ("Train", valid, "test") for label in ("pos", "neg")]
    write_reviews(tmp_path, *places, "Train/unsup")
    data = datasets.load("imdb", tmp_path)
    assert {name.partition("/")[0] for name in data.valid.names} == {valid}
    assert len(owners(data.train)) == 12
    assert data.notes[-1] == "left out: unsup/ (6 files); data.unlabeled=true trains on them"
    more = datasets.load("imdb", tmp_path, unlabeled=True)
    assert len(owners(more.train)) == 18


@pytest.mark.parametrize("name", ["abcv1_2.txt", "cv1_2.txt.txt", "notcv000_29416.txt"])
def test_only_whole_names_are_reviews_in_tokens(tmp_path: Path, name: str) -> None:
    write_reviews(tmp_path, "pos", "neg")
    (tmp_path / "pos" / name).write_text("One sentence. And Another. Third One.\n", "utf-8")
    data = datasets.load("imdb", tmp_path)
    splits = (data.train, data.valid, data.test)
    assert sum(each == f"pos/{name}#3" for split in splits for each in split.names) == 1


def write_utterances(folder: Path, speakers: str) -> None:
    for seed, speaker in enumerate(speakers.split()):
        for sentence in ("SA1", "SX2", "SI3"):
            write_recording(folder / speaker / f"{sentence}.wav", seed)


def test_timit_validates_on_a_folder_of_its_own(tmp_path: Path) -> None:
    write_utterances(tmp_path / "TIMIT" / "TRAIN", "DR1/FCJF0 DR2/MCPM0")
    write_utterances(tmp_path / "TIMIT" / "Dev", "DR1/FAKS0")
    write_utterances(tmp_path / "TIMIT" / "TEST" / "core", "DR1/MWEW0")
    write_recording(tmp_path / "TIMIT" / "TRAIN" / "noise.wav", 9)
    data = datasets.load("timit", tmp_path, segment_length=4, concatenate=False)
    assert owners(data.valid) == {f"valid/dr1/faks0/{s}" for s in ("sa1", "sx2", "si3")}
    assert {name.split("/")[0] for name in data.test.names} == {"test"}
    assert {name.split("/")[0] for name in data.train.names} == {"train"}
    assert "no utterances of TIMIT: TIMIT/ (1 file)" in data.notes[-1]


def test_train_alone_cannot_fill_three_splits(tmp_path: Path) -> None:
    write_recording(tmp_path / "test" / "a.wav", 0)
    write_recording(tmp_path / "dev" / "b.wav", 1)
    with pytest.raises(UserError, match="the train split would be empty"):
        datasets.load("wav", tmp_path)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "dev", "TEST")])
def test_arrays_are_named_after_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    parts = np.random.default_rng(0).normal(size=(3, 12, 5, 2))
    np.savez(tmp_path / "contest.npz", **dict(zip(names, parts, strict=True)))
    data = datasets.load("npz", tmp_path / "contest.npz", normalize=False)
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        np.testing.assert_array_equal(
            np.stack(list(data.split(name).values)), part.astype(np.float32)
        )


def test_an_array_that_is_lacking_is_a_share_of_train(tmp_path: Path) -> None:
    train, test = np.random.default_rng(0).normal(size=(2, 20, 5, 2))
    np.savez(tmp_path / "x.npz", train=train, test=test)
    data = datasets.load("npz", tmp_path / "x.npz", normalize=False)
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 20)
    np.testing.assert_array_equal(np.stack(list(data.test.values)), test.astype(np.float32))
    assert data.notes[0].endswith("decide what is train and test; valid is a share of train")
