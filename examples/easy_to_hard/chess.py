"""Lichess's chess puzzles, sorted by rating, as boards and the squares of the best move.

Each row of the export is a position before the opponent's last move and a list of moves: the first
is that last move and is played on the position, the second is the one to find.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.errors import UserError

from .chess_board import Board
from .chess_export import Row, rows
from .chess_moves import checked, played

PLANES = 12
"""The mover's king, queen, bishops, knights, rooks and pawns, then the opponent's."""


MOST_PUZZLES = 1 << 25
"""Puzzles of a file that are held in memory, 2.4 GB; Lichess's export has about 5 million."""

OTHER_SIDE = np.array([0, *range(7, 13), *range(1, 7)], dtype=np.uint8)
"""What a piece's number becomes when the colors change places."""

_RIGHTS = tuple((1 << n, right) for n, right in enumerate("KQkq"))
_UPSIDE_DOWN = np.arange(64).reshape(8, 8)[::-1].ravel()


# A puzzle as bytes, so that millions fit: the same layout for struct and for numpy.
_PACKED = struct.Struct("<?BBhBb")
_RECORD = np.dtype(
    [
        ("board", np.uint8, 64),
        ("black", np.bool_),
        ("origin", np.uint8),
        ("destination", np.uint8),
        ("rating", "<i2"),
        ("rights", np.uint8),
        ("en_passant", np.int8),
    ]
)


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

    def __len__(self) -> int:
        return len(self.boards)

    def __getitem__(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> ChessPuzzles:
        return ChessPuzzles(
            self.boards[index],
            self.black[index],
            self.origins[index],
            self.destinations[index],
            self.ratings[index],
            self.rights[index],
            self.en_passant[index],
        )

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
        """One plane for each kind of piece, the mover's first, 1 where one stands.

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


def read_puzzles(path: Path, skip_bad: bool = False) -> ChessPuzzles:
    """Read an export and sort it by rating.

    Args:
        path: a .csv in any of Lichess's layouts, plain or compressed.
        skip_bad: leave out rows that cannot be read, and count them, instead of refusing the file.

    Raises:
        UserError: if the file is bad (see :func:`.chess_export.rows`), holds no puzzle, or, without
            ``skip_bad``, has a bad row: malformed FEN, illegal move, no rating, missing columns.
    """
    records = bytearray()
    most = MOST_PUZZLES * _RECORD.itemsize
    skipped, first_damage = 0, ""
    for row in rows(path):
        try:
            records += _record(row)
        except UserError as error:
            if not skip_bad:
                raise UserError(f"{path}: row {row.number} {error}") from error
            skipped, first_damage = skipped + 1, first_damage or f"row {row.number} {error}"
        if len(records) > most:
            raise UserError(f"{path}: holds more than {MOST_PUZZLES:,} puzzles; give a part of it")
    if not records:
        reason = f"; {skipped} bad rows, the first: {first_damage}" if skipped else ""
        raise UserError(f"{path}: holds no puzzle that can be read{reason}")
    table = np.frombuffer(records, dtype=_RECORD)
    table = table[np.argsort(table["rating"], kind="stable")]
    columns = {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}
    return ChessPuzzles(
        columns["board"],
        columns["black"],
        columns["origin"],
        columns["destination"],
        columns["rating"],
        columns["rights"],
        columns["en_passant"],
        skipped,
        first_damage,
    )


def _record(row: Row) -> bytes:
    """A row as the bytes of a record, once the opponent has moved."""
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
    return bytes(board.squares) + _PACKED.pack(
        not board.white, move.origin, move.destination, int(rating), rights, board.en_passant
    )
