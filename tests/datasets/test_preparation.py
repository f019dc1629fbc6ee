"""Prepared data sets: the same whatever happens on the way, and true to the files."""

from __future__ import annotations

import filecmp
import json
import os
import pickle
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests import processes
from tests.cli.conftest import Zpyro, zpyro
from tests.processes import Command
from tests.run.holding import end, hold
from zpyro import UserError, datasets
from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.prepared import (
    BadFiles,
    ParsedFile,
    SourceFile,
    Store,
    engine,
    prepare,
    prepare_part,
    shards,
)
from zpyro.datasets.prepared.numbers import Numbers
from zpyro.datasets.recordings import RecordingReader
from zpyro.datasets.sequences import Normalization

__all__ = ["zpyro"]

SETTINGS = BlizzardSettings(frame_size=20, segment_length=5)


def stream(number: int, frames: int) -> np.ndarray:
    """Samples that tell their stream and frame."""
    return (1000 * number + np.arange(20 * frames) // 20).astype("<i2")


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Seven recordings of 6 to 102 frames in two folders."""
    folder = tmp_path / "books"
    for number, frames in enumerate((40, 102, 6, 33, 71, 12, 58)):
        path = folder / f"book{number % 2}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, stream(number, frames), 16_000, subtype="PCM_16")
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard for every one or two recordings."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1500)


def same(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files, bit for bit."""
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    _, different, missing = filecmp.cmpfiles(first, second, names, shallow=False)
    return not different and not missing


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_parts_of_many_machines_make_what_one_makes(books: Path, tmp_path: Path) -> None:
    corpus, out = Blizzard(), tmp_path / "out"
    whole = prepare(corpus, books, tmp_path / "whole", SETTINGS)
    made = [prepare_part(corpus, books, out, SETTINGS, number, 3) for number in (3, 1)]
    with pytest.raises(UserError, match=r"out: \d of \d shards are missing, shard-00001.bin first"):
        prepare(corpus, books, out, SETTINGS, join=True)
    made.append(prepare_part(corpus, books, out, SETTINGS, 2, 3))
    assert sum(made) == len(whole.index["shards"])
    other = replace(SETTINGS, segment_length=4)
    with pytest.raises(UserError, match="made of other files or with other settings"):
        prepare(corpus, books, out, other, join=True)
    prepare(corpus, books, out, SETTINGS, join=True)
    assert same(tmp_path / "whole", out)


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_parts_name_files_that_cannot_be_used(books: Path, tmp_path: Path) -> None:
    (books / "book0" / "4.wav").write_bytes(b"RIFF")
    corpus, out = Blizzard(), tmp_path / "out"
    whole = prepare(corpus, books, tmp_path / "whole", SETTINGS, skip_bad=True)
    failed = 0
    for number in range(1, 5):
        try:
            prepare_part(corpus, books, out, SETTINGS, number, 4)
        except BadFiles:
            failed += 1
    assert failed == 1
    with pytest.raises(BadFiles, match=r"4\.wav"):
        prepare(corpus, books, out, SETTINGS, join=True)
    prepare(corpus, books, out, SETTINGS, join=True, skip_bad=True)
    assert same(whole.folder, out)


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_parts_on_the_command_line(books: Path, tmp_path: Path, zpyro: Zpyro) -> None:
    sizes = "--set=data.frame_size=20", "--set=data.segment_length=5", "--workers=1"
    command = "data", "prepare", "blizzard", books, *sizes, "--out"
    assert zpyro(*command, tmp_path / "whole").exit_code == 0
    for part in ("2/2", "1/2"):
        done = zpyro(*command, tmp_path / "out", "--part", part)
        assert done.exit_code == 0, done.output
        assert f"part {part}:" in done.stderr
    assert zpyro(*command, tmp_path / "out", "--join").exit_code == 0
    assert same(tmp_path / "whole", tmp_path / "out")
    for wrong in ("0/2", "3/2", "1", "a/b", "1/2/3"):
        done = zpyro(*command, tmp_path / "new", "--part", wrong)
        assert done.exit_code == 2
        assert f"--part {wrong}: is not I/N" in done.stderr
    done = zpyro(*command, tmp_path / "new", "--part=1/2", "--join")
    assert done.exit_code == 2
    assert "give one of them" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_every_target_is_the_next_frame_of_its_own_stream(books: Path, tmp_path: Path) -> None:
    store = prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    assert len(store.index["shards"]) > 3
    data = store.dataset()
    rows: dict[int, list[tuple[int, int]]] = {}
    for split in (data.train, data.valid, data.test):
        assert split.start is not None
        for start, value, name in zip(split.start, split.values, split.names, strict=True):
            frames = split.normalization.invert(np.concatenate([start[None], value]))
            codes = np.rint(frames * 32768).astype(int)
            assert (codes == codes[:, :1]).all()
            assert len(value) == 5
            np.testing.assert_array_equal(np.diff(codes[:, 0]), 1)
            number, first = divmod(int(codes[0, 0]), 1000)
            label, _, row = name.partition("#")
            assert label == f"book{number % 2}/{number}.wav"
            rows.setdefault(number, []).append((int(row), first))
    for number, frames in enumerate((40, 102, 6, 33, 71, 12, 58)):
        count = (frames - 1) // 5
        assert sorted(rows[number]) == [(row, 5 * row) for row in range(count)]


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_the_scale_is_that_of_the_training_samples(books: Path, tmp_path: Path) -> None:
    train = prepare(Blizzard(), books, tmp_path / "out", SETTINGS).dataset().train
    samples = np.concatenate([v.ravel() for v in train.renormalized(Normalization()).values])
    assert train.normalization.mean == pytest.approx(samples.mean(dtype=np.float64), rel=1e-6)
    assert train.normalization.scale == pytest.approx(samples.std(dtype=np.float64), rel=1e-6)


@pytest.mark.fast
def test_a_read_across_the_borders_of_shards(tmp_path: Path) -> None:
    line = np.arange(100, dtype=np.int16)
    sizes = (10, 0, 1, 39, 50)
    parts = [(f"{i}.bin", size) for i, size in enumerate(sizes)]
    for (name, _), part in zip(parts, np.split(line, np.cumsum(sizes)[:-1]), strict=True):
        part.tofile(tmp_path / name)
    numbers = Numbers(tmp_path, parts, "int16")
    again = pickle.loads(pickle.dumps(numbers))
    for start in range(0, 100, 7):
        for count in (1, min(5, 100 - start), 100 - start):
            expected = line[start : start + count]
            np.testing.assert_array_equal(numbers.read(start, count), expected)
            np.testing.assert_array_equal(again.read(start, count), expected)


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_batches_stored_and_in_memory_are_the_same(books: Path, tmp_path: Path) -> None:
    stored = prepare(Blizzard(), books, tmp_path / "out", SETTINGS).dataset().train
    assert stored.start is not None
    held = datasets.Sequences(
        tuple(stored.values),
        tuple(stored.names),
        np.stack(list(stored.start)),
        stored.normalization,
        stored.sample_rate,
        stored.data_type,
    )
    np.testing.assert_array_equal(stored.lengths, held.lengths)
    assert (stored.frame_size, stored.num_frames) == (held.frame_size, held.num_frames)
    for a, b in zip(
        stored.batches(4, shuffle=True, seed=3), held.batches(4, shuffle=True, seed=3), strict=True
    ):
        assert a.names == b.names
        for one, other in ((a.x, b.x), (a.lengths, b.lengths), (a.start, b.start)):
            assert one is not None
            assert other is not None
            assert one.equal(other)


@pytest.mark.fast
@pytest.mark.usefixtures("small_shards")
def test_the_whole_is_its_parts(books: Path, tmp_path: Path) -> None:
    data = prepare(Blizzard(), books, tmp_path / "out", SETTINGS).dataset()
    whole = data.split("all")
    parts = [data.train, data.valid, data.test]
    assert list(whole.names) == [name for part in parts for name in part.names]
    expected = [value for part in parts for value in part.values]
    for value, other in zip(whole.values, expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_any_number_of_workers_gives_the_same_files(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)
    prepare(Blizzard(), books, tmp_path / "one", SETTINGS, workers=1)
    prepare(Blizzard(), books, tmp_path / "two", SETTINGS, workers=2)
    assert same(tmp_path / "one", tmp_path / "two")


class Stops(RuntimeError):
    pass


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("reads", range(1, 8))
def test_an_interrupted_preparation_goes_on_to_the_same_files(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    prepare(Blizzard(), books, tmp_path / "whole", SETTINGS)
    read, done = RecordingReader.read, []

    def stops(self: RecordingReader, item: SourceFile) -> ParsedFile:
        done.append(item.key)
        if len(done) == reads:
            raise Stops
        return read(self, item)

    monkeypatch.setattr(RecordingReader, "read", stops)
    with pytest.raises(Stops):
        prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    with pytest.raises(UserError, match=r"index.json: cannot be read"):
        Store(tmp_path / "out")
    before = len(done)
    prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    assert same(tmp_path / "whole", tmp_path / "out")
    # Shards that were complete are not read again.
    assert len(done) - before <= 7 - (reads - 1) // 2 + 1


def test_a_part_that_is_written_twice_at_once_is_whole(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(Blizzard(), books, tmp_path / "whole", SETTINGS)
    out, read, done = tmp_path / "out", RecordingReader.read, []

    def begins_again(self: RecordingReader, item: SourceFile) -> ParsedFile:
        done.append(item.key)
        if len(done) == 3:
            with pytest.raises(Stops):
                prepare_part(Blizzard(), books, out, SETTINGS, 1, 1)
        elif len(done) == 5:
            raise Stops
        return read(self, item)

    monkeypatch.setattr(RecordingReader, "read", begins_again)
    prepare_part(Blizzard(), books, out, SETTINGS, 1, 1)
    prepare(Blizzard(), books, out, SETTINGS, join=True).verify()
    assert same(tmp_path / "whole", out)


def works_forever(pipe: Path) -> None:
    with pipe.open("w") as file:
        file.write("at work\n")
        file.flush()
        time.sleep(processes.LIMIT)


def has_workers(pipes: list[Path]) -> None:
    with engine._mapping(len(pipes)) as mapped:
        list(mapped(works_forever, pipes))


def test_workers_end_with_a_killed_process(tmp_path: Path) -> None:
    pipes = [tmp_path / "first", tmp_path / "second"]
    for pipe in pipes:
        os.mkfifo(pipe)
    command = Command(tmp_path / "output", has_workers, pipes)
    with pipes[0].open() as first, pipes[1].open() as second:
        assert (first.readline(), second.readline()) == ("at work\n", "at work\n")
        assert command.kill().returncode == -signal.SIGKILL
        # The ends of the pipes close with the workers.
        assert (first.read(), second.read()) == ("", "")


@pytest.mark.fast
def test_a_folder_that_another_process_prepares_meanwhile(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, items, others = tmp_path / "out", Blizzard.items, BlizzardSettings(frame_size=30)

    def slow(self: Blizzard, source: Path, settings: BlizzardSettings) -> list[SourceFile]:
        found = items(self, source, settings)
        if settings == SETTINGS:
            prepare(Blizzard(), books, out, others)
        return found

    monkeypatch.setattr(Blizzard, "items", slow)
    with pytest.raises(UserError, match="out: holds a prepared data set already; choose another"):
        prepare(Blizzard(), books, out, SETTINGS)
    assert not (out / "journal").exists()
    Store(out).check("blizzard", asdict(others))
    assert len(prepare(Blizzard(), books, out, others, wait=True).index["sources"]) == 7


@pytest.mark.fast
def test_a_cache_that_cannot_be_used_names_its_variable(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    place = engine.prepared_folder(Blizzard(), books, SETTINGS)
    place.parent.mkdir(parents=True)
    place.touch()
    with pytest.raises(UserError, match="is not a directory; remove it, or set ZPYRO_CACHE to a"):
        datasets.load("blizzard", books, SETTINGS)
    place.unlink()
    (place / "journal" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot be written .* permissions or set ZPYRO_"):
        datasets.load("blizzard", books, SETTINGS)


def prepares(arguments: tuple[str, ...], kill_at: int | None = None) -> None:
    """The command, with a shard a file; killed when it reports progress for the n-th time."""
    from zpyro_cli import data

    shards.SHARD_BYTES = 40_000
    reports = 0

    def report(_self: object, _done: int, _total: int) -> None:
        nonlocal reports
        reports += 1
        if reports == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    data._Lines.__call__ = report
    processes.zpyro(arguments)


def test_a_killed_command_goes_on_to_the_same_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(24):
        noise = random.normal(0, 0.1, 100_000)
        path = tmp_path / "books" / f"{number:02d}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise, 22_050)

    def command(out: str, kill_at: int | None = None) -> Command:
        words = ("data", "prepare", "blizzard", str(tmp_path / "books"), "--workers", "1")
        folder = tmp_path / "output" / out
        return Command(folder, prepares, (*words, "--out", str(tmp_path / out)), kill_at)

    assert command("whole").wait().returncode == 0
    journal = tmp_path / "out" / "journal"
    done = [0]
    for number in (4, 8, 12):
        assert command("out", kill_at=number).wait().returncode == -signal.SIGKILL
        done.append(len(list(journal.glob("*.json"))))
    assert done == sorted(set(done))
    ended = command("out").wait()
    assert ended.returncode == 0, ended
    assert same(tmp_path / "whole", tmp_path / "out")


def damage(books: Path) -> dict[str, str]:
    """Bad files beside the good ones: by key, what must be said of each."""
    good = (books / "book0" / "0.wav").read_bytes()
    (books / "cut.wav").write_bytes(good[: len(good) // 2])
    (books / "empty.wav").write_bytes(b"")
    (books / "text.wav").write_text("this is no sound at all, but long enough for a header")
    soundfile.write(books / "nan.wav", np.full(400, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(books / "short.wav", np.zeros(30), 16_000)
    (books / "loop.wav").symlink_to(books / "loop.wav")
    (books / "lost.wav").symlink_to(books / "nowhere.wav")
    (books / "above").symlink_to(books)
    header = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    (books / "shorten.sph").write_bytes(header.ljust(1024) + bytes(2000))
    return {
        "cut.wav": "cut short",
        "empty.wav": "empty|holds no",
        "text.wav": "cannot be read as audio|no RIFF|is not",
        "nan.wav": "NaN",
        "short.wav": "has 30 samples; 40 are needed",
        "loop.wav": "cannot be opened (Too many levels of symbolic links)",
        "lost.wav": "cannot be opened (No such file",
        "shorten.sph": "shorten",
    }


@pytest.mark.fast
def test_bad_files_are_named_together_and_may_be_left_out(books: Path, tmp_path: Path) -> None:
    soundfile.write(books / "stereo.wav", np.stack([stream(8, 40)] * 2, 1), 16_000)
    eight = np.linspace(-0.5, 0.5, 800)
    soundfile.write(books / "eight.wav", eight, 16_000, subtype="PCM_U8")
    expected = damage(books)
    with pytest.raises(BadFiles) as caught:
        prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    assert {key for key, _ in caught.value.problems} == set(expected)
    for key, problem in caught.value.problems:
        assert key in problem
        assert any(words in problem for words in expected[key].split("|")), problem
    assert "--skip-bad" in str(caught.value)
    assert "(and 7 more files like it)" in str(caught.value)
    store = prepare(Blizzard(), books, tmp_path / "out", SETTINGS, skip_bad=True)
    assert {entry["key"] for entry in store.index["skipped"]} == set(expected)
    kept = {entry["key"] for entry in store.index["sources"]}
    assert {"stereo.wav", "eight.wav", "book0/0.wav"} <= kept
    assert not kept & set(expected)
    assert any("left out" in note for note in store.dataset().notes)


@pytest.mark.fast
def test_mended_files_are_read_on_the_next_try(books: Path, tmp_path: Path) -> None:
    (books / "book1" / "9.wav").write_bytes(b"no sound")
    with pytest.raises(BadFiles):
        prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    shutil.copy(books / "book0" / "0.wav", books / "book1" / "9.wav")
    prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    prepare(Blizzard(), books, tmp_path / "fresh", SETTINGS)
    assert same(tmp_path / "out", tmp_path / "fresh")


@pytest.mark.fast
def test_no_file_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match="none of its 1 file can be used"):
        prepare(Blizzard(), tmp_path / "books", tmp_path / "out", SETTINGS, skip_bad=True)


@pytest.mark.fast
def test_where_not_to_write(books: Path, tmp_path: Path) -> None:
    prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    with pytest.raises(UserError, match="holds a prepared data set already"):
        prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    with pytest.raises(UserError, match="is not empty"):
        prepare(Blizzard(), books, books, SETTINGS)
    with pytest.raises(UserError, match="is not a directory"):
        prepare(Blizzard(), books, books / "book0" / "0.wav", SETTINGS)


@pytest.mark.fast
def test_damage_is_found(books: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = prepare(Blizzard(), books, out, SETTINGS)
    store.verify()
    shard = out / "shard-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"shard-00000\.bin: is damaged"):
        Store(out).verify()
    shard.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"shard-00000\.bin: is missing or cut short"):
        Store(out)
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(UserError, match="has version 99"):
        Store(out)
    (out / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json: cannot be read"):
        Store(out)


@pytest.mark.fast
def test_first_use_prepares_once_and_a_change_prepares_again(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    reads: list[str] = []
    read = RecordingReader.read
    monkeypatch.setattr(
        RecordingReader, "read", lambda self, item: reads.append(item.key) or read(self, item)
    )
    first = datasets.load("blizzard", books, SETTINGS)
    datasets.load("blizzard", books, SETTINGS)
    assert len(reads) == 7
    soundfile.write(books / "book0" / "0.wav", stream(0, 45), 16_000, subtype="PCM_16")
    second = datasets.load("blizzard", books, SETTINGS)
    assert len(reads) == 14
    assert len(second.split("all")) == len(first.split("all")) + 1


@pytest.mark.fast
def test_first_uses_at_the_same_time_prepare_once(
    books: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    reads: list[str] = []
    reading, proceed = threading.Event(), threading.Event()
    read = RecordingReader.read

    def slow(self: RecordingReader, item: SourceFile) -> ParsedFile:
        reads.append(item.key)
        reading.set()
        assert proceed.wait(60)
        return read(self, item)

    monkeypatch.setattr(RecordingReader, "read", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(datasets.load, "blizzard", books, SETTINGS)
        assert reading.wait(60)
        others = [threads.submit(datasets.load, "blizzard", books, SETTINGS) for _ in range(2)]
        while caplog.text.count("waiting for another preparation") < len(others):
            assert not any(future.done() for future in others)
            time.sleep(0.01)
        proceed.set()
        found = [future.result(60) for future in (first, *others)]
    assert len(reads) == 7
    for data in found:
        assert len(data.train) == len(found[0].train)
        assert torch.equal(data.train[:1].batch().x, found[0].train[:1].batch().x)


def test_a_second_preparation_of_a_folder_is_refused(books: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "journal").mkdir(parents=True)
    other = hold(out / "journal")
    with pytest.raises(UserError, match=rf"out: another preparation \(process {other.pid} on "):
        prepare(Blizzard(), books, out, SETTINGS)
    end(other)
    assert len(prepare(Blizzard(), books, out, SETTINGS).index["sources"]) == 7
    assert not (out / "journal").exists()


@pytest.mark.fast
def test_a_prepared_folder_is_data(books: Path, tmp_path: Path) -> None:
    prepare(Blizzard(), books, tmp_path / "out", SETTINGS)
    data = datasets.load("blizzard", tmp_path / "out", SETTINGS)
    assert len(data.split("all")) == sum((n - 1) // 5 for n in (40, 102, 6, 33, 71, 12, 58))
    with pytest.raises(UserError, match=r"prepared with data\.frame_size=20, not 200; pass --set"):
        datasets.load("blizzard", tmp_path / "out")
    with pytest.raises(UserError, match="is the data set blizzard, prepared"):
        Store(tmp_path / "out").check("timit", {})


@pytest.mark.fast
def test_real_books(data_folder: Path, tmp_path: Path) -> None:
    books = prepare(Blizzard(), data_folder / "ljspeech", tmp_path / "lj", BlizzardSettings())
    assert len(books.index["sources"]) == 26
    seconds = sum(entry["count"] for entry in books.index["sources"]) / 16_000
    launched_by_torchrun = sum(
        soundfile.info(p).duration for p in (data_folder / "ljspeech").rglob("*.wav")
    )
    assert seconds == pytest.approx(launched_by_torchrun, abs=0.01)
    other = prepare(Blizzard(), data_folder / "librivox", tmp_path / "lv", BlizzardSettings())
    assert len(other.index["sources"]) == 4
