"""The files of a prepared data set that somebody changed: each is named, none is believed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.datasets.test_text_files import polarity
from zpyro import UserError
from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.imdb import Imdb, ImdbSettings
from zpyro.datasets.prepared import BadFiles, Store, engine, prepare
from zpyro.datasets.prepared import index as indices

pytestmark = pytest.mark.fast

SETTINGS = BlizzardSettings(frame_size=20, segment_length=5)


def prepared(folder: Path) -> Path:
    """Two recordings, prepared."""
    for number in range(2):
        path = folder / "books" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(number).normal(0, 0.1, 20 * 40)
        soundfile.write(path, samples, 16_000, subtype="PCM_16")
    return prepare(Blizzard(), folder / "books", folder / "out", SETTINGS).folder


def change(out: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((out / "index.json").read_text())
    edit(index)
    (out / "index.json").write_text(json.dumps(index))


INDEX: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda index: index.update(format="x"), "is not the index of a prepared"),
    "kind and likelihood": (
        lambda index: index.update(likelihood="categorical"),
        "kind and likelihood differ",
    ),
    "tokens with a start": (
        lambda index: index.update(kind="tokens", likelihood="categorical", start=True),
        "tokens have no start frames",
    ),
    "a key is gone": (lambda index: index.pop("notes"), "notes is missing"),
    "a wrong type": (lambda index: index.update(frame_size="20"), "frame_size is wrong"),
    "a shard elsewhere": (
        lambda index: index["shards"][0].update(file="../shard-00000.bin"),
        "shard 0: file is wrong",
    ),
    "a shard that is none": (lambda index: index["shards"].__setitem__(0, 3), "is wrong|missing"),
    "no table of a split": (lambda index: index["splits"].pop("test"), "test: sequences is"),
}


@pytest.mark.parametrize("name", INDEX)
def test_a_changed_index_is_told(tmp_path: Path, name: str) -> None:
    edit, message = INDEX[name]
    out = prepared(tmp_path)
    change(out, edit)
    with pytest.raises(UserError, match=rf"index\.json: .*({message})"):
        Store(out)


def test_an_index_beyond_measure_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = prepared(tmp_path)
    monkeypatch.setattr(indices, "_LARGEST", 100)
    with pytest.raises(UserError, match="larger than an index can be"):
        Store(out)


def row(place: int, number: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(table: np.ndarray) -> np.ndarray:
        changed = table.copy()
        changed[0, place] = number
        return changed

    return edit


TABLES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "begins beyond the end": (row(0, 10**9), "row 0 leads out of the data"),
    "begins before the start": (row(0, -20), "row 0 leads out of the data"),
    "no whole frames": (row(1, 41), "row 0 leads out of the data"),
    "a single frame, the start": (row(1, 20), "row 0 leads out of the data"),
    "no such label": (row(2, 99), "row 0 leads out of the data"),
    "another type": (lambda table: table.astype("i4"), "it holds int32 numbers of shape"),
    "fewer rows": (lambda table: table[:0], r"it holds int64 numbers of shape \(0, 4\)"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_table_is_told(tmp_path: Path, name: str) -> None:
    edit, message = TABLES[name]
    out = prepared(tmp_path)
    np.save(out / "train.npy", edit(np.load(out / "train.npy")))
    with pytest.raises(UserError, match=rf"train\.npy: is damaged, .*{message}"):
        Store(out).dataset()


def test_a_vocabulary_of_another_size_is_told(tmp_path: Path) -> None:
    source = polarity(tmp_path / "source")
    out = prepare(Imdb(), source, tmp_path / "out", ImdbSettings()).folder
    change(out, lambda index: index.update(frame_size=index["frame_size"] + 1))
    with pytest.raises(UserError, match="its vocabulary has another size"):
        Imdb().dataset(Store(out))


def test_one_file_under_two_names_of_one_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path)
    corpus = Blizzard()
    items = corpus.items(tmp_path / "books", SETTINGS)
    monkeypatch.setattr(Blizzard, "items", lambda *_: [*items, items[0]])
    with pytest.raises(UserError, match=rf"{items[0].key} is there twice; remove one"):
        prepare(corpus, tmp_path / "books", tmp_path / "again", SETTINGS)


def test_shards_that_belong_to_nothing_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / engine.JOURNAL).mkdir(parents=True)
    (out / "shard-00099.bin").write_bytes(b"of an interrupted preparation of more files")
    prepared(tmp_path)
    assert [path.name for path in sorted(out.glob("shard-*"))] == ["shard-00000.bin"]
    Store(out).verify()


def test_stores_and_errors_pass_between_processes(tmp_path: Path) -> None:
    store = Store(prepared(tmp_path))
    again = pickle.loads(pickle.dumps(store))
    assert (again.folder, again.index) == (store.folder, store.index)
    error = BadFiles(tmp_path, [("a.wav", "a.wav is empty"), ("b.wav", "b.wav is cut short")])
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is BadFiles
    assert str(other) == str(error)
    assert other.problems == error.problems
