"""The published maze archives, for those who have them, read without unpickling anything.

An archive is a folder ``maze_data_train_9`` or ``maze_data_test_N`` with the arrays ``inputs.npy``,
(count, 3, side, side), and ``solutions.npy``, (count, side, side).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.datasets.formats.declared import DAMAGED
from zpyro.errors import UserError

from .mazes import check_size, side


def archived(folder: Path, split: str, size: int, count: int) -> tuple[Tensor, Tensor]:
    """The first mazes of an archive, in the published geometry.

    Args:
        folder: where the folders of the archives are.
        split: "train" or "test".
        size: of the mazes.
        count: how many at most.

    Returns:
        Pictures, uint8 (N, 3, side, side), and masks of the paths, uint8 (N, side, side).

    Raises:
        UserError: if there is no such archive, or it is damaged.
    """
    check_size(size)
    place = folder / f"maze_data_{split}_{size}"
    if not place.is_dir():
        raise UserError(f"{folder}: has no folder {place.name}; --data names its parent")
    inputs, solutions = _array(place / "inputs.npy"), _array(place / "solutions.npy")
    length = side(size, "published")
    if inputs.shape[1:] != (3, length, length) or solutions.shape != (
        len(inputs),
        length,
        length,
    ):
        raise UserError(
            f"{place}: shapes {inputs.shape} and {solutions.shape} are not those of mazes of "
            f"size {size}, (N, 3, {length}, {length}) and (N, {length}, {length})"
        )
    return _bits(inputs[:count], place), _bits(solutions[:count], place)


def compacted(pictures: Tensor) -> Tensor:
    """Published pictures (..., side, side) in the compact geometry: every other pixel."""
    return pictures[..., 1:-1:2, 1:-1:2].contiguous()


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read as an array ({error})") from error


def _bits(values: NDArray[Any], place: Path) -> Tensor:
    # Portion by portion: the archives hold a number of eight bytes for every black or white pixel.
    bits = np.empty(values.shape, dtype=np.uint8)
    for first in range(0, len(values), 1000):
        portion = np.asarray(values[first : first + 1000])
        if portion.dtype.kind not in "biuf" or not np.isin(portion, (0, 1)).all():
            raise UserError(f"{place}: holds other numbers than 0 and 1; is it damaged?")
        bits[first : first + 1000] = portion
    return torch.from_numpy(bits)
