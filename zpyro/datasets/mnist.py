"""``mnist``: binarised handwritten digits, pixel by pixel or row by row."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.image_files import PIXELS, SIDE, Bits, read_amat, read_idx
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.errors import UserError
from zpyro.settings import setting

AMAT = {split: f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")}
IDX = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}

EXPECTED = (
    f"{', '.join(AMAT.values())} (the static binarisation by Salakhutdinov and Murray, as H."
    f" Larochelle published it), or {' and '.join(IDX.values())} (the original MNIST archives,"
    " unpacked or still .gz)"
)
MISSING = (
    f"it is free, but nothing is downloaded: give a folder with --data DIR that holds {EXPECTED}"
)

PLACES = ("", "raw", "MNIST/raw")
"""Where in the folder the files are looked for; the last two as torchvision leaves them."""

VALID_SHARE = 6
"""One in so many training images of the idx files validates: 10,000 of 60,000."""


@dataclass(frozen=True)
class MnistSettings:
    """How digits become sequences; as published, 784 steps of one pixel each."""

    row_by_row: bool = setting(False, "a step is a row of pixels in place of one pixel")
    downsample: int = setting(
        1,
        "make blocks of so many by so many pixels one pixel, on where at least half of them are;"
        " a divisor of 28",
        at_least=1,
        at_most=SIDE,
    )
    binarization_seed: int = setting(
        0, "of the one draw that makes grey idx images black and white", at_least=0
    )

    def __post_init__(self) -> None:
        if self.downsample < 1 or SIDE % self.downsample:
            raise UserError(f"data.downsample is {self.downsample}; it must divide {SIDE}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of an image as modelled."""
        return SIDE // self.downsample, SIDE // self.downsample


def load(folder: Path, settings: MnistSettings) -> Dataset:
    """Read binarised digits, Bernoulli frames from the top left to the bottom right.

    Where the three ``.amat`` files are there, they are the three splits. Otherwise the idx files
    are binarised (see :func:`binarize`); the last sixth of the training images (10,000 of the
    60,000) validates.

    Raises:
        UserError: if files are missing or cannot be used.
    """
    files = find(folder)
    if "valid" in files:
        bits = {split: read_amat(path) for split, path in files.items()}
        notes = ("binarised as in the .amat files",)
    else:
        bits = _from_idx(files, settings)
        notes = (
            f"binarised once, each pixel on with probability intensity / 255, seed"
            f" {settings.binarization_seed}; the last sixth of the training images validates",
        )
    parts = {split: to_sequences(split, found, settings) for split, found in bits.items()}
    size = parts["train"].frame_size
    return Dataset("mnist", parts["train"], parts["valid"], parts["test"], "bernoulli", size, notes)


def load_all(folder: Path, settings: MnistSettings, _normalization: Normalization) -> Sequences:
    """Every digit of a folder as one split.

    Raises:
        UserError: if files are missing or cannot be used.
    """
    return load(folder, settings).split("all")


def find(folder: Path) -> dict[str, Path]:
    """The files by split: "train", "valid" and "test" of ``.amat``, else "train" and "test" of idx.

    Raises:
        UserError: if neither all of the one kind nor of the other are there.
    """
    if not folder.is_dir():
        what = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise UserError(f"{folder} {what}; mnist is free, --data must hold {EXPECTED}")
    found = [_found(folder, names) for names in (AMAT, IDX)]
    for names, files in zip((AMAT, IDX), found, strict=True):
        if len(files) == len(names):
            return files
    for names, files in zip((AMAT, IDX), found, strict=True):
        if files:
            missing = ", ".join(name for split, name in names.items() if split not in files)
            raise UserError(f"{folder}: {missing} is missing; put it beside the others")
    raise UserError(f"{folder} holds no MNIST files; mnist is free, --data must hold {EXPECTED}")


def binarize(images: NDArray[np.uint8], seed: int, split: str) -> Bits:
    """Images of 0 to 255 as 0 and 1, each pixel on with probability intensity / 255.

    The draw depends on the seed, the split and the pixel's place in the file alone, on no version
    of numpy, and not on how many images follow.

    Args:
        images: (N, ...).
        seed: of the draw.
        split: "train" or "test", so that the two get draws of their own.
    """
    stream = np.random.PCG64(np.random.SeedSequence((seed, sorted(IDX).index(split))))
    bits = np.empty(images.shape, np.uint8)
    for image, out in zip(images, bits, strict=True):
        # 255 divides 2^64 - 1, so that the remainders are uniform but for one draw in 2^64.
        draws = stream.random_raw(image.size) % np.uint64(255)
        out[...] = draws.reshape(image.shape) < image
    return bits


def shrink(bits: Bits, factor: int) -> Bits:
    """Images (N, 784) with blocks of factor x factor pixels made one, (N, 784 / factor^2).

    A pixel is on where at least half of its block is.
    """
    if factor == 1:
        return bits
    side = SIDE // factor
    blocks = bits.reshape(-1, side, factor, side, factor).sum((2, 4), dtype=np.uint16)
    return (2 * blocks >= factor**2).astype(np.uint8).reshape(-1, side * side)


def to_sequences(split: str, bits: Bits, settings: MnistSettings) -> Sequences:
    """Images (N, 784) of 0 and 1 as sequences, kept as bytes."""
    rows, columns = settings.image_shape
    size = columns if settings.row_by_row else 1
    values = shrink(bits, settings.downsample).reshape(len(bits), -1, size)
    return Sequences(
        values=tuple(values),
        names=tuple(f"{split}/{number}" for number in range(len(bits))),
        kind="binary",
        image_shape=(rows, columns),
    )


def _from_idx(files: dict[str, Path], settings: MnistSettings) -> dict[str, Bits]:
    bits = {
        split: binarize(read_idx(path), settings.binarization_seed, split).reshape(-1, PIXELS)
        for split, path in files.items()
    }
    train = len(bits["train"]) - round(len(bits["train"]) / VALID_SHARE)
    if train == len(bits["train"]):
        raise UserError(f"{files['train']}: has {train} images, too few to hold some out")
    return {"train": bits["train"][:train], "valid": bits["train"][train:], "test": bits["test"]}


def _found(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """The files of these names by split, gzipped or not, with a dot or a dash before "idx"."""
    found: dict[str, Path] = {}
    for split, name in names.items():
        spellings = dict.fromkeys((name, name.replace("-idx", ".idx")))
        for path in (
            folder / place / f"{spelling}{ending}"
            for place in PLACES
            for spelling in spellings
            for ending in ("", ".gz")
        ):
            # A link that leads nowhere is there too: reading it says what is wrong with it.
            if split not in found and os.path.lexists(path):
                found[split] = path
    return found
