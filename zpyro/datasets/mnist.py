"""``mnist``: binarized handwritten digits, pixel by pixel or row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets import mnist_files
from zpyro.datasets.corpora import loaders
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.image_files import SIDE
from zpyro.datasets.mnist_files import MISSING
from zpyro.datasets.prepared.corpus import (
    Corpus,
    FileSpan,
    Layout,
    ParsedFile,
    Reader,
    SourceFile,
    Split,
)
from zpyro.errors import UserError
from zpyro.settings import setting

__all__ = ["MISSING", "Mnist", "MnistSettings"]

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
        0, "of the one draw that makes gray idx images black and white", at_least=0
    )

    def __post_init__(self) -> None:
        if self.downsample < 1 or SIDE % self.downsample:
            raise UserError(f"data.downsample is {self.downsample}; it must divide {SIDE}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of an image as modeled."""
        return SIDE // self.downsample, SIDE // self.downsample

    @property
    def frame_size(self) -> int:
        """Pixels in a step."""
        return self.image_shape[1] if self.row_by_row else 1


def _places(counts: Mapping[str, int]) -> dict[str, tuple[str, int, int]]:
    """For each split the file, its first image there, and the one after its last.

    Args:
        counts: images in each file.

    """
    found = {split: (split, 0, count) for split, count in counts.items()}
    if "valid" not in counts:
        whole = counts["train"]
        train = whole - round(whole / VALID_SHARE)
        found |= {"train": ("train", 0, train), "valid": ("train", train, whole)}
    return found


def _note(settings: MnistSettings, *, gray: bool) -> str:
    """How the images became black and white."""
    if not gray:
        return "binarized as in the .amat files"
    return (
        "binarized once, each pixel on with probability intensity / 255, seed"
        f" {settings.binarization_seed}; the last sixth of the training images validates"
    )


class Mnist(Corpus):
    """Binarized digits, Bernoulli frames from the top left to the bottom right.

    Where the three ``.amat`` files are there, they are the three splits. Otherwise the idx files
    are binarized (see :func:`zpyro.datasets.mnist_files.binarize`); the last sixth of the training
    images (10,000 of the 60,000) validates.
    """

    name = "mnist"
    dtype = "uint8"

    def items(self, source: Path, settings: Any) -> list[SourceFile]:
        del settings
        found = mnist_files.find(source)
        return [SourceFile(path.name, path, split) for split, path in found.items()]

    def reader(self, settings: MnistSettings) -> Reader:
        return MnistReader(settings)

    def make_splits(
        self, spans: Sequence[FileSpan], shard_metadata: Sequence[Any], settings: MnistSettings
    ) -> tuple[dict[str, Split], Layout]:
        del shard_metadata
        rows, columns = settings.image_shape
        files = {item.group: item for item in spans}
        gray = not any(".amat" in item.key for item in spans)
        missing = ({"train", "test"} if gray else {"train", "valid", "test"}) - files.keys()
        if missing:
            raise UserError(f"mnist cannot do without its {min(missing)} images; repair that file")
        counts = {split: item.count // (rows * columns) for split, item in files.items()}
        splits = {
            split: _split(split, files[file].start + first * rows * columns, last - first, settings)
            for split, (file, first, last) in _places(counts).items()
        }
        layout = Layout(
            data_type="binary",
            likelihood="bernoulli",
            frame_size=settings.frame_size,
            image_shape=(rows, columns),
            notes=(_note(settings, gray=gray),),
        )
        return splits, layout


@dataclass(frozen=True)
class MnistReader(Reader):
    """Reads whole files: the largest, 50,000 images as text, has 78 MB."""

    settings: MnistSettings

    def read(self, item: SourceFile) -> ParsedFile:
        seed, factor = self.settings.binarization_seed, self.settings.downsample
        bits = mnist_files.read(item.path, item.group, seed=seed, downsample=factor)
        return ParsedFile(bits.reshape(-1), (bits.size,))


def _split(name: str, start: int, count: int, settings: MnistSettings) -> Split:
    """So many images from a position on, called ``name#0``, ``name#1`` and so on."""
    pixels = settings.image_shape[0] * settings.image_shape[1]
    numbers = np.arange(count)
    rows = np.stack(
        [start + numbers * pixels, np.full(count, pixels), np.zeros(count, np.int64), numbers], 1
    )
    return Split(rows, (name,))


ENTRY = DatasetEntry(
    "mnist",
    "binarized handwritten digits: 784 steps of a pixel, or 28 of a row",
    MnistSettings,
    *loaders(Mnist()),
    MISSING,
    corpus=Mnist(),
    has_workers=True,
)
