"""The files of MNIST in a folder, and their images as 0 and 1."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.formats.folders import check_folder
from zpyro.datasets.formats.image_files import PIXELS, SIDE, Bits, read_amat, read_idx
from zpyro.errors import UserError

AMAT = {split: f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")}
IDX = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}

EXPECTED = (
    f"{', '.join(AMAT.values())} (the static binarization by Salakhutdinov and Murray, as H."
    f" Larochelle published it), or {' and '.join(IDX.values())} (the original MNIST archives,"
    " unpacked or still .gz)"
)
MISSING = (
    f"it is free, but nothing is downloaded: give a folder with --data DIR that holds {EXPECTED}"
)

PLACES = ("", "raw", "MNIST/raw")
"""Where in the folder the files are looked for; the last two as torchvision leaves them."""


def find(folder: Path) -> dict[str, Path]:
    """The files by split: "train", "valid" and "test" of ``.amat``, else "train" and "test" of idx.

    Raises:
        UserError: if neither all of the one kind nor of the other are there.
    """
    check_folder(
        folder,
        "the folder that holds the files of MNIST",
        f"mnist is free, --data must hold {EXPECTED}",
    )
    found = [_found(folder, names) for names in (AMAT, IDX)]
    for names, files in zip((AMAT, IDX), found, strict=True):
        if len(files) == len(names):
            return files
    for names, files in zip((AMAT, IDX), found, strict=True):
        if files:
            missing = ", ".join(name for split, name in names.items() if split not in files)
            raise UserError(f"{folder}: {missing} is missing; put it beside the others")
    raise UserError(f"{folder} holds no MNIST files; mnist is free, --data must hold {EXPECTED}")


def read(path: Path, split: str, *, seed: int, downsample: int) -> Bits:
    """The images of one of the files, (N, pixels) of 0 and 1.

    Args:
        path: an ``.amat`` or idx file.
        split: which of them it is.
        seed: of :func:`binarize`, for idx files.
        downsample: factor of :func:`shrink`.

    Raises:
        UserError: if the file cannot be used.
    """
    if ".amat" in path.name:
        return shrink(read_amat(path), downsample)
    return shrink(binarize(read_idx(path), seed, split).reshape(-1, PIXELS), downsample)


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


def _found(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """The files of these names by split, gzipped or not, with a dot or a dash before "idx".

    A folder of such a name is looked into.
    """
    found: dict[str, Path] = {}
    for split, name in names.items():
        spellings = dict.fromkeys((name, name.replace("-idx", ".idx")))
        plain = [f"{spelling}{ending}" for spelling in spellings for ending in ("", ".gz")]
        # Unpacked by some programs, a file is in a folder of its name, with or without .gz.
        within = [f"{outer}/{inner}" for outer in plain for inner in plain]
        for path in (folder / place / name for place in PLACES for name in (*plain, *within)):
            # A link that leads nowhere is there too: reading it says what is wrong with it. So does
            # reading a folder, but a file that is found later counts.
            if os.path.lexists(path) and (split not in found or found[split].is_dir()):
                found[split] = path
    return found
