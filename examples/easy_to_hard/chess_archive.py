"""The published chess tensors, for those who have them, read without running pickled code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.errors import UserError

from .chess import OTHER_SIDE, PLANES, ChessPuzzles

_PORTION = 10_000


def archived_puzzles(folder: Path) -> ChessPuzzles:
    """The puzzles of ``data.pth``, which are sorted by rating already.

    Args:
        folder: holds ``data.pth`` (N, 12, 8, 8), ``segment_targets.pth`` or ``targets.pth``
            (N, 8, 8), ``who_moves.pth`` (N, 1), and perhaps ``rating.pth`` (N, 1).

    Returns:
        Puzzles without castling rights and en passant squares, which the tensors do not hold; of
        rating 0 where there are no ratings.

    Raises:
        UserError: if a file is missing or is not what it should be.
    """
    targets_path = folder / "segment_targets.pth"
    if not targets_path.exists():
        targets_path = folder / "targets.pth"
    planes, black = _tensor(folder / "data.pth"), _tensor(folder / "who_moves.pth").flatten()
    targets, count = _tensor(targets_path), len(black)
    if planes.shape != (count, PLANES, 8, 8) or targets.shape != (count, 8, 8):
        raise UserError(
            f"{folder}: data {tuple(planes.shape)} and targets {tuple(targets.shape)} should be "
            f"({count}, 12, 8, 8) and ({count}, 8, 8)"
        )
    path = folder / "rating.pth"
    ratings = _tensor(path).flatten() if path.exists() else torch.zeros(count)
    if len(ratings) != count:
        raise UserError(f"{path}: has {len(ratings)} ratings for {count} puzzles")
    sides = black.bool().numpy()
    boards = _boards(planes, sides, folder / "data.pth")
    origins, destinations = _moves(targets, boards, sides, targets_path)
    return ChessPuzzles(
        boards,
        sides,
        origins,
        destinations,
        ratings.to(torch.int16).numpy(),
        np.zeros(count, dtype=np.uint8),
        np.full(count, -1, dtype=np.int8),
    )


def _tensor(path: Path) -> Tensor:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as a tensor ({reason})") from error
    if not isinstance(found, Tensor):
        raise UserError(f"{path}: holds no tensor but a {type(found).__name__}")
    return found


def _boards(planes: Tensor, black: NDArray[np.bool_], path: Path) -> NDArray[np.uint8]:
    boards = np.zeros((len(planes), 64), dtype=np.uint8)
    numbers = torch.arange(1, PLANES + 1).view(1, PLANES, 1)
    for first in range(0, len(planes), _PORTION):
        portion = planes[first : first + _PORTION].flatten(2) > 0
        if int(portion.sum(1).max()) > 1:
            raise UserError(f"{path}: has two pieces on one square; is it damaged?")
        boards[first : first + _PORTION] = (portion * numbers).sum(1).numpy()
    return np.where(black[:, None], OTHER_SIDE[boards], boards)


def _moves(
    targets: Tensor, boards: NDArray[np.uint8], black: NDArray[np.bool_], path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Origins, where the mover has a piece, and destinations, where not."""
    marked = targets.flatten(1).numpy() > 0
    mine = (boards > 6) == black[:, None]
    origins, destinations = marked & mine & (boards > 0), marked & ~(mine & (boards > 0))
    if not (origins.sum(1) == 1).all() or not (destinations.sum(1) == 1).all():
        raise UserError(f"{path}: does not mark two squares of a move in every puzzle")
    return origins.argmax(1).astype(np.uint8), destinations.argmax(1).astype(np.uint8)
