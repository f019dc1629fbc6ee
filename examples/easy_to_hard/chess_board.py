"""A chess board, read from FEN and changed by moves, and its legal moves.

Squares are numbered 0 (a1), 1 (b1) .. 63 (h8). Pieces are numbers: 0 for none, 1 to 6 for the white
king, queen, bishop, knight, rook and pawn, 7 to 12 for the black ones: the order of the planes of
the published chess data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zpyro.errors import UserError

PIECES = ".KQBNRPkqbnrp"
KING, QUEEN, BISHOP, KNIGHT, ROOK, PAWN = range(1, 7)
BLACK = 6
"""The difference between the numbers of a black and a white piece."""

_NUMBERS = bytes.maketrans(PIECES.encode(), bytes(range(13)))
_EXPANDED = str.maketrans({str(n): "." * n for n in range(1, 9)})
_PROMOTIONS = {"q": QUEEN, "b": BISHOP, "n": KNIGHT, "r": ROOK}


def square(name: str) -> int:
    """The number of a square such as "e4".

    Raises:
        UserError: if there is no such square.
    """
    if len(name) != 2 or name[0] not in "abcdefgh" or name[1] not in "12345678":
        raise UserError(f"there is no square {name!r}; squares are a1 to h8")
    return "abcdefgh".index(name[0]) + 8 * (int(name[1]) - 1)


def square_name(number: int) -> str:
    """The name of a square such as "e4"."""
    return "abcdefgh"[number % 8] + str(number // 8 + 1)


class Move(NamedTuple):
    """From one square to another; castling is the king's move.

    Attributes:
        origin: number of the square left.
        destination: number of the square reached.
        promotion: the white number of the piece that a pawn becomes, 0 for none.
    """

    origin: int
    destination: int
    promotion: int = 0

    @classmethod
    def read(cls, text: str) -> Move:
        """A move in long algebraic notation, such as "e2e4" or "a7a8q".

        Raises:
            UserError: if it is not one.
        """
        promotion = text[4:]
        if len(text) < 4 or (promotion and promotion not in _PROMOTIONS):
            raise UserError(f"{text!r} is not a move; moves look like e2e4 or a7a8q")
        return cls(square(text[:2]), square(text[2:4]), _PROMOTIONS.get(promotion, 0))

    def __str__(self) -> str:
        promotion = PIECES[self.promotion].lower() if self.promotion else ""
        return square_name(self.origin) + square_name(self.destination) + promotion


def _lines(steps: tuple[tuple[int, int], ...], longest: int) -> list[list[tuple[int, ...]]]:
    """For every square, the squares reached one after another in each direction."""
    table: list[list[tuple[int, ...]]] = []
    for start in range(64):
        file, rank = start % 8, start // 8
        lines: list[tuple[int, ...]] = []
        for right, up in steps:
            reached = [
                (rank + up * n) * 8 + file + right * n
                for n in range(1, longest + 1)
                if 0 <= rank + up * n < 8 and 0 <= file + right * n < 8
            ]
            if reached:
                lines.append(tuple(reached))
        table.append(lines)
    return table


_STRAIGHT = ((1, 0), (-1, 0), (0, 1), (0, -1))
_DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
_LEAPS = ((1, 2), (2, 1), (-1, 2), (-2, 1), (1, -2), (2, -1), (-1, -2), (-2, -1))

LINES = {
    KING: _lines(_STRAIGHT + _DIAGONAL, 1),
    QUEEN: _lines(_STRAIGHT + _DIAGONAL, 7),
    BISHOP: _lines(_DIAGONAL, 7),
    KNIGHT: _lines(_LEAPS, 1),
    ROOK: _lines(_STRAIGHT, 7),
}
"""The squares that each piece but the pawn reaches from every square, line by line."""

PAWN_CAPTURES = {
    True: [[s for line in lines for s in line] for lines in _lines(((1, 1), (-1, 1)), 1)],
    False: [[s for line in lines for s in line] for lines in _lines(((1, -1), (-1, -1)), 1)],
}
"""The squares that a pawn of White (True) or Black (False) attacks from each square."""

# Castling by right: king from and to, rook from and to.
CASTLING = {"K": (4, 6, 7, 5), "Q": (4, 2, 0, 3), "k": (60, 62, 63, 61), "q": (60, 58, 56, 59)}
_RIGHTS_LOST = {4: "KQ", 7: "K", 0: "Q", 60: "kq", 63: "k", 56: "q"}


class Board:
    """A position.

    Attributes:
        squares: the piece on each of the 64 squares.
        white: whether White is to move.
        castling: the rights that are left, of "KQkq".
        en_passant: the square behind a pawn that has just moved two, or -1.
    """

    __slots__ = ("castling", "en_passant", "squares", "white")

    def __init__(self, squares: bytearray, white: bool, castling: str, en_passant: int) -> None:
        self.squares = squares
        self.white = white
        self.castling = castling
        self.en_passant = en_passant

    @classmethod
    def read(cls, fen: str) -> Board:
        """The position that a FEN describes; the move counters may be missing.

        Raises:
            UserError: if it is malformed, or no position of a game.
        """
        fields = fen.split()
        if len(fields) not in (4, 6):
            raise UserError(f"FEN {fen!r} has {len(fields)} fields; it needs 6")
        placement, turn, castling, en_passant = fields[:4]
        if turn not in ("w", "b"):
            raise UserError(f"FEN {fen!r} gives the move to {turn!r}; it must be w or b")
        if not all(counter.isdecimal() for counter in fields[4:]):
            raise UserError(f"FEN {fen!r} ends with move counters that are no numbers")
        board = cls(_placed(placement, fen), turn == "w", castling.replace("-", ""), -1)
        board._check_castling(fen)
        if en_passant != "-":
            board.en_passant = square(en_passant)
            board._check_en_passant(fen)
        if board.in_check(not board.white):
            raise UserError(f"FEN {fen!r} lets the side to move capture the king")
        return board

    def after(self, move: Move) -> Board:
        """The position after a move, which must be at least pseudo-legal."""
        squares = self.squares[:]
        origin, destination, promotion = move
        piece = squares[origin]
        kind = piece if piece <= BLACK else piece - BLACK
        en_passant = -1
        squares[origin] = 0
        squares[destination] = promotion + piece - kind if promotion else piece
        if kind == PAWN:
            if destination == self.en_passant:
                squares[destination + (-8 if self.white else 8)] = 0
            if abs(destination - origin) == 16:
                en_passant = (origin + destination) // 2
        elif kind == KING and abs(destination - origin) == 2:
            for king, king_to, rook, rook_to in CASTLING.values():
                if (king, king_to) == (origin, destination):
                    squares[rook_to], squares[rook] = squares[rook], 0
        castling = self.castling
        for changed in (origin, destination):
            for right in _RIGHTS_LOST.get(changed, "") if castling else "":
                castling = castling.replace(right, "")
        return Board(squares, not self.white, castling, en_passant)

    def attacked(self, target: int, by_white: bool) -> bool:
        """Whether a piece of one side could capture on a square."""
        squares, side = self.squares, 0 if by_white else BLACK
        # Seen from the target: a piece attacks it where the same piece there would attack back.
        for diagonal, kind in ((True, BISHOP), (False, ROOK)):
            near, queen, slider = side + KING, side + QUEEN, side + kind
            for line in LINES[BISHOP if diagonal else ROOK][target]:
                first = True
                for place in line:
                    piece = squares[place]
                    if piece:
                        if piece in (queen, slider) or (first and piece == near):
                            return True
                        break
                    first = False
        knight, pawn = side + KNIGHT, side + PAWN
        return any(squares[line[0]] == knight for line in LINES[KNIGHT][target]) or any(
            squares[place] == pawn for place in PAWN_CAPTURES[not by_white][target]
        )

    def in_check(self, white: bool) -> bool:
        """Whether the king of White (True) or Black (False) is attacked."""
        return self.attacked(self.squares.index(KING if white else KING + BLACK), not white)

    def _check_castling(self, fen: str) -> None:
        for right in self.castling:
            king, _, rook, _ = CASTLING.get(right, (0, 0, 0, 0))
            side = 0 if right.isupper() else BLACK
            if (
                right not in CASTLING
                or self.castling.count(right) > 1
                or self.squares[king] != KING + side
                or self.squares[rook] != ROOK + side
            ):
                raise UserError(f"FEN {fen!r} has a castling right {right!r} that cannot be")

    def _check_en_passant(self, fen: str) -> None:
        rank, ahead = (5, -8) if self.white else (2, 8)
        pawn = PAWN + BLACK if self.white else PAWN
        target = self.en_passant
        if (
            target // 8 != rank
            or self.squares[target]
            or self.squares[target - ahead]
            or self.squares[target + ahead] != pawn
        ):
            raise UserError(f"FEN {fen!r} has an en passant square that no pawn has passed")


def _placed(placement: str, fen: str) -> bytearray:
    """The 64 squares from the first field of a FEN, which lists the eighth rank first."""
    ranks = placement.translate(_EXPANDED).split("/")
    text = "".join(reversed(ranks))
    if len(ranks) != 8 or any(len(rank) != 8 for rank in ranks) or set(text) - set(PIECES):
        raise UserError(f"FEN {fen!r} does not place pieces on 8 ranks of 8 squares")
    if text.count("K") != 1 or text.count("k") != 1:
        raise UserError(f"FEN {fen!r} needs one white and one black king")
    if "P" in text[:8] + text[56:] or "p" in text[:8] + text[56:]:
        raise UserError(f"FEN {fen!r} has a pawn on the first or last rank")
    return bytearray(text.encode().translate(_NUMBERS))


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
    """The position after a move such as "e2e4"; raises as :func:`checked`."""
    return board.after(checked(board, text))


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
    """The number of games with this many moves from a position ("perft")."""
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
