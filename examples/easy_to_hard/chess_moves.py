"""The legal moves of a chess position."""

from __future__ import annotations

from collections.abc import Iterator

from zpyro.errors import UserError

from .chess_board import (
    BISHOP,
    BLACK,
    CASTLING,
    KING,
    KNIGHT,
    LINES,
    PAWN,
    PAWN_CAPTURES,
    QUEEN,
    ROOK,
    Board,
    Move,
)


def legal_moves(board: Board) -> list[Move]:
    """Every move that the rules allow."""
    side = 0 if board.white else BLACK
    return [
        move
        for origin, piece in enumerate(board.squares)
        if side < piece <= side + BLACK
        for move in _from(board, origin, piece - side)
        if _safe(board, move)
    ]


def played(board: Board, text: str) -> Board:
    """The position after a move in long algebraic notation.

    Raises:
        UserError: if it is not a move or an illegal one.
    """
    move = checked(board, text)
    return board.after(move)


def checked(board: Board, text: str) -> Move:
    """The move that a text such as "e2e4" names.

    Raises:
        UserError: if it is not a move or an illegal one.
    """
    move = Move.read(text)
    side = 0 if board.white else BLACK
    piece = board.squares[move.origin] - side
    if not 0 < piece <= BLACK or move not in _from(board, move.origin, piece):
        raise UserError(f"move {text} is illegal: no piece can make it")
    if not _safe(board, move):
        raise UserError(f"move {text} is illegal: it leaves the king attacked")
    return move


def count_games(board: Board, moves: int) -> int:
    """How many games of so many moves there are from a position ("perft")."""
    following = legal_moves(board)
    if moves == 1:
        return len(following)
    return sum(count_games(board.after(move), moves - 1) for move in following)


def _safe(board: Board, move: Move) -> bool:
    return not board.after(move).in_check(board.white)


def _from(board: Board, origin: int, kind: int) -> Iterator[Move]:
    """Moves of a piece that obey the rules but may leave the king attacked."""
    if kind == PAWN:
        yield from _pawn(board, origin)
        return
    squares, side = board.squares, 0 if board.white else BLACK
    for line in LINES[kind][origin]:
        for destination in line:
            piece = squares[destination]
            if not side < piece <= side + BLACK:
                yield Move(origin, destination)
            if piece:
                break
    if kind == KING and board.castling:
        yield from _castling(board, origin)


def _castling(board: Board, origin: int) -> Iterator[Move]:
    for right in board.castling:
        king, destination, rook, rook_to = CASTLING[right]
        # The king may not leave, cross or (by the rule for all moves) enter an attacked square.
        if (
            king == origin
            and not any(board.squares[min(king, rook) + 1 : max(king, rook)])
            and not board.attacked(king, not board.white)
            and not board.attacked(rook_to, not board.white)
        ):
            yield Move(origin, destination)


def _pawn(board: Board, origin: int) -> Iterator[Move]:
    squares, white = board.squares, board.white
    enemy = BLACK if white else 0
    forward, first_rank = (8, 1) if white else (-8, 6)
    destinations = [
        place
        for place in PAWN_CAPTURES[white][origin]
        if enemy < squares[place] <= enemy + BLACK or place == board.en_passant
    ]
    if not squares[origin + forward]:
        destinations.append(origin + forward)
        if origin // 8 == first_rank and not squares[origin + 2 * forward]:
            destinations.append(origin + 2 * forward)
    for place in destinations:
        if place // 8 in (0, 7):
            for promotion in (QUEEN, ROOK, BISHOP, KNIGHT):
                yield Move(origin, place, promotion)
        else:
            yield Move(origin, place)
