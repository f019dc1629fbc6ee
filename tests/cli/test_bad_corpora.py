"""Damaged corpora at `zpyro data prepare`: every bad file is told, and nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Zpyro
from tests.datasets.test_mnist import gray, idx_bytes, idx_files, texts
from tests.datasets.test_preparation import books, damage
from tests.datasets.test_text_files import pack, polarity

__all__ = ["books", "idx_files", "texts"]

pytestmark = pytest.mark.fast

Prepare = Callable[..., str]


@pytest.fixture
def refused(zpyro: Zpyro, tmp_path: Path) -> Prepare:
    """Prepares a damaged corpus; gives what the user reads, in one piece."""

    def run(name: str, source: Path, *more: str) -> str:
        out = tmp_path / "prepared"
        result = zpyro("data", "prepare", name, source, "--out", out, *more)
        assert result.exit_code == 2, result.output
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert not (out / "index.json").exists()
        assert zpyro("train", "--dataset", name, "--data", out).exit_code == 2
        return re.sub(r"\s+", "", result.output)

    return run


def test_recordings(refused: Prepare, zpyro: Zpyro, books: Path, tmp_path: Path) -> None:
    bad = damage(books)
    told = refused("blizzard", books, "--set=data.frame_size=20", "--set=data.segment_length=5")
    assert all(name in told for name in bad)
    kept = zpyro(
        *("data", "prepare", "blizzard", books, "--out", tmp_path / "kept", "--skip-bad"),
        *("--set=data.frame_size=20", "--set=data.segment_length=5"),
    )
    assert kept.exit_code == 0, kept.output
    assert all(name in kept.output for name in bad)
    assert (tmp_path / "kept" / "index.json").exists()


def test_idx_with_a_wrong_count(refused: Prepare, idx_files: Path) -> None:
    name = "train-images-idx3-ubyte"
    (idx_files / name).write_bytes(idx_bytes(gray(12), count=13))
    assert name in refused("mnist", idx_files)


def test_amat_with_a_short_line(refused: Prepare, texts: Path) -> None:
    path = texts / "binarized_mnist_test.amat"
    path.write_text(path.read_text().replace(" 1\n", "\n", 1).replace(" 0\n", "\n", 1))
    assert path.name in refused("mnist", texts)


def test_reviews_that_are_no_utf8(refused: Prepare, tmp_path: Path) -> None:
    source = polarity(tmp_path / "source")
    bad = [source / "txt_sentoken/pos/cv004_1234.txt", source / "txt_sentoken/neg/cv007_1234.txt"]
    bad[0].write_bytes(b"fine \xff")
    bad[1].write_bytes(b"")
    told = refused("imdb", source)
    assert all(path.name in told for path in bad)


def test_an_archive_that_leads_out(refused: Prepare, zpyro: Zpyro, tmp_path: Path) -> None:
    folder = polarity(tmp_path / "folder")
    archive = pack(folder, tmp_path / "reviews.tar.gz", ("../evil.txt", b"words"))
    assert "unpackitfirst" in refused("imdb", archive)
    trained = zpyro("train", "--dataset", "imdb", "--data", archive, "--out", tmp_path / "run")
    assert trained.exit_code == 2
    assert "'../evil.txt' leads out of the archive" in trained.stderr
    assert not (tmp_path.parent / "evil.txt").exists()
    assert not (tmp_path / "evil.txt").exists()
    assert not (tmp_path / "run").exists()
