"""Lichess's chess puzzles, sorted by rating, as boards and the squares of the best move.

They are read from Lichess's export or from the published tensors. Each row of the export is a
position before the opponent's last move and a list of moves: the first is that last move and is
played on the position, the second is the one to find.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.errors import UserError, pluralize

from .chess_board import Board, checked, played
from .chess_export import Row, rows

PLANES = 12
"""The mover's king, queen, bishops, knights, rooks and pawns, then the opponent's."""


MOST_PUZZLES = 1 << 25
"""Puzzles of a file that are held in memory, 2.4 GB; Lichess's export has about 5 million."""

OTHER_SIDE = np.array([0, *range(7, 13), *range(1, 7)], dtype=np.uint8)
"""The number of the same piece of the other color, by number."""

_RIGHTS = tuple((1 << n, right) for n, right in enumerate("KQkq"))
_UPSIDE_DOWN = np.arange(64).reshape(8, 8)[::-1].ravel()


# A puzzle as bytes, so that millions fit: the same layout for struct and for numpy.
_PACKED = struct.Struct("<64s?BBhBb")
_COLUMNS = ("boards", "black", "origins", "destinations", "ratings", "rights", "en_passant")
_RECORD = np.dtype(list(zip(_COLUMNS, ("64u1", "?", "u1", "u1", "<i2", "u1", "i1"), strict=True)))


COMPRESSED = (".zst", ".gz", ".bz2", ".xz")
"""Suffixes after ``.csv`` that exports in a folder may have."""

_PORTION = 10_000


@dataclass(frozen=True)
class ChessPuzzles:
    """Puzzles in the order of their ratings; those of equal rating keep the order of the file.

    Attributes:
        boards: pieces as numbers, see :mod:`.chess_board`, before the move to find: uint8 (N, 64).
        black: whether Black is to move, (N,).
        origins: the square that the move to find leaves, uint8 (N,).
        destinations: the square that it reaches, uint8 (N,).
        ratings: Lichess's rating of the puzzle, (N,).
        rights: which of the castling rights K, Q, k, q are left, as bits 1, 2, 4, 8, (N,).
        en_passant: the square where a pawn can be captured en passant, -1 for none, (N,).
        skipped: how many bad rows were left out.
        first_damage: what was wrong with the first of them, "" if none.
        repeated: how many rows were left out that an earlier file had.

    Source: arXiv:2108.06011, section 2.3; the puzzles are CC0, database.lichess.org.
    """

    boards: NDArray[np.uint8]
    black: NDArray[np.bool_]
    origins: NDArray[np.uint8]
    destinations: NDArray[np.uint8]
    ratings: NDArray[np.int16]
    rights: NDArray[np.uint8]
    en_passant: NDArray[np.int8]
    skipped: int = 0
    first_damage: str = ""
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.boards)

    def __getitem__(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> ChessPuzzles:
        return ChessPuzzles(*(getattr(self, name)[index] for name in _COLUMNS))

    def board(self, index: int) -> Board:
        """The position of one puzzle."""
        castling = "".join(right for bit, right in _RIGHTS if self.rights[index] & bit)
        return Board(
            bytearray(self.boards[index].tobytes()),
            not self.black[index],
            castling,
            int(self.en_passant[index]),
        )

    def planes(self, turned: bool = True) -> Tensor:
        """One plane for each kind of piece, the mover's first: 1 where there is one.

        Args:
            turned: whether rows are counted from the mover's side of the board, so that Black's
                pawns move up too, as the published training does; the published files have the
                first rank first for both.

        Returns:
            uint8, (N, 12, 8, 8): rows are ranks, columns files a to h.
        """
        boards = np.where(self.black[:, None], OTHER_SIDE[self.boards], self.boards)
        boards = self._turned(boards) if turned else boards
        planes = boards[:, None] == np.arange(1, PLANES + 1, dtype=np.uint8)[:, None]
        return torch.from_numpy(planes.astype(np.uint8)).view(-1, PLANES, 8, 8)

    def squares(self, turned: bool = True) -> Tensor:
        """1 on the origin and the destination of the move to find: uint8, (N, 8, 8)."""
        squares = np.zeros((len(self), 64), dtype=np.uint8)
        puzzles = np.arange(len(self))
        squares[puzzles, self.origins] = 1
        squares[puzzles, self.destinations] = 1
        return torch.from_numpy(self._turned(squares) if turned else squares).view(-1, 8, 8)

    def _turned(self, boards: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(self.black[:, None], boards[:, _UPSIDE_DOWN], boards)


def read_puzzles(source: Path, skip_bad: bool = False) -> ChessPuzzles:
    """The puzzles of an export, or of all exports in a folder, sorted by rating.

    A puzzle that several files hold is taken from the first of them, in the order of their names.

    Args:
        source: a file, see :func:`.chess_export.rows`, or a folder, see :func:`exports`.
        skip_bad: leave out bad rows instead of stopping at the first one.

    Raises:
        UserError: naming the file, and the row where there is one: for a missing or damaged file,
            a bad row without ``skip_bad``, or no puzzle at all.
    """
    files = exports(source) if source.is_dir() else [source]
    records = bytearray()
    most = MOST_PUZZLES * _RECORD.itemsize
    skipped, repeated, first_damage = 0, 0, ""
    known: set[str] = set()
    for path in files:
        ids: list[str] = []
        for row in rows(path):
            if row.values is not None and row.values[0] in known:
                repeated += 1
                continue
            try:
                records += _record(row)
            except UserError as error:
                if not skip_bad:
                    raise UserError(
                        f"{path}: row {row.number} {error}; --skip-bad leaves such rows out"
                    ) from error
                where = f"row {row.number}" if source == path else f"{path.name} row {row.number}"
                skipped, first_damage = skipped + 1, first_damage or f"{where} {error}"
                continue
            if len(files) > 1 and row.values is not None:
                ids.append(row.values[0])
            if len(records) > most:
                raise UserError(
                    f"{path}: holds more than {MOST_PUZZLES:,} puzzles; give a part of it"
                )
        known.update(ids)
    if not records:
        reason = f"; {skipped} bad rows, the first: {first_damage}" if skipped else ""
        raise UserError(f"{source}: holds no puzzle that can be read{reason}")
    table = np.frombuffer(records, dtype=_RECORD)
    table = table[np.argsort(table["ratings"], kind="stable")]
    columns = (np.ascontiguousarray(table[name]) for name in _COLUMNS)
    return ChessPuzzles(*columns, skipped=skipped, first_damage=first_damage, repeated=repeated)


def exports(folder: Path) -> list[Path]:
    """The puzzle exports in a folder, by name: ``*.csv``, also compressed, but no hidden files."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.name.lower().endswith(tuple(f".csv{suffix}" for suffix in ("", *COMPRESSED)))
    )


def _record(row: Row) -> bytes:
    """The puzzle of a row, after the opponent's move, as the bytes of a record."""
    if row.values is None:
        raise UserError(row.damage)
    _, fen, moves, rating = row.values
    listed = moves.split()
    if len(listed) < 2:
        raise UserError(f"lists {len(listed)} moves; a puzzle needs 2 or more")
    if not rating.isdecimal() or not 0 < int(rating) < 2**15:
        raise UserError(f"has the rating {rating!r}, which is not a rating")
    board = played(Board.read(fen), listed[0])
    move = checked(board, listed[1])
    rights = sum(bit for bit, right in _RIGHTS if right in board.castling)
    squares = (not board.white, move.origin, move.destination)
    return _PACKED.pack(bytes(board.squares), *squares, int(rating), rights, board.en_passant)


def archived_puzzles(folder: Path) -> ChessPuzzles:
    """The puzzles of the published tensors, which are sorted by rating; runs no pickled code.

    Args:
        folder: holds ``data.pth`` (N, 12, 8, 8), ``segment_targets.pth`` or ``targets.pth``
            (N, 8, 8), ``who_moves.pth`` (N, 1), and perhaps ``rating.pth`` (N, 1).

    Returns:
        Puzzles without castling rights and en passant squares, which the tensors do not hold; of
        rating 0 where there are no ratings.

    Raises:
        UserError: if a file is missing or damaged.
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
        raise UserError(
            f"{path}: has {pluralize(len(ratings), 'rating')} for {pluralize(count, 'puzzle')}"
        )
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
