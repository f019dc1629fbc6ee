"""Chess rules against published counts of games, and FENs that no game leads to."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard.chess_board import (
    Board,
    Move,
    checked,
    count_games,
    legal_moves,
    played,
    square,
    square_name,
)

START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"

# The standard test positions and counts of https://www.chessprogramming.org/Perft_Results.
COUNTS = {
    START: (20, 400, 8902),
    "r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1": (48, 2039, 97862),
    "8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1": (14, 191, 2812, 43238),
    "r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq - 0 1": (6, 264, 9467),
    "r2q1rk1/pP1p2pp/Q4n2/bbp1p3/Np6/1B3NBn/pPPP1PPP/R3K2R b KQ - 0 1": (6, 264, 9467),
    "rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8": (44, 1486, 62379),
    "r4rk1/1pp1qppp/p1np1n2/2b1p1B1/2B1P1b1/P1NP1N2/1PP1QPPP/R4RK1 w - - 0 10": (46, 2079, 89890),
}


@pytest.mark.parametrize("fen", COUNTS)
def test_games_are_as_many_as_published(fen: str) -> None:
    board = Board.read(fen)
    for moves, count in enumerate(COUNTS[fen], start=1):
        assert count_games(board, moves) == count


@pytest.mark.parametrize("name", ["lichess_db_puzzle.csv", "lichess_db_puzzle_dailydate.csv"])
def test_every_listed_move_of_real_puzzles_is_legal(data_folder: Path, name: str) -> None:
    path = data_folder / "lichess" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    moves = 0
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            board = Board.read(row["FEN"])
            for text in row["Moves"].split():
                board = played(board, text)
                moves += 1
            # A puzzle that ends in mate leaves no legal move and a king in check.
            if "mateIn1" in row["Themes"].split():
                assert legal_moves(board) == []
                assert board.in_check(board.white)
    assert moves > 2000


def after(fen: str, *moves: str) -> Board:
    board = Board.read(fen)
    for text in moves:
        board = played(board, text)
    return board


def pieces(board: Board) -> dict[str, int]:
    return {square_name(n): piece for n, piece in enumerate(board.squares) if piece}


@pytest.mark.fast
def test_castling_moves_the_rook_and_spends_the_rights() -> None:
    board = after("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1g1", "e8c8")
    assert pieces(board) == {"a1": 5, "f1": 5, "g1": 1, "c8": 7, "d8": 11, "h8": 11}
    assert board.castling == ""
    assert after("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "a1a8").castling == "Kk"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fen", "move"),
    [
        ("4k3/8/8/8/8/8/4r3/R3K2R w KQ - 0 1", "e1g1"),  # out of check
        ("4k3/8/8/8/8/8/5r2/R3K2R w KQ - 0 1", "e1g1"),  # through check
        ("4k3/8/8/8/8/8/6r1/R3K2R w KQ - 0 1", "e1g1"),  # into check
        ("4k3/8/8/8/8/8/8/R3KB1R w KQ - 0 1", "e1g1"),  # over a bishop
        ("4k3/8/8/8/8/8/8/R3K2R w Q - 0 1", "e1g1"),  # without the right
        ("4k3/8/8/8/4r3/8/4B3/4K3 w - - 0 1", "e2d3"),  # pinned
        ("4k3/8/8/8/8/8/8/4K3 w - - 0 1", "e8e7"),  # the other side's king
        ("4k3/8/8/8/8/8/8/4K3 w - - 0 1", "a1a2"),  # nothing there
        ("4k3/P7/8/8/8/8/8/4K3 w - - 0 1", "a7a8"),  # no promotion named
        ("4k3/8/P7/8/8/8/8/4K3 w - - 0 1", "a6a7q"),  # promotion too early
        ("4k3/8/8/8/8/4p3/4P3/4K3 w - - 0 1", "e2e4"),  # over a pawn
    ],
)
def test_illegal_moves_are_refused(fen: str, move: str) -> None:
    with pytest.raises(UserError, match=f"move {move} is illegal"):
        checked(Board.read(fen), move)


@pytest.mark.fast
def test_castling_long_past_an_attacked_b_file() -> None:
    assert checked(Board.read("1r2k3/8/8/8/8/8/8/R3K3 w Q - 0 1"), "e1c1") == Move(4, 2)


@pytest.mark.fast
def test_en_passant_takes_the_pawn_beside_and_only_at_once() -> None:
    start = "4k3/3p4/8/4P3/8/8/8/4K3 b - - 0 1"
    assert pieces(after(start, "d7d5", "e5d6")) == {"d6": 6, "e8": 7, "e1": 1}
    with pytest.raises(UserError, match="illegal"):
        after(start, "d7d5", "e1d1", "e8e7", "e5d6")


@pytest.mark.fast
def test_en_passant_that_opens_a_rank_to_the_king_is_illegal() -> None:
    with pytest.raises(UserError, match="leaves the king attacked"):
        after("8/8/8/K2pP2r/8/8/8/4k3 w - d6 0 1", "e5d6")


@pytest.mark.fast
def test_promotion_changes_the_piece() -> None:
    assert pieces(after("4k3/P7/8/8/8/8/8/4K3 w - - 0 1", "a7a8n"))["a8"] == 4
    assert pieces(after("4k3/8/8/8/8/8/p7/4K3 b - - 0 1", "a2a1q"))["a1"] == 8


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fen", "message"),
    [
        ("", "has 0 fields"),
        ("8/8/8/8/8/8/8/8 w", "has 2 fields"),
        (START.replace(" w ", " x "), "gives the move to 'x'"),
        (START.replace("8/8", "8"), "8 ranks of 8"),
        (START.replace("8/8", "9/8"), "8 ranks of 8"),
        (START.replace("8/8", "7/8"), "8 ranks of 8"),
        (START.replace("RNBQ", "RNXQ"), "8 ranks of 8"),
        (START.replace("K", "Q", 1), "one white and one black king"),
        (START.replace("R", "K"), "one white and one black king"),
        ("4k2P/8/8/8/8/8/8/4K3 w - - 0 1", "pawn on the first or last rank"),
        ("4k3/8/8/8/8/8/8/4K2R w KQ - 0 1", "castling right 'Q'"),
        ("4k3/8/8/8/8/8/8/4K2R w KK - 0 1", "castling right 'K'"),
        ("4k3/8/8/8/8/8/8/4K2R w AH - 0 1", "castling right 'A'"),
        (START.replace("- 0", "e3 0"), "en passant"),
        (START.replace("- 0", "e9 0"), "no square 'e9'"),
        (START.replace("0 1", "0 one"), "counters"),
        ("4k3/8/8/8/8/8/4R3/4K3 w - - 0 1", "capture the king"),
    ],
)
def test_malformed_positions_are_refused(fen: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Board.read(fen)


@pytest.mark.fast
@pytest.mark.parametrize("text", ["", "e2", "e2e", "e2e9", "i2i4", "e7e8k", "e2e4qq", "O-O"])
def test_words_that_are_no_moves_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a move|no square"):
        checked(Board.read(START), text)


@pytest.mark.fast
def test_moves_and_squares_are_named_as_read() -> None:
    assert [str(Move.read(text)) for text in ("e2e4", "a7a8q")] == ["e2e4", "a7a8q"]
    assert [square(square_name(n)) for n in range(64)] == list(range(64))
