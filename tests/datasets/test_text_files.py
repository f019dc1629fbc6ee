"""Reviews and lines of text: layouts, splits, vocabulary, and files that cannot be used."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zpyro import datasets
from zpyro.datasets import Normalization, vocabulary
from zpyro.datasets.formats import archives
from zpyro.datasets.imdb import ImdbSettings
from zpyro.datasets.sequences import Sequences
from zpyro.datasets.text import TextSettings
from zpyro.datasets.vocabulary import END, SPECIAL, START, UNKNOWN, Vocabulary
from zpyro.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is prepared on first use goes into a folder of the test's own."""
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path_factory.mktemp("cache")))


FILMS = "It was a bad film.<br /><br />Mr. Lee can't act. I left"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def acl_imdb(folder: Path, reviews: int = 20) -> Path:
    """A tree as aclImdb's, two sentences more in each review than its number says."""
    for split in ("train", "test"):
        for kind in ("pos", "neg"):
            for number in range(reviews):
                more = f" {split} {kind} {number}."
                write(folder / f"aclImdb/{split}/{kind}/{number}_9.txt", FILMS + "." + more)
    write(folder / "aclImdb/train/unsup/0_0.txt", "Unseen words.")
    write(folder / "aclImdb/README", "not a review")
    return folder


def polarity(folder: Path, reviews: int = 20) -> Path:
    for kind in ("pos", "neg"):
        for number in range(reviews):
            lines = f"a {kind} film . \nmr . lee can't act , {number} \n\n"
            write(folder / f"txt_sentoken/{kind}/cv{number:03d}_1234.txt", lines)
    return folder


def decoded(dataset: datasets.Dataset, split: Sequences) -> list[str]:
    assert dataset.vocabulary is not None
    words = dataset.vocabulary.words
    return [" ".join(words[token] for token in value) for value in split.values]


def owners(split: Sequences) -> set[str]:
    return {name.rpartition("#")[0] for name in split.names}


@pytest.mark.fast
def test_acl_imdb_gives_sentences_in_its_own_splits(tmp_path: Path) -> None:
    data = datasets.load("imdb", acl_imdb(tmp_path), valid_fraction=0.25)
    assert data.likelihood == "categorical"
    assert len(data.test) == 160
    assert all(name.startswith("test/") for name in data.test.names)
    assert len(owners(data.valid)) == 10
    assert len(owners(data.train)) == 30
    assert owners(data.train) | owners(data.valid) == {
        f"train/{kind}/{number}_9.txt" for kind in ("pos", "neg") for number in range(20)
    }
    lines = decoded(data, data.train)
    assert lines[:3] == [
        "it was a bad film . <end>",
        "mr . lee can't act . <end>",
        "i left . <end>",
    ]
    assert data.train.values[0].dtype == np.int32
    assert data.train.batch().x.dtype.is_floating_point is False
    assert not any("unsup" in name for name in data.train.names)
    more = datasets.load("imdb", tmp_path / "aclImdb", unlabeled=True)
    assert any("unsup" in name for name in (*more.train.names, *more.valid.names))


@pytest.mark.fast
def test_polarity_keeps_lines_and_spaces(tmp_path: Path) -> None:
    data = datasets.load("imdb", polarity(tmp_path))
    assert len(data.train) + len(data.valid) + len(data.test) == 80
    assert not owners(data.train) & (owners(data.valid) | owners(data.test))
    assert decoded(data, data.test)[1].startswith("mr . lee can't act , ")
    again = datasets.load("imdb", tmp_path / "txt_sentoken")
    assert tuple(again.test.names) == tuple(data.test.names)
    other = datasets.load("imdb", tmp_path, seed=1)
    assert tuple(other.test.names) != tuple(data.test.names)


@pytest.mark.fast
def test_numbers_of_reviews_may_choose_the_splits(tmp_path: Path) -> None:
    data = datasets.load(
        "imdb", polarity(tmp_path), valid_files="cv01[0-4]*", test_files="cv01[5-9]*"
    )
    assert {name[7:9] for name in owners(data.valid)} == {f"{n}" for n in range(10, 15)}
    assert len(owners(data.test)) == 10
    with pytest.raises(UserError, match="aclImdb brings its own"):
        datasets.load("imdb", acl_imdb(tmp_path / "other"), test_files="1*")


@pytest.mark.fast
def test_the_vocabulary_is_that_of_train_alone(tmp_path: Path) -> None:
    data = datasets.load("imdb", acl_imdb(tmp_path))
    assert data.vocabulary is not None
    counts = Counter(word for line in decoded(data, data.train) for word in line.split())
    assert "test" not in data.vocabulary.words
    expected = sorted(counts.keys() - set(SPECIAL), key=lambda word: (-counts[word], word))
    assert list(data.vocabulary.words[3:]) == expected
    assert any(UNKNOWN in value for value in data.test.values)
    small = datasets.load("imdb", tmp_path, vocabulary_size=4)
    assert small.vocabulary is not None
    assert small.vocabulary.words == (*SPECIAL, *expected[:4])
    assert small.frame_size == 7
    assert not any(START in value for value in small.train.values)


@pytest.mark.fast
def test_long_sentences_are_cut_or_dropped(tmp_path: Path) -> None:
    folder = acl_imdb(tmp_path)
    cut = datasets.load("imdb", folder, max_length=4)
    assert max(cut.train.lengths) == 5
    for line in decoded(cut, cut.train):
        assert line.endswith("<end>") == (len(line.split()) == 5 or line.startswith("i left"))
    assert any("are cut after 4" in note for note in cut.notes)
    dropped = datasets.load("imdb", folder, max_length=4, long_lines="drop")
    assert all(value[-1] == END for value in dropped.train.values)
    assert len(dropped.train) + len(dropped.valid) == 80
    assert any("more than 4 are left out" in note for note in dropped.notes)


@pytest.mark.fast
def test_other_text_is_read_in_a_models_vocabulary(tmp_path: Path) -> None:
    folder = polarity(tmp_path)
    vocabulary = Vocabulary((*SPECIAL, "film", "zebra"))
    data = datasets.load("imdb", folder, vocabulary=vocabulary)
    assert data.vocabulary is vocabulary
    assert data.frame_size == 5
    assert set(np.concatenate(data.train.values).tolist()) == {END, UNKNOWN, 3}
    everything = datasets.load_all("imdb", folder, ImdbSettings(), Normalization(), vocabulary)
    assert len(everything) == 80


@pytest.mark.fast
def test_lines_of_one_file_are_split_by_hash(tmp_path: Path) -> None:
    lines = [f"line number {n % 7}, it's so." for n in range(100)]
    file = write(tmp_path / "notes.txt", "\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    data = datasets.load("text", file, valid_fraction=0.2)
    sizes = [len(split) for split in (data.train, data.valid, data.test)]
    assert sum(sizes) == 100
    assert 60 <= sizes[0] <= 80
    assert 10 <= sizes[1] <= 30
    assert 4 <= sizes[2] <= 20
    names = [*data.train.names, *data.valid.names, *data.test.names]
    assert sorted(names) == sorted(f"notes.txt#{n}" for n in range(1, 101))
    assert data.vocabulary is not None
    assert data.vocabulary.text(data.train.values[0]).startswith("line number")
    longer = datasets.load("text", write(tmp_path / "b" / "notes.txt", "\n".join(lines[:99])))
    assert set(longer.test.names) == set(data.test.names) - {"notes.txt#100"}


@pytest.mark.fast
def test_names_of_files_say_their_splits(tmp_path: Path) -> None:
    for name in ("ptb.train", "dev-2", "test", "readme"):
        write(tmp_path / f"{name}.txt", f"from {name}\n" * 10)
    data = datasets.load("text", tmp_path)
    assert owners(data.train) == {"ptb.train.txt"}
    assert owners(data.valid) == {"dev-2.txt"}
    assert owners(data.test) == {"test.txt"}
    for name in ("ptb.train", "dev-2"):
        (tmp_path / f"{name}.txt").unlink()
    data = datasets.load("text", tmp_path)
    assert owners(data.test) == {"test.txt"}
    assert owners(data.train) == owners(data.valid) == {"readme.txt"}


@pytest.mark.fast
def test_characters(tmp_path: Path) -> None:
    file = write(tmp_path / "notes.txt", "Ab ba\nbB\n" * 10)
    data = datasets.load("text", file, unit="character", lower_case=False)
    assert data.vocabulary is not None
    assert set(data.vocabulary.words[3:]) == {"A", "B", "a", "b", " "}
    texts = {data.vocabulary.text(value) for value in data.train.values}
    assert texts == {"Ab ba", "bB"}


@pytest.mark.fast
def test_words_that_look_special_are_unknown(tmp_path: Path) -> None:
    data = datasets.load("text", write(tmp_path / "a.txt", "the <end> of <unknown> <pad>\n" * 20))
    assert data.vocabulary is not None
    assert data.vocabulary.words[3:] == ("<pad>", "of", "the")
    values = data.train.values[0].tolist()
    assert values == [5, UNKNOWN, 4, UNKNOWN, 3, END]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\n\xff\xfe bad", r"1_9.txt: byte 5 \(0xff\) is not UTF-8"),
        (b"", r"1_9.txt: is empty"),
        (b" \n\n", r"1_9.txt: is empty"),
        (b"a\0b", r"1_9.txt: holds NUL bytes"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    write(acl_imdb(tmp_path) / "aclImdb/train/pos/1_9.txt", content)
    with pytest.raises(UserError, match=message):
        datasets.load("imdb", tmp_path)
    write(tmp_path / "aclImdb/test/neg/3_9.txt", b"\xff")
    with pytest.raises(UserError, match=r"and 1 more file like it"):
        datasets.load("imdb", tmp_path)
    text = write(tmp_path / "text" / "1_9.txt", content)
    with pytest.raises(UserError, match=message):
        datasets.load("text", text)


@pytest.mark.fast
def test_links_that_lead_round_are_named_or_left(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    write(folder / "a.txt", "some words\n" * 20)
    (folder / "round").symlink_to(folder)
    assert len(datasets.load("text", folder).split("all")) == 20
    os.symlink("self.txt", folder / "self.txt")
    with pytest.raises(UserError, match=r"self.txt: cannot be read \(Too many levels"):
        datasets.load("text", folder)


@pytest.mark.fast
def test_unreadable_files_are_named(tmp_path: Path) -> None:
    folder = polarity(tmp_path)
    closed = folder / "txt_sentoken/neg/cv003_1234.txt"
    closed.unlink()
    closed.mkdir()
    assert len(datasets.load("imdb", folder).train) > 0, "folders are no reviews"
    closed.rmdir()
    closed.symlink_to("/nowhere/at/all.txt")
    with pytest.raises(UserError, match=r"cv003_1234.txt: cannot be read \(No such file"):
        datasets.load("imdb", folder)


@pytest.mark.fast
def test_other_layouts_are_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is downloaded: unpack .* aclImdb_v1.tar.gz"):
        datasets.load("imdb")
    with pytest.raises(UserError, match=r"gone does not exist; .*aclImdb_v1.tar.gz"):
        datasets.load("imdb", tmp_path / "gone")
    with pytest.raises(UserError, match=r"holds no reviews; it must be laid out as aclImdb"):
        datasets.load("imdb", tmp_path)
    packed = write(tmp_path / "aclImdb_v1.tar.gz", b"")
    with pytest.raises(UserError, match=r"give one of its archives: aclImdb_v1\.tar\.gz$"):
        datasets.load("imdb", tmp_path)
    packed.unlink()
    folder = acl_imdb(tmp_path)
    for path in (folder / "aclImdb/test/neg").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"test/neg holds no reviews"):
        datasets.load("imdb", tmp_path)
    (folder / "aclImdb/test/neg").rmdir()
    with pytest.raises(UserError, match=r"test/neg is missing"):
        datasets.load("imdb", tmp_path)
    with pytest.raises(UserError, match=r"gone does not exist; point --data at a text file"):
        datasets.load("text", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no text"):
        datasets.load("text", tmp_path / "empty")


def pack(folder: Path, archive: Path, *more: tuple[str, bytes]) -> Path:
    """A gzipped archive of a folder, with further members."""
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, ".")
        for name, content in more:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return archive


@pytest.mark.fast
@pytest.mark.parametrize("layout", [acl_imdb, polarity])
def test_an_archive_reads_as_its_folder(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    folder = layout(tmp_path / "folder")
    unpacked = datasets.load("imdb", folder)
    packed = datasets.load("imdb", pack(folder, tmp_path / "reviews.tar.gz"))
    assert packed.vocabulary == unpacked.vocabulary
    for split in ("train", "valid", "test"):
        ours, theirs = packed.split(split), unpacked.split(split)
        assert tuple(ours.names) == tuple(theirs.names)
        assert all(map(np.array_equal, ours.values, theirs.values))


@pytest.mark.fast
@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "aclImdb/../../evil.txt"])
def test_archive_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    folder = acl_imdb(tmp_path / "folder")
    archive = pack(folder, tmp_path / "reviews.tgz", (name, b"words"))
    with pytest.raises(UserError, match=f"member '{re.escape(name)}' leads out of the archive"):
        datasets.load("imdb", archive)


@pytest.mark.fast
def test_damaged_archives_are_named(tmp_path: Path) -> None:
    folder = acl_imdb(tmp_path / "folder")
    archive = pack(folder, tmp_path / "reviews.tar.gz")
    content = archive.read_bytes()
    for damage in (content[: len(content) // 2], b"not an archive", b""):
        archive.write_bytes(damage)
        with pytest.raises(UserError, match=r"reviews.tar.gz: is a damaged archive"):
            datasets.load("imdb", archive)
    pack(folder, archive, ("aclImdb/train/pos/bad.txt", b"so \xff"))
    with pytest.raises(
        UserError, match=r"reviews.tar.gz: aclImdb/train/pos/bad.txt: byte 3 \(0xff\)"
    ):
        datasets.load("imdb", archive)
    pack(tmp_path / "folder" / "aclImdb" / "train" / "unsup", archive)
    with pytest.raises(UserError, match=r"holds no reviews"):
        datasets.load("imdb", archive)
    for path in (folder / "aclImdb/test/neg").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"aclImdb/test/neg is missing in it"):
        datasets.load("imdb", pack(folder, archive))


@pytest.mark.fast
def test_too_little_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has too few sequences for three splits"):
        datasets.load("text", write(tmp_path / "a.txt", "one line"))
    special = write(tmp_path / "b.txt", "<end> <start>\n" * 20)
    with pytest.raises(UserError, match="the vocabulary is empty"):
        datasets.load("text", special)


@pytest.mark.fast
@pytest.mark.parametrize(
    "change",
    [
        {"unit": "line"},
        {"long_lines": "keep"},
        {"vocabulary_size": 0},
        {"max_length": 0},
        {"valid_fraction": 1.0},
    ],
)
def test_settings_are_checked(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(change))} is"):
        TextSettings(**change)  # pyright: ignore[reportArgumentType]


def test_the_real_reviews(data_folder: Path) -> None:
    data = datasets.load("imdb", data_folder / "movie_reviews")
    assert data.frame_size == 16_003
    splits = (data.train, data.valid, data.test)
    assert sum(len(owners(split)) for split in splits) == 1500
    # wc counts 48,659 lines and 1,118,130 words, 18 of them by a form feed within a line.
    assert sum(len(split) for split in splits) == 48_659
    words = sum(split.num_frames - len(split) for split in splits)
    lines = [
        line.split()
        for path in sorted((data_folder / "movie_reviews").glob("*/*.txt"))
        for line in path.read_text().split("\n")
    ]
    assert words == sum(map(len, lines))


@pytest.mark.fast
def test_archives_beyond_measure_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reviews.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(4):
            member = tarfile.TarInfo(f"pos/{number}.txt")
            member.size = 100
            archive.addfile(member, io.BytesIO(bytes(100)))
    assert [len(text) for text in archives.members(path, ".txt").values()] == [100] * 4
    monkeypatch.setattr(archives, "LARGEST_SUM", 399)
    with pytest.raises(UserError, match=r"reviews\.tar: expands to more than"):
        archives.members(path, ".txt")
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 99)
    with pytest.raises(UserError, match=r"member 'pos/0\.txt' claims 100 bytes"):
        archives.members(path, ".txt")


@pytest.mark.fast
def test_a_vocabulary_beyond_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vocabulary.json"
    with pytest.raises(UserError, match=r"vocabulary\.json: is missing"):
        vocabulary.read(path)
    words = Vocabulary((*SPECIAL, "a", "film"), "word", True)
    vocabulary.write(path, words)
    assert vocabulary.read(path) == words
    monkeypatch.setattr(vocabulary, "LARGEST_FILE", 10)
    with pytest.raises(UserError, match=r"vocabulary\.json: is larger than a vocabulary can be"):
        vocabulary.read(path)
