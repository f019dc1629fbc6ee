"""Text through the preparation: the same tokens as read in memory, whatever the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.test_text_files import acl_imdb, cache, polarity, write
from zpyro import datasets
from zpyro.datasets import Dataset, text_loading
from zpyro.datasets.imdb import Imdb, ImdbSettings
from zpyro.datasets.prepared import BadFiles, Store, prepare, shards
from zpyro.datasets.text import Text, TextSettings
from zpyro.datasets.vocabulary import SPECIAL, Vocabulary, from_json
from zpyro.errors import UserError

__all__ = ["cache"]


def lines(folder: Path) -> Path:
    """Two files whose lines are dealt out, one of them long, blank lines within."""
    random = np.random.default_rng(0)
    for name, count in (("first", 30), ("second", 90)):
        text = [
            " ".join(f"w{random.zipf(1.5)}" for _ in range(random.integers(0, 9)))
            for _ in range(count)
        ]
        write(folder / f"{name}.txt", "\n".join(text))
    return folder


CASES: dict[str, tuple[Any, Any, Any]] = {
    "imdb": (Imdb(), acl_imdb, ImdbSettings(vocabulary_size=9, max_length=5)),
    "polarity": (Imdb(), polarity, ImdbSettings(max_length=5, long_lines="drop")),
    "text": (Text(), lines, TextSettings(max_length=6)),
    "characters": (Text(), lines, TextSettings(unit="character")),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Any]:
    corpus, make, settings = CASES[request.param]
    return corpus, make(tmp_path / "source"), settings


def assert_same(first: Dataset, second: Dataset) -> None:
    assert first.vocabulary == second.vocabulary
    assert first.frame_size == second.frame_size
    assert first.notes == second.notes
    for split in ("train", "valid", "test"):
        ours, theirs = first.split(split), second.split(split)
        assert tuple(ours.names) == tuple(theirs.names)
        for one, other in zip(ours.values, theirs.values, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shard_bytes", [1, 300, 1 << 25])
def test_prepared_is_what_is_read_in_memory(
    case: tuple[Any, Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    corpus, source, settings = case
    monkeypatch.setattr(shards, "SHARD_BYTES", shard_bytes)
    store = prepare(corpus, source, tmp_path / "out", settings)
    assert (len(store.index["shards"]) > 1) == (shard_bytes < 1 << 25)
    store.verify()
    assert store.index["dtype"] == "int32"
    assert_same(corpus.dataset(store), text_loading.read(corpus, source, settings))
    assert_same(datasets.load(corpus.name, tmp_path / "out", settings), corpus.dataset(store))


@pytest.mark.fast
def test_first_use_prepares_and_the_next_reads(
    case: tuple[Any, Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, source, settings = case
    first = datasets.load(corpus.name, source, settings)
    monkeypatch.setattr(shards, "write", lambda task: pytest.fail("must not be made again"))
    assert_same(datasets.load(corpus.name, source, settings), first)
    again = datasets.load(corpus.name, source, settings, vocabulary=first.vocabulary)
    assert_same(again, first)


def test_several_workers_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = acl_imdb(tmp_path / "source")
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    checksums = {
        prepare(
            Imdb(), source, tmp_path / f"out{workers}", ImdbSettings(), workers=workers
        ).checksum
        for workers in (1, 2)
    }
    assert len(checksums) == 1


@pytest.mark.fast
def test_the_vocabulary_stands_in_the_index(tmp_path: Path) -> None:
    prepare(Imdb(), polarity(tmp_path / "source"), tmp_path / "out", ImdbSettings())
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    vocabulary = from_json(index["vocabulary"], "index")
    data = datasets.load("imdb", tmp_path / "out")
    assert data.vocabulary == vocabulary
    assert vocabulary.words[:3] == SPECIAL
    assert data.frame_size == index["frame_size"] == len(vocabulary)


@pytest.mark.fast
def test_a_prepared_folder_keeps_its_words(tmp_path: Path) -> None:
    source = polarity(tmp_path / "source")
    prepare(Imdb(), source, tmp_path / "out", ImdbSettings())
    other = Vocabulary((*SPECIAL, "film"))
    with pytest.raises(UserError, match=r"with other words than this run knows; .* original text"):
        datasets.load("imdb", tmp_path / "out", vocabulary=other)
    assert datasets.load("imdb", source, vocabulary=other).vocabulary == other
    with pytest.raises(UserError, match=r"was prepared with data.vocabulary_size=16000, not 5"):
        datasets.load("imdb", tmp_path / "out", vocabulary_size=5)


@pytest.mark.fast
def test_bad_files_are_all_named_and_may_be_left_out(tmp_path: Path) -> None:
    source = polarity(tmp_path / "source")
    bad = ("txt_sentoken/pos/cv004_1234.txt", "txt_sentoken/neg/cv007_1234.txt")
    write(source / bad[0], b"fine \xff")
    write(source / bad[1], b"")
    with pytest.raises(BadFiles) as told:
        prepare(Imdb(), source, tmp_path / "out", ImdbSettings())
    assert [key for key, _ in told.value.problems] == ["pos/cv004_1234.txt", "neg/cv007_1234.txt"]
    store = prepare(Imdb(), source, tmp_path / "out", ImdbSettings(), skip_bad=True)
    assert len(store.index["skipped"]) == 2
    assert len(store.dataset().split("all")) == 76


@pytest.mark.fast
def test_an_archive_is_not_prepared(tmp_path: Path) -> None:
    archive = write(tmp_path / "reviews.tar.gz", b"whatever")
    with pytest.raises(UserError, match="unpack it first"):
        prepare(Imdb(), archive, tmp_path / "out", ImdbSettings())


@pytest.mark.fast
def test_tokens_can_be_written_to(tmp_path: Path) -> None:
    """Batches of memory-mapped tokens make torch warn of read-only memory otherwise."""
    store = prepare(Imdb(), polarity(tmp_path / "source"), tmp_path / "out", ImdbSettings())
    batch = Store(store.folder).dataset().train[:3].batch()
    assert batch.x.dtype.is_signed
    batch.x.fill_(0)
