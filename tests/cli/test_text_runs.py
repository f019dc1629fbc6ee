"""Runs on text: perplexities beside the trigram's, sentences drawn, one vocabulary throughout."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Zpyro, train
from zpyro import datasets
from zpyro.datasets.vocabulary import SPECIAL
from zpyro.evaluation.baselines.ngrams import trigram
from zpyro.io import manifest
from zpyro.training import runs

WORDS = ("the", "film", "was", "not", "bad", "at", "all", ",", "it's", "good")


def write_lines(path: Path, count: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    lines = [" ".join(random.choice(WORDS, size=random.integers(2, 8))) + "." for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is prepared on first use goes into a folder of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZPYRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 lines of a few words."""
    return write_lines(tmp_path_factory.mktemp("lines") / "notes.txt", 60)


@pytest.fixture(scope="module")
def text_run(zpyro: Zpyro, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on :func:`lines`, its embedding tied."""
    out = tmp_path_factory.mktemp("runs") / "text"
    return train(zpyro, "text", lines, out, "--set=model.tied_embedding=true")


def test_perplexities_are_those_of_the_bounds(zpyro: Zpyro, lines: Path, text_run: Path) -> None:
    result = zpyro("evaluate", text_run, "--json")
    values = json.loads(result.stdout)
    data = datasets.load("text", lines)
    words = sum(len(value) for value in data.test.values)
    assert values["frames"] == words
    bound = values["elbo"] * values["sequences"]
    assert values["perplexity"] == pytest.approx(math.exp(-bound / words), rel=1e-9)
    scores = trigram(data.train, data.frame_size).score(data.test)
    assert values["baseline_trigram"] == pytest.approx(scores.mean(), rel=1e-9)
    expected = math.exp(-scores.sum() / words)
    assert values["baseline_trigram_perplexity"] == pytest.approx(expected, rel=1e-9)
    assert values["baseline_gaussian"] is None
    shown = zpyro("evaluate", text_run).stdout
    assert "Kneser-Ney trigram" in shown
    assert "perplexity" in shown


def test_other_runs_have_no_perplexity(zpyro: Zpyro, array_run: Path) -> None:
    values = json.loads(zpyro("evaluate", array_run, "--json").stdout)
    assert values["perplexity"] is None
    assert values["baseline_trigram"] is None


def test_plain_tokens_have_a_trigram_too(zpyro: Zpyro, token_run: Path) -> None:
    values = json.loads(zpyro("evaluate", token_run, "--json").stdout)
    assert 0 < values["baseline_trigram_perplexity"] < 100
    assert values["perplexity"] == pytest.approx(math.exp(-values["elbo_per_frame"]))


def test_samples_are_sentences(zpyro: Zpyro, text_run: Path, tmp_path: Path) -> None:
    result = zpyro("sample", text_run, "-n", 5, "--out", tmp_path)
    shown = result.stdout.splitlines()
    assert len(shown) == 5
    assert (tmp_path / "samples.txt").read_text().splitlines() == shown
    vocabulary = runs.open_run(text_run).load().vocabulary
    assert vocabulary is not None
    for line in shown:
        words = vocabulary.split(line.removesuffix(" [...]"))
        assert set(words) <= set(vocabulary.words)
    open_ended = zpyro("sample", text_run, "-n", 3, "--frames", 1, "--out", tmp_path).stdout
    assert all(line.endswith("[...]") or not line for line in open_ended.splitlines())


def test_samples_go_on_from_a_text(zpyro: Zpyro, text_run: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix.txt"
    prefix.write_text("The film was xylophone\n", encoding="utf-8")
    result = zpyro("sample", text_run, "-n", 3, "--prefix", prefix, "--out", tmp_path / "out")
    assert all(line.startswith("the film was <unknown>") for line in result.stdout.splitlines())
    assert "note: not in the vocabulary, so read as <unknown>: xylophone" in result.stderr
    array = tmp_path / "prefix.npy"
    np.save(array, np.array([3, 4]))
    result = zpyro("sample", text_run, "-n", 1, "--prefix", array, "--out", tmp_path / "out")
    assert result.exit_code == 0
    prefix.write_text("One line.\nAnother one.\n", encoding="utf-8")
    result = zpyro("sample", text_run, "--prefix", prefix, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "prefix.txt: has 2 lines" in result.stderr
    prefix.write_bytes(b"good \xff")
    result = zpyro("sample", text_run, "--prefix", prefix, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "byte 5 (0xff) is not UTF-8" in result.stderr


def test_other_text_is_scored_in_the_runs_vocabulary(
    zpyro: Zpyro, lines: Path, text_run: Path, tmp_path: Path
) -> None:
    """Whatever is most frequent there, a word keeps the token that the model knows it by."""
    copied = shutil.copy(lines, tmp_path / "same.txt")
    turned = tmp_path / "turned.txt"
    frequent = "good good good good all all all\n" * 30
    turned.write_text(frequent + lines.read_text(), encoding="utf-8")
    same = json.loads(zpyro("evaluate", text_run, "--data", copied, "--json").stdout)
    assert same["sequences"] == 60
    other = json.loads(zpyro("evaluate", text_run, "--data", turned, "--json").stdout)
    assert other["sequences"] == 90
    run = runs.open_run(text_run)
    vocabulary = run.load().vocabulary
    settled = run.config()
    for split in ("train", "valid", "test"):
        read = datasets.load("text", turned, settled.data, vocabulary=vocabulary).split(split)
        number = {name: i for i, name in enumerate(read.names)}
        assert vocabulary is not None
        source = turned.read_text().splitlines()
        for name, i in number.items():
            line = source[int(name.rpartition("#")[2]) - 1]
            assert vocabulary.split(line) == [
                vocabulary.words[token] for token in read.values[i][:-1]
            ]


def test_text_is_prepared_and_trained_on(zpyro: Zpyro, lines: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    result = zpyro("data", "prepare", "text", lines, "--out", prepared, "--workers=1")
    assert result.exit_code == 0, result.output
    assert "tokens are words" in result.stdout
    assert zpyro("data", "verify", prepared).exit_code == 0
    out = train(zpyro, "text", prepared, tmp_path / "run", "--max-steps", 4)
    ours, theirs = (
        json.loads(zpyro("evaluate", out, *more, "--json").stdout)
        for more in ((), ("--data", lines, "--split=test"))
    )
    assert ours["sequences"] == theirs["sequences"]
    assert ours["elbo"] == pytest.approx(theirs["elbo"], rel=1e-6)
    assert "frames" in ours


def test_training_goes_on_only_with_the_same_words(
    zpyro: Zpyro, lines: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(lines, tmp_path / "notes.txt"))
    out = train(zpyro, "text", file, tmp_path / "run")
    result = zpyro("train", "--resume", out, "--max-steps", 14)
    assert result.exit_code == 0, result.output
    file.write_text(lines.read_text() + "entirely other words\n" * 60, encoding="utf-8")
    result = zpyro("train", "--resume", out, "--max-steps", 16)
    assert result.exit_code == 2
    assert "the data are not those it was trained on" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "vocabulary.json: is corrupt"),
        ("[1, 2]", "vocabulary.json: holds no list of words"),
        ('{"unit": "word", "lower_case": true, "words": ["a"]}', "is not a vocabulary"),
        ('{"unit": "page", "lower_case": true, "words": []}', "unit or lower_case is wrong"),
        (
            json.dumps({"unit": "word", "lower_case": True, "words": [*SPECIAL, "film"]}),
            "has 4 words, the model",
        ),
        (None, "vocabulary.json: is missing"),
    ],
)
def test_a_damaged_vocabulary_is_named(
    zpyro: Zpyro, text_run: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    copied = Path(shutil.copytree(text_run, tmp_path / "run"))
    path = copied / "best" / "vocabulary.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
        meta = json.loads((copied / "best" / "meta.json").read_text())
        meta["sha256"]["vocabulary.json"] = hashlib.sha256(content.encode()).hexdigest()
        (copied / "best" / "meta.json").write_text(json.dumps(manifest.signed(meta)))
    result = zpyro("sample", copied, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") <= 2


def test_a_table_counts_tokens(
    zpyro: Zpyro, text_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zpyro.training.callbacks.GrowingPace.due", lambda *_: True)
    result = zpyro("evaluate", text_run, "--bound", "iwae", "--particles", 2)
    assert result.exit_code == 0, result.output
    assert "per token" in result.stdout
    assert "frame" not in result.stdout
    assert "importance-weighted bound, 2 paths a sequence: 9 of 9" in result.stderr
