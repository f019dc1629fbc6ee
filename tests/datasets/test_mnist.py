"""Binarized digits from every file they come in, good and bad."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import scipy.io

from zpyro import UserError, datasets
from zpyro.datasets import mnist_files
from zpyro.datasets.formats.image_files import read_amat, read_idx
from zpyro.datasets.mnist import Mnist, MnistSettings
from zpyro.datasets.prepared import prepare
from zpyro.datasets.sequences import Normalization

pytestmark = pytest.mark.fast


def digits(count: int, seed: int = 0) -> np.ndarray:
    """Bits (N, 784)."""
    return (np.random.default_rng(seed).random((count, 784)) < 0.2).astype(np.uint8)


def gray(count: int, seed: int = 0) -> np.ndarray:
    """Intensities (N, 28, 28), black and white among them."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28)).astype(np.uint8)
    images[:, :5], images[:, 5:8] = 0, 255
    return images


def write_text(path: Path, bits: np.ndarray) -> None:
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in bits))


def idx_bytes(images: np.ndarray, count: int | None = None, magic: int = 0x803) -> bytes:
    head = struct.pack(">4I", magic, len(images) if count is None else count, *images.shape[1:])
    return head + images.tobytes()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for seed, (name, count) in enumerate((("train", 8), ("valid", 3), ("test", 4))):
        write_text(tmp_path / f"binarized_mnist_{name}.amat", digits(count, seed))
    return tmp_path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("outer", ["dash", "dot", "beside"])
def test_a_folder_of_the_right_name_hides_nothing(
    tmp_path: Path, outer: str, place: str, ending: str
) -> None:
    """Kaggle's archive has each file within a folder of its name, and some programs unpack so."""
    folder = tmp_path / place
    for split, count in (("train", 12), ("t10k", 5)):
        content = idx_bytes(gray(count))
        name = f"{split}-images-idx3-ubyte"
        around = folder / (name if outer != "dot" else name.replace("-idx", ".idx"))
        around.mkdir(parents=True)
        path = around / f"{name}{ending}"
        if outer == "beside":
            path = folder / f"{split}-images.idx3-ubyte{ending}"
        path.write_bytes(gzip.compress(content) if ending else content)
    found = mnist_files.find(tmp_path)
    assert [len(read_idx(path)) for path in found.values()] == [12, 5]


@pytest.fixture
def idx_files(tmp_path: Path) -> Path:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(gray(12)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(gray(5, seed=1))))
    return tmp_path


def load(folder: Path | None, **changes: Any) -> datasets.Dataset:
    """As the command line loads it, prepared in one process and into a place of its own."""
    if folder is None:
        return datasets.load("mnist")
    settings = MnistSettings(**changes)
    with TemporaryDirectory() as place:
        store = prepare(Mnist(), folder, Path(place) / "prepared", settings)
        return in_memory(Mnist().dataset(store))


def in_memory(data: datasets.Dataset) -> datasets.Dataset:
    """The same data set without files."""
    parts = {
        name: replace(
            part,
            values=tuple(np.array(value) for value in part.values),
            names=tuple(part.names),
            start=None if part.start is None else np.stack(list(part.start)),
        )
        for name in ("train", "valid", "test")
        for part in (data.split(name),)
    }
    return replace(data, **parts)


def joined(sequences: datasets.Sequences) -> np.ndarray:
    return np.stack([value.reshape(-1) for value in sequences.values])


def test_text_files_are_the_three_splits(texts: Path) -> None:
    data = load(texts)
    assert (data.likelihood, data.frame_size, data.train.data_type) == ("bernoulli", 1, "binary")
    for seed, (split, count) in enumerate((("train", 8), ("valid", 3), ("test", 4))):
        found = data.split(split)
        assert set(found.lengths) == {784}
        assert found.values[0].dtype == np.uint8
        assert found.start is None
        np.testing.assert_array_equal(joined(found), digits(count, seed))
    batch = data.test.batch()
    assert batch.x.shape == (4, 784, 1)
    assert batch.x.dtype.is_floating_point
    np.testing.assert_array_equal(batch.x[..., 0].numpy(), digits(4, 2))


@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.int16, np.float32, bool])
@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_under_the_same_names(texts: Path, kind: type, compressed: bool) -> None:
    path = texts / "binarized_mnist_train.amat"
    bits = digits(6, seed=9)
    with path.open("wb") as stream:
        scipy.io.savemat(stream, {"data": bits.astype(kind)}, do_compression=compressed)
    np.testing.assert_array_equal(read_amat(path), bits)
    np.testing.assert_array_equal(joined(load(texts).train), bits)


def test_rows_and_smaller_images_are_the_same_digits(texts: Path) -> None:
    bits = digits(4, 2).reshape(4, 28, 28)
    rows = load(texts, row_by_row=True)
    assert rows.frame_size == 28
    assert rows.test.image_shape == (28, 28)
    np.testing.assert_array_equal(np.stack(list(rows.test.values)), bits)
    small = load(texts, row_by_row=True, downsample=2).test
    for image, value in zip(bits, small.values, strict=True):
        expected = [
            [image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum() >= 2 for j in range(14)]
            for i in range(14)
        ]
        np.testing.assert_array_equal(value, expected)
    pixels = load(texts, downsample=2).test
    assert pixels.values[0].shape == (196, 1)
    assert pixels.image_shape == (14, 14)
    np.testing.assert_array_equal(joined(pixels), joined(small))


@pytest.mark.parametrize("factor", [0, 3, 29])
def test_blocks_must_fit(texts: Path, factor: int) -> None:
    with pytest.raises(UserError, match=f"downsample is {factor}"):
        load(texts, downsample=factor)


def test_gray_images_are_binarized_once(idx_files: Path) -> None:
    data = load(idx_files)
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 2, 5)
    again = load(idx_files)
    train = np.concatenate([joined(data.train), joined(data.valid)])
    np.testing.assert_array_equal(joined(data.test), joined(again.test))
    images = gray(12).reshape(12, 784)
    assert (train[images == 0] == 0).all()
    assert (train[images == 255] == 1).all()
    other = load(idx_files, binarization_seed=1)
    assert (joined(data.test) != joined(other.test)).any()


def test_pixels_are_on_as_often_as_they_are_bright() -> None:
    for intensity in (1, 64, 200, 254):
        images = np.full((40, 28, 28), intensity, np.uint8)
        bits = mnist_files.binarize(images, 0, "train")
        expected = intensity / 255
        error = (expected * (1 - expected) / bits.size) ** 0.5
        assert abs(bits.mean() - expected) < 6 * error
    # Images that follow, and the other split, change nothing and everything.
    longer = mnist_files.binarize(np.full((50, 28, 28), 254, np.uint8), 0, "train")
    np.testing.assert_array_equal(longer[:40], bits)
    assert (mnist_files.binarize(images, 0, "test") != bits).any()


def test_the_draw_never_changes() -> None:
    """Trained models are scored on these very bits."""
    bits = mnist_files.binarize(np.full((1, 28, 28), 128, np.uint8), 0, "train")
    assert "".join(map(str, bits.reshape(-1)[:32])) == "01000011000011010100100010001100"
    assert int(bits.sum()) == 382


def test_published_names_in_other_places(idx_files: Path) -> None:
    (idx_files / "MNIST" / "raw").mkdir(parents=True)
    old = idx_files / "t10k-images-idx3-ubyte.gz"
    old.rename(idx_files / "MNIST" / "raw" / "t10k-images.idx3-ubyte.gz")
    assert len(load(idx_files).test) == 5


def test_the_published_binarization_goes_before_gray_images(texts: Path, idx_files: Path) -> None:
    assert len(load(texts).train) == 8


def test_all_of_a_folder_in_one_split(texts: Path) -> None:
    assert len(load(texts).split("all")) == 15


def spoil_idx(path: Path, kind: str) -> None:
    whole = idx_bytes(gray(12))
    path.write_bytes(
        {
            "count": idx_bytes(gray(12), count=13),
            "fewer": idx_bytes(gray(12), count=11),
            "huge": idx_bytes(gray(12), count=4_000_000_000),
            "magic": idx_bytes(gray(12), magic=0x801),
            "shape": idx_bytes(np.zeros((3, 32, 32), np.uint8)),
            "cut": whole[:3000],
            "header": whole[:10],
            "empty": b"",
            "gzip_cut": gzip.compress(whole)[:-200],
            "gzip_damaged": gzip.compress(whole)[:-6] + b"damage",
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("count", "announces 13 images and holds 12; copy"),
        ("fewer", "announces 11 images and holds more"),
        ("huge", "announces 4,000,000,000 images, far more than it holds"),
        ("magic", "begins with 0x00000801, idx files of images with 0x00000803"),
        ("shape", "images of 32 x 32; MNIST's are 28 x 28"),
        ("cut", "announces 12 images and holds 3.8"),
        ("header", "is cut short, it has 10 bytes"),
        ("empty", "is an empty file"),
        ("gzip_cut", "is a cut short gzip file"),
        ("gzip_damaged", "is a damaged gzip file"),
    ],
)
def test_bad_idx_files_are_named(idx_files: Path, kind: str, message: str) -> None:
    path = idx_files / "train-images-idx3-ubyte"
    spoil_idx(path, kind)
    assert_named(idx_files, path, message)


def spoil_amat(path: Path, kind: str) -> None:
    lines = path.read_text().splitlines()
    if kind == "short":
        lines[2] = lines[2][:-2]
    elif kind == "long":
        lines[2] += " 1"
    elif kind == "token":
        lines[1] = "2" + lines[1][1:]
    elif kind == "gray":
        lines[1] = "0.5" + lines[1][1:]
    elif kind == "blank":
        lines[4] = ""
    path.write_text("\n".join(lines) + "\n")
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-101])
    elif kind == "utf8":
        path.write_bytes(b"\xff\xfe" + path.read_bytes())
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "loop":
        path.unlink()
        path.symlink_to(path)
    elif kind == "nowhere":
        path.unlink()
        path.symlink_to(path.with_name("nothing"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", "line 3 has 783 pixels; an image has 784"),
        ("long", "line 3 has 785 pixels"),
        ("token", "line 2 holds '2'"),
        ("gray", r"line 2 holds '0\.5'"),
        ("blank", "line 5 has 0 pixels"),
        ("empty", "is an empty file"),
        ("cut", "line 8 has 734 pixels"),
        ("utf8", "line 1 holds 'ÿþ"),
        ("directory", "cannot be opened"),
        ("loop", "cannot be opened"),
        ("nowhere", "cannot be opened"),
    ],
)
def test_bad_text_files_are_named(texts: Path, kind: str, message: str) -> None:
    path = texts / "binarized_mnist_train.amat"
    spoil_amat(path, kind)
    assert_named(texts, path, message)


def test_unreadable_files_are_named(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = texts / "binarized_mnist_valid.amat", Path.open

    def refuse(self: Path, *given: Any, **more: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert_named(texts, path, r"cannot be opened \(Permission denied\)")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((784, 6))}, r"one matrix of shape \(N, 784\); it holds data \(784, 6\)"),
        ({"a": np.zeros((3, 784)), "b": np.ones((2, 784))}, r"it holds a \(3, 784\), b \(2, 784\)"),
        ({"data": np.full((3, 784), 0.25)}, r"image 1 holds 0\.25"),
        ({"data": np.full((3, 784), np.nan)}, "image 1 holds nan"),
        ({"text": "words"}, "it holds none"),
    ],
)
def test_matlab_files_of_something_else(
    texts: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = texts / "binarized_mnist_train.amat"
    with path.open("wb") as stream:
        scipy.io.savemat(stream, arrays)
    assert_named(texts, path, message)


def assert_named(folder: Path, path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_told(texts: Path, tmp_path: Path) -> None:
    (texts / "binarized_mnist_valid.amat").unlink()
    with pytest.raises(UserError, match=r"binarized_mnist_valid\.amat is missing"):
        load(texts)
    empty = tmp_path / "empty"
    with pytest.raises(UserError, match="does not exist; mnist is free"):
        load(empty)
    empty.mkdir()
    for data in (empty, None):
        with pytest.raises(UserError) as caught:
            load(data)
        for words in ("free", "binarized_mnist_train.amat", "t10k-images-idx3-ubyte", ".gz"):
            assert words in str(caught.value)


def test_few_images_cannot_be_split(idx_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(idx_files / "cache"))
    (idx_files / "train-images-idx3-ubyte").write_bytes(idx_bytes(gray(2)))
    with pytest.raises(UserError, match="too few sequences for three splits"):
        datasets.load("mnist", idx_files)


def test_digits_are_prepared_on_first_use(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(texts / "cache"))
    first, again = (datasets.load("mnist", texts, row_by_row=True) for _ in range(2))
    assert len(list((texts / "cache" / "prepared").iterdir())) == 1
    for data in (first, again):
        np.testing.assert_array_equal(joined(data.test), digits(4, 2))
        assert data.test.values[0].dtype == np.uint8
        assert tuple(data.test.names) == ("test#0", "test#1", "test#2", "test#3")
    whole = datasets.load_all("mnist", texts, MnistSettings(row_by_row=True), Normalization())
    assert len(whole) == 15


def test_a_bad_file_cannot_be_left_out(texts: Path, tmp_path: Path) -> None:
    (texts / "binarized_mnist_valid.amat").write_bytes(b"")
    with pytest.raises(UserError, match="cannot do without its valid images"):
        prepare(Mnist(), texts, tmp_path / "out", MnistSettings(), skip_bad=True)


def test_real_binarized_digits(data_folder: Path) -> None:
    folder = data_folder / "binarized_mnist"
    data = load(folder)
    assert (len(data.train), len(data.valid), len(data.test)) == (2000, 250, 250)
    path = folder / "binarized_mnist_valid.amat"
    np.testing.assert_array_equal(joined(data.valid), np.loadtxt(path, dtype=np.uint8))


def test_real_gray_digits(data_folder: Path) -> None:
    data = load(data_folder / "mnist")
    assert (len(data.train), len(data.valid), len(data.test)) == (8333, 1667, 2000)
    images = read_idx(data_folder / "mnist" / "t10k-images-idx3-ubyte.gz").reshape(2000, 784)
    # The expected number of pixels that are on, within 6 standard errors.
    expected, spread = images.sum() / 255, np.sqrt((images / 255 * (1 - images / 255)).sum())
    assert abs(int(joined(data.test).sum()) - expected) < 6 * spread
