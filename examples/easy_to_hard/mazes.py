"""Mazes with one path from start to end, generated or read from the published archives.

A maze of odd size n has m x m cells, m = (n + 1) / 2, and the walls or openings between them, which
makes a grid of n x n. Its openings are a spanning tree of the cells, so exactly one path leads from
the start to the end. The randomized depth-first search that makes the tree begins at the start, as
the published one does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.datasets.formats.declared import DAMAGED
from zpyro.errors import UserError, pluralize

Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]

BORDERS = {"published": 3, "compact": 1}
"""Pixels of the border by geometry, the way to draw a maze: see :meth:`Mazes.images`."""

SMALLEST = 3
"""The smallest size with more than one cell."""

_CELLS_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Drawing:
    """N mazes as grids of n x n.

    Attributes:
        passages: True where there is no wall, (N, n, n).
        paths: True from start to end, both included, (N, n, n).
        starts: row and column of the starts in the grid, (N, 2).
        ends: row and column of the ends, (N, 2).
    """

    passages: Booleans
    paths: Booleans
    starts: Integers
    ends: Integers

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, index: slice | Integers) -> Drawing:
        return Drawing(*(values[index] for values in vars(self).values()))


class Mazes:
    """Distinct mazes of one size; more mazes of the same seed begin with the fewer.

    Mazes that repeat an earlier one are dropped and replaced by others.

    Args:
        size: side of the grid, odd and at least 3; the published ones are 9 to 59.
        count: how many mazes.
        seed: of the draw.

    Attributes:
        drawing: the mazes as grids.
        repeats: number of mazes that were dropped because they repeated an earlier one.

    Raises:
        UserError: if the size is even or too small, or has fewer mazes.

    Source: appendix of arXiv:2108.06011, the data sets of arXiv:2106.04537::

        @article{schwarzschild2021datasets,
          title={Datasets for Studying Generalization from Easy to Hard Examples},
          author={Schwarzschild, Avi and Borgnia, Eitan and Gupta, Arjun and Bansal, Arpit and
                  Emam, Zeyad and Huang, Furong and Goldblum, Micah and Goldstein, Tom},
          journal={arXiv:2108.06011}, year={2021}
        }
    """

    def __init__(self, size: int, count: int, seed: int = 0) -> None:
        check_size(size)
        if count < 1:
            raise UserError(f"{count} mazes were asked for; ask for at least 1")
        self.size = size
        self.drawing, self.repeats = _distinct(size, count, seed)

    def __len__(self) -> int:
        return len(self.drawing)

    def images(self, geometry: str = "published") -> Tensor:
        """Pictures of 0 and 1: walls black, passages white, the start green, the end red.

        Args:
            geometry: "published" draws every grid square as 2 x 2 pixels within a border of 3,
                side 4m + 4; "compact" as one pixel within a border of 1, side 2m + 1.

        Returns:
            uint8, (N, 3, side, side), in the order red, green, blue.
        """
        mazes = np.arange(len(self))
        drawing = self.drawing
        colors = np.repeat(drawing.passages[:, None], 3, axis=1).astype(np.uint8)
        for channel, ends in ((0, drawing.ends), (1, drawing.starts)):
            rows, columns = ends.T
            colors[mazes, :, rows, columns] = np.eye(3, dtype=np.uint8)[channel]
        return _drawn(colors, geometry)

    def masks(self, geometry: str = "published") -> Tensor:
        """1 on the path from start to end, both included, 0 elsewhere: uint8, (N, side, side)."""
        return _drawn(self.drawing.paths.astype(np.uint8), geometry)


def check_size(size: int) -> None:
    """Refuse sizes that no maze has.

    Raises:
        UserError: if the size is even or below 3.
    """
    error = size_error(size)
    if error is not None:
        raise UserError(error)


def size_error(size: int) -> str | None:
    """What is wrong with a size, if anything."""
    if size < SMALLEST:
        return f"maze size {size} is too small; choose an odd size of {SMALLEST} or more"
    if size % 2 == 0:
        return f"maze size {size} is even; choose an odd size such as {size + 1}"
    return None


def side(size: int, geometry: str) -> int:
    """Pixels in a row of a picture.

    Raises:
        UserError: if there is no such geometry.
    """
    return (2 * size if geometry == "published" else size) + 2 * border(geometry)


def border(geometry: str) -> int:
    """Pixels of the border on each side.

    Raises:
        UserError: if there is no such geometry.
    """
    if geometry not in BORDERS:
        raise UserError(f"geometry {geometry!r} is unknown; choose one of {', '.join(BORDERS)}")
    return BORDERS[geometry]


def passages(inputs: Tensor) -> Tensor:
    """True where there is no wall, (B, side, side), from pictures (B, 3, side, side)."""
    return inputs.amax(1) > 0


def mosaics(pictures: Tensor, across: int, geometry: str) -> Tensor:
    """Squares of pictures; neighbors share the border between them.

    In a mosaic a network sees other mazes, other starts and ends, next to each maze that it solves,
    as it does in the distant parts of a larger maze.

    Args:
        pictures: (N, ..., side, side); those that do not fill a mosaic are left out.
        across: pictures in a row of a mosaic.
        geometry: that of the pictures, which gives their border.

    Returns:
        (N // across^2, ..., length, length) with length = across (side - border) + border.

    Raises:
        UserError: if there is no such geometry.
    """
    count, shared, length = across**2, border(geometry), pictures.shape[-1]
    groups = pictures[: len(pictures) // count * count].unflatten(0, (-1, count))
    step = length - shared
    whole = across * step + shared
    joined = pictures.new_zeros(len(groups), *pictures.shape[1:-2], whole, whole)
    for place, (row, column) in enumerate(np.ndindex(across, across)):
        rows = slice(row * step, row * step + length)
        columns = slice(column * step, column * step + length)
        joined[..., rows, columns] = groups[:, place]
    return joined


def _drawn(grids: NDArray[np.uint8], geometry: str) -> Tensor:
    size = grids.shape[-1]
    length = side(size, geometry)
    pictures = np.zeros((*grids.shape[:-2], length, length), dtype=np.uint8)
    if geometry == "compact":
        pictures[..., 1:-1, 1:-1] = grids
    else:
        for row, column in np.ndindex(2, 2):
            pictures[..., 3 + row : -3 : 2, 3 + column : -3 : 2] = grids
    return torch.from_numpy(pictures)


def _distinct(size: int, count: int, seed: int) -> tuple[Drawing, int]:
    """The first ``count`` distinct mazes of a seed, and how many repeats were among them."""
    kept: list[Drawing] = []
    seen: set[bytes] = set()
    found = drawn = 0
    for drawing in _draws(size, seed):
        fresh = _fresh(drawing, seen)[: count - found]
        kept.append(drawing[fresh])
        found += len(fresh)
        if found == count:
            # Mazes after the last one that is kept do not count.
            repeats = drawn + int(fresh[-1]) + 1 - count
            arrays = zip(*(vars(drawing).values() for drawing in kept), strict=True)
            return Drawing(*map(np.concatenate, arrays)), repeats
        drawn += len(drawing)
        if drawn > 100 * count + 100_000:
            raise UserError(
                f"{pluralize(count, 'maze')} of size {size} asked for, but {drawn} draws held only "
                f"{found} different ones; ask for fewer or larger mazes"
            )
    raise AssertionError("the draws never end")


def _fresh(drawing: Drawing, seen: set[bytes]) -> Integers:
    """Indices of the mazes not in ``seen``, which learns them."""
    ends = np.concatenate([drawing.starts, drawing.ends], axis=1).astype(np.uint16)
    walls = np.packbits(drawing.passages.reshape(len(drawing), -1), axis=1)
    keys = np.concatenate([walls, ends.view(np.uint8)], axis=1)
    fresh: list[int] = []
    for index, key in enumerate(keys):
        name = key.tobytes()
        if name not in seen:
            seen.add(name)
            fresh.append(index)
    return np.array(fresh, dtype=np.int64)


def _draws(size: int, seed: int) -> Iterator[Drawing]:
    """An endless stream of mazes, in portions that depend on size and seed only."""
    cells = (size + 1) // 2
    portion = max(32, _CELLS_AT_A_TIME // cells**2)
    for number in itertools.count():
        yield draw(cells, portion, np.random.default_rng([seed, size, number]))


def draw(cells: int, count: int, random: np.random.Generator) -> Drawing:
    """Grow ``count`` mazes of ``cells`` x ``cells`` cells in step with each other."""
    start = random.integers(cells**2, size=count)
    # One of the other cells, each as likely.
    end = (start + random.integers(1, cells**2, size=count)) % cells**2
    # Cells are numbered in a field with a margin, where every cell has four neighbors.
    stride = cells + 2
    start, end = ((1 + n // cells) * stride + 1 + n % cells for n in (start, end))
    parents = _grown(cells, start, random)
    size = 2 * cells - 1
    inner = (np.arange(1, cells + 1)[:, None] * stride + np.arange(1, cells + 1)).ravel()
    passages = np.zeros((count, size, size), dtype=bool)
    mazes = np.arange(count)
    for cell in inner:
        _open(passages, mazes, np.full(count, cell), parents[:, cell], stride)
    paths = _paths(parents, start, end, size, stride)
    return Drawing(passages, paths, _place(start, stride), _place(end, stride))


def _grown(cells: int, start: Integers, random: np.random.Generator) -> Integers:
    """Parents in the trees of a depth-first search from ``start``: (N, cells of the field)."""
    count, stride = len(start), cells + 2
    field = stride**2
    offsets = np.array([-stride, -1, 1, stride])
    rows = np.arange(count)
    free = np.zeros((count, stride, stride), dtype=bool)
    free[:, 1:-1, 1:-1] = True
    free = free.reshape(-1)
    free[rows * field + start] = False
    parents = np.zeros((count, field), dtype=np.int64)
    parents[rows, start] = start
    stack = np.zeros((count, cells**2), dtype=np.int64)
    stack[:, 0] = start
    depth = np.zeros(count, dtype=np.int64)
    # Every cell but the first is entered once and, but for the last, left once.
    for _ in range(2 * cells**2 - 3):
        here = stack[rows, depth]
        neighbors = here[:, None] + offsets
        open_ways = free[(rows * field)[:, None] + neighbors]
        lots = random.random((count, 4), dtype=np.float32) + open_ways
        chosen = neighbors[rows, lots.argmax(1)]
        advance = open_ways.any(1)
        moving = rows[advance]
        cell = chosen[advance]
        free[moving * field + cell] = False
        parents[moving, cell] = here[advance]
        depth += np.where(advance, 1, -1)
        np.maximum(depth, 0, out=depth)
        stack[moving, depth[advance]] = cell
    return parents


def _paths(parents: Integers, start: Integers, end: Integers, size: int, stride: int) -> Booleans:
    """The grid squares from every end up to its start, (N, size, size)."""
    paths = np.zeros((len(start), size, size), dtype=bool)
    mazes, here = np.arange(len(start)), end
    while len(mazes):
        above = parents[mazes, here]
        _open(paths, mazes, here, above, stride)
        going = here != start[mazes]
        mazes, here = mazes[going], above[going]
    return paths


def _open(grids: Booleans, mazes: Integers, cell: Integers, parent: Integers, stride: int) -> None:
    """Mark a cell of each maze and the square between it and its parent."""
    place, other = _place(cell, stride), _place(parent, stride)
    between = (place + other) // 2
    grids[mazes, place[:, 0], place[:, 1]] = True
    grids[mazes, between[:, 0], between[:, 1]] = True


def _place(cell: Integers, stride: int) -> Integers:
    """Row and column in the grid of cells numbered in the field, (N, 2)."""
    return 2 * np.stack([cell // stride - 1, cell % stride - 1], axis=-1)


def archived(folder: Path, split: str, size: int, count: int) -> tuple[Tensor, Tensor]:
    """The first mazes of a published archive, in the published geometry.

    An archive is a folder ``maze_data_train_9`` or ``maze_data_test_N`` with the arrays
    ``inputs.npy``, (count, 3, side, side), and ``solutions.npy``, (count, side, side). Nothing is
    unpickled.

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
