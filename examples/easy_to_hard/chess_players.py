"""Players without learning, to compare networks with: any legal move, and the greediest."""

from __future__ import annotations

from collections.abc import Callable

from .chess import ChessPuzzles
from .chess_board import BISHOP, BLACK, KNIGHT, PAWN, QUEEN, ROOK, Board, Move
from .chess_moves import legal_moves

VALUES = {0: 0, PAWN: 1, KNIGHT: 3, BISHOP: 3, ROOK: 5, QUEEN: 9}
"""What pieces are worth by the usual count, by white number."""


def chance(puzzles: ChessPuzzles) -> float:
    """The expected fraction of puzzles solved by playing any legal move, all alike likely.

    As for networks only the squares count: promotions to different pieces are one move.
    """
    return _solved(puzzles, _any)


def greedy(puzzles: ChessPuzzles) -> float:
    """The expected fraction solved by the move that wins most material at once.

    What the opponent takes back is not looked at; of equally good moves any is played.
    """
    return _solved(puzzles, _greediest)


def gain(board: Board, move: Move) -> int:
    """The material that a move wins: what it captures and what its pawn becomes."""
    captured = board.squares[move.destination]
    pawn = board.squares[move.origin] == (PAWN if board.white else PAWN + BLACK)
    if pawn and move.destination == board.en_passant:
        captured = PAWN
    kind = captured - BLACK if captured > BLACK else captured
    promoted = VALUES[move.promotion] - VALUES[PAWN] if move.promotion else 0
    return VALUES[kind] + promoted


def _any(board: Board, moves: list[Move]) -> list[Move]:
    del board
    return moves


def _greediest(board: Board, moves: list[Move]) -> list[Move]:
    gains = [gain(board, move) for move in moves]
    best = max(gains)
    return [move for move, won in zip(moves, gains, strict=True) if won == best]


def _solved(puzzles: ChessPuzzles, candidates: Callable[[Board, list[Move]], list[Move]]) -> float:
    total = 0.0
    for index in range(len(puzzles)):
        board = puzzles.board(index)
        played = {move[:2] for move in candidates(board, legal_moves(board))}
        best = (int(puzzles.origins[index]), int(puzzles.destinations[index]))
        total += (best in played) / len(played)
    return total / len(puzzles)
