"""Lichess's puzzles: read in every layout, sorted, turned to the mover; bad rows are named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import chess_task
from zpyro_examples.easy_to_hard.chess import ChessPuzzles, archived_puzzles, read_puzzles
from zpyro_examples.easy_to_hard.chess_board import PIECES, Board, legal_moves, square_name
from zpyro_examples.easy_to_hard.chess_task import chance, gain, greedy
from zpyro_examples.easy_to_hard.tasks import Request, SolutionTrace

HEADER = "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes,GameUrl,OpeningTags"
# White has just to take the queen; Black has just to take the rook with a pawn that becomes one.
WHITE = ("aaaaa", "4k3/8/8/3q4/8/2N5/8/4K3 b - - 0 1", "e8e7 c3d5", "1500")
BLACK = ("bbbbb", "4k3/8/8/8/8/8/p7/1R2K3 w - - 0 1", "e1e2 a2b1q", "700")
CASTLES = ("ccccc", "4k3/1p6/8/8/8/8/8/R3K2R b KQ - 0 1", "b7b6 e1g1", "1500")
REST = ",80,90,100,mate,https://lichess.org/x"


def line(puzzle: tuple[str, str, str, str], rest: str = REST + ",") -> str:
    return ",".join(puzzle) + rest


def written(path: Path, *lines: str, header: str | None = HEADER) -> Path:
    path.write_text("\n".join([*([] if header is None else [header]), *lines]) + "\n")
    return path


@pytest.fixture
def three(tmp_path: Path) -> ChessPuzzles:
    lines = [line(puzzle) for puzzle in (WHITE, BLACK, CASTLES)]
    return read_puzzles(written(tmp_path / "puzzles.csv", *lines))


@pytest.mark.fast
def test_sorted_by_rating_and_in_the_order_of_the_file(three: ChessPuzzles) -> None:
    assert three.ratings.tolist() == [700, 1500, 1500]
    assert three.black.tolist() == [True, False, False]
    moves = [
        square_name(a) + square_name(b)
        for a, b in zip(three.origins, three.destinations, strict=True)
    ]
    assert moves == ["a2b1", "c3d5", "e1g1"]
    assert three.skipped == 0


@pytest.mark.fast
def test_first_move_is_played(three: ChessPuzzles) -> None:
    letters = "".join(PIECES[piece] for piece in three.boards[1])
    assert letters.count("k") == 1
    # From e8 to e7.
    assert letters[52] == "k"
    assert letters[60] == "."


@pytest.mark.fast
def test_planes_and_squares_from_the_movers_side(three: ChessPuzzles) -> None:
    planes, squares = three.planes(), three.squares()
    assert planes.shape == (3, 12, 8, 8)
    assert planes.dtype == squares.dtype == torch.uint8
    # Black moves: its king e8 stands on its own first rank, its pawn a2 on its seventh.
    assert planes[0].nonzero().tolist() == [[0, 0, 4], [5, 6, 0], [6, 6, 4], [10, 7, 1]]
    assert squares[0].nonzero().tolist() == [[6, 0], [7, 1]]
    assert planes[1].nonzero().tolist() == [[0, 0, 4], [3, 2, 2], [6, 6, 4], [7, 4, 3]]
    assert squares[1].nonzero().tolist() == [[2, 2], [4, 3]]


@pytest.mark.fast
def test_published_planes_have_the_first_rank_first_for_both(three: ChessPuzzles) -> None:
    planes, squares = three.planes(turned=False), three.squares(turned=False)
    assert planes[0].nonzero().tolist() == [[0, 7, 4], [5, 1, 0], [6, 1, 4], [10, 0, 1]]
    assert squares[0].nonzero().tolist() == [[0, 1], [1, 0]]
    assert torch.equal(planes[1], three.planes()[1])


@pytest.mark.fast
def test_turning_colors_around_gives_the_same_problem(tmp_path: Path) -> None:
    # The same position with the colors changed and the board turned over.
    other = ("zzzzz", "4k3/8/2n5/8/3Q4/8/8/4K3 w - - 0 1", "e1e2 c6d4", "1500")
    pair = read_puzzles(written(tmp_path / "pair.csv", line(WHITE), line(other)))
    assert torch.equal(*pair.planes())
    assert torch.equal(*pair.squares())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("header", "rest"),
    [
        (HEADER, REST + ","),
        (HEADER + ",DailyDate", REST + ",,2024-01-01"),
        (HEADER.removesuffix(",OpeningTags"), REST),
        (None, REST),
        (None, REST + ",Sicilian"),
    ],
)
def test_layouts_old_and_new(tmp_path: Path, header: str | None, rest: str) -> None:
    lines = [line(puzzle, rest) for puzzle in (WHITE, BLACK, CASTLES)]
    puzzles = read_puzzles(written(tmp_path / "p.csv", *lines, header=header))
    assert puzzles.ratings.tolist() == [700, 1500, 1500]


def compress(text: str) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="the extra chess is not installed")
    return zstandard.ZstdCompressor().compress(text.encode())


@pytest.mark.fast
def test_zstd_in_one_frame_or_several(tmp_path: Path) -> None:
    lines = [HEADER, line(WHITE), line(BLACK), ""]
    path = tmp_path / "p.csv.zst"
    path.write_bytes(compress("\n".join(lines)))
    assert len(read_puzzles(path)) == 2
    path.write_bytes(compress(HEADER + "\n" + line(WHITE)[:50]) + compress(line(WHITE)[50:] + "\n"))
    assert len(read_puzzles(path)) == 1


COMPRESSIONS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.fast
@pytest.mark.parametrize("name", ["p.csv", "P.CSV", "p.csv.{}", "p.CSV.{}", "puzzles", "p.txt"])
@pytest.mark.parametrize("compression", ["", *COMPRESSIONS, "zst"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_content_decides_not_the_name(
    tmp_path: Path, name: str, compression: str, mark: str
) -> None:
    text = mark + "\r\n".join([HEADER, line(WHITE), line(BLACK), ""])
    path = tmp_path / name.format(compression.upper())
    content = text.encode()
    if compression == "zst":
        content = compress(text)
    elif compression:
        content = COMPRESSIONS[compression](content)
    path.write_bytes(content)
    assert len(read_puzzles(path)) == 2


@pytest.mark.fast
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_other_compressions_that_are_cut_off_or_damaged(tmp_path: Path, compression: str) -> None:
    random = np.random.default_rng(0)
    lines = [line((f"{random.integers(10**9)}", *WHITE[1:])) for _ in range(500)]
    whole = COMPRESSIONS[compression]("\n".join([HEADER, *lines, ""]).encode())
    path = tmp_path / "p.csv"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"p\.csv: is cut off before its end"):
        read_puzzles(path, skip_bad=True)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(50) + whole[middle + 50 :])
    with pytest.raises(UserError, match=r"p\.csv: ") as caught:
        read_puzzles(path)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_lines_without_end_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode() + b"\n" + b"x" * (1 << 26)))
    tracemalloc.start()
    with pytest.raises(UserError, match="a line of more than 65,536 characters"):
        read_puzzles(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.fast
def test_zstd_that_is_cut_off_or_damaged(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    # Ids without pattern, so that half of the file is half of the rows.
    lines = [line((f"{random.integers(10**9)}", *WHITE[1:])) for _ in range(2000)]
    whole = compress("\n".join([HEADER, *lines, ""]))
    path = tmp_path / "p.csv.zst"
    for length in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"p\.csv\.zst: is cut off before its end"):
            read_puzzles(path, skip_bad=True)
    path.write_bytes(gzip.compress(b"PuzzleId"))
    with pytest.raises(UserError, match="damaged or no zstd file"):
        read_puzzles(path)


@pytest.mark.fast
def test_zstd_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.csv.zst"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"pip install 'zpyro\[chess\]'"):
        read_puzzles(path)


BAD_ROWS = {
    "malformed FEN": (line(("x", "4k3/8 w - - 0 1", "e1e2 e8e7", "900")), "8 ranks"),
    "no FEN": (line(("x", "", "e1e2 e8e7", "900")), "0 fields"),
    "illegal first": (line((*BLACK[:2], "e1e3 a2b1q", "900")), "move e1e3 is illegal"),
    "illegal second": (line((*BLACK[:2], "e1e2 a2a3", "900")), "move a2a3 is illegal"),
    "one move": (line((*BLACK[:2], "e1e2", "900")), "lists 1 moves"),
    "no rating": (line((*BLACK[:3], "")), "rating ''"),
    "odd rating": (line((*BLACK[:3], "-1")), "rating '-1'"),
    "huge rating": (line((*BLACK[:3], "99999")), "rating '99999'"),
    "cut off": (line(BLACK)[:60], "cut off"),
    "too long": (line(BLACK) + ",,", "has 12 columns instead of 10"),
}


@pytest.mark.fast
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_named_or_skipped(tmp_path: Path, kind: str) -> None:
    bad, message = BAD_ROWS[kind]
    path = written(tmp_path / "p.csv", line(WHITE), bad, line(CASTLES), bad)
    with pytest.raises(UserError, match=rf"p\.csv: row 3 .*{message}") as caught:
        read_puzzles(path)
    assert "\n" not in str(caught.value)
    puzzles = read_puzzles(path, skip_bad=True)
    assert len(puzzles) == 2
    assert puzzles.skipped == 2
    assert puzzles.first_damage.startswith("row 3 ")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PuzzleId,FEN,Rating\nx,y,1\n", "row 1 lacks the columns Moves"),
        (b"a,b,c\n", "lacks the columns PuzzleId, FEN, Moves, Rating"),
        (HEADER.encode() + b"\n", "holds no puzzle"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        ((HEADER + "\n").encode("utf-16"), "is UTF-16, not UTF-8; save it as CSV UTF-8"),
        (b"PK\x03\x04 and more", "is a zip archive; unpack it first"),
        (b"7z\xbc\xaf\x27\x1c and more", "is a 7z archive; unpack it first"),
        (HEADER.encode() + b'\nx,"4k3', "is not CSV"),
    ],
)
def test_files_that_are_no_export(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_puzzles(path, skip_bad=True)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lichess_db_puzzle.csv", 20_000),
        ("lichess_db_puzzle_top_10000.csv.zst", 10_000),
        ("lichess_db_puzzle_dailydate.csv", 1_000),
    ],
)
def test_real_exports(data_folder: Path, name: str, count: int) -> None:
    if name.endswith(".zst"):
        pytest.importorskip("zstandard", reason="the extra chess is not installed")
    path = data_folder / "lichess" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    puzzles = read_puzzles(path)
    assert len(puzzles) == count
    assert (np.diff(puzzles.ratings) >= 0).all()
    planes, squares = puzzles.planes(), puzzles.squares()
    assert (planes[:, 0].sum((1, 2)) == 1).all()
    assert (planes[:, 6].sum((1, 2)) == 1).all()
    assert (squares.sum((1, 2)) == 2).all()
    # One of the two squares holds a piece of the mover's, the other none.
    mine = planes[:, :6].sum(1)
    assert ((squares * mine).sum((1, 2)) == 1).all()
    # Kings on the mover's first rank are many times as frequent as on the eighth.
    ranks = planes[:, 0].sum((0, 2))
    assert ranks[0] > 20 * ranks[7]


@pytest.mark.fast
def test_a_folder_of_exports_holds_each_puzzle_once(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    written(folder / "b.csv", line(WHITE), line(CASTLES), line(CASTLES))
    written(folder / "a.CSV", line(BLACK), line((*WHITE[:3], "1300")))
    for name in ("notes.txt", ".b.csv.swp", "c.csv.part", "d.csv.bak"):
        (folder / name).write_text("no puzzles")
    found = read_puzzles(folder)
    # The rating is that of the first file; what a file repeats itself stays.
    assert found.ratings.tolist() == [700, 1300, 1500, 1500]
    assert (found.repeated, found.skipped) == (1, 0)
    written(folder / "c.csv", line(("ddddd", "4k3/8 b", "e8e7", "1500")))
    with pytest.raises(UserError, match=r"c\.csv: row 2 "):
        read_puzzles(folder)
    skipped = read_puzzles(folder, skip_bad=True)
    assert (len(skipped), skipped.skipped) == (4, 1)
    assert skipped.first_damage.startswith("c.csv row 2 ")
    # A puzzle whose first row is bad is taken from the next file.
    written(folder / "d.csv", line(("ddddd", *CASTLES[1:])))
    found = read_puzzles(folder, skip_bad=True)
    assert (len(found), found.skipped, found.repeated) == (5, 1, 1)


@pytest.mark.fast
def test_a_folder_without_exports_or_tensors_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither puzzle exports .* nor the published"):
        chess_task.build(Request("train", 0, 100, 0, tmp_path, {}))


def test_all_real_exports_at_once(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("zstandard", reason="the extra chess is not installed")
    folder = data_folder / "lichess"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    request = Request("train", 0, 100, 0, folder, {})
    assert len(chess_task.build(request).inputs) == 100
    assert "2,089 rows left out whose puzzle is in several files" in capsys.readouterr().err


# -- splits ----------------------------------------------------------------------------------------


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """Puzzles rated 1000, 1010, ... 1990, each on a board of its own."""
    lines: list[str] = []
    for number in range(100):
        # Pawns on the fourth rank count in twos and give every board a name.
        pawns = "".join("P1"[number >> n & 1] for n in range(7)) + "1"
        fen = f"4k3/8/8/8/{pawns}/8/P7/4K3 b - - 0 1"
        lines.append(line((f"{number:05}", fen, "e8f8 a2a3", str(1000 + 10 * number))))
    return written(tmp_path / "hundred.csv", *lines)


def boards_of(path: Path, split: str, size: int, **options: int | float | bool) -> set[bytes]:
    settings = {"train_part": 0.75, "held_out_every": 10, **options}
    request = Request(split, size, 1000, 0, path, settings)
    return {board.numpy().tobytes() for board in chess_task.build(request).inputs}


@pytest.mark.fast
def test_splits_are_disjoint_and_complete(hundred: Path) -> None:
    train, valid, test = (boards_of(hundred, split, 0) for split in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (68, 4, 25)
    bands = [boards_of(hundred, "test", size) for size in (1000, 1200, 1400, 1600, 1800)]
    assert [len(band) for band in bands] == [1, 1, 1, 5, 20]
    for easier in (train, valid):
        assert not easier & (test | set().union(*bands))
    assert not train & valid


@pytest.mark.fast
def test_training_is_the_easier_part(hundred: Path) -> None:
    requests = [Request(split, 0, 1000, 0, hundred) for split in ("train", "test")]
    train, test = (chess_task.chosen(request).ratings for request in requests)
    assert train.max() < test.min() == 1750


@pytest.mark.fast
def test_splits_by_index_as_published(hundred: Path) -> None:
    options = {"train_to": 60, "test_to": 70, "held_out_every": 10}
    assert len(boards_of(hundred, "train", 0, **options)) == 54
    request = Request("test", 0, 1000, 0, hundred, options)
    assert chess_task.chosen(request).ratings.tolist() == list(range(1600, 1700, 10))
    with pytest.raises(UserError, match="has 100 puzzles; this preset needs 700,000"):
        boards_of(hundred, "train", 0, train_to=600_000, test_to=700_000)


@pytest.mark.fast
def test_counts_are_drawn_by_seed(hundred: Path) -> None:
    def draw(seed: int) -> list[int]:
        return chess_task.chosen(Request("test", 0, 10, seed, hundred)).ratings.tolist()

    assert draw(0) == draw(0) == sorted(draw(0))
    assert len(draw(0)) == 10
    assert draw(0) != draw(1)


@pytest.mark.fast
def test_mirrored_training_puzzles(hundred: Path) -> None:
    plain, both = (
        chess_task.build(Request("train", 0, 1000, 0, hundred, {"mirrored": mirrored}))
        for mirrored in (False, True)
    )
    assert len(both.inputs) == 2 * len(plain.inputs)
    assert torch.equal(both.inputs[len(plain.inputs) :].flip(-1), plain.inputs)
    assert torch.equal(both.targets[len(plain.inputs) :].flip(-1), plain.targets)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "message"), [(None, "needs --data FILE"), ("missing.csv", "there is no such file")]
)
def test_a_file_is_needed(source: str | None, message: str) -> None:
    path = None if source is None else Path(source)
    with pytest.raises(UserError, match=message):
        chess_task.build(Request("train", 0, 10, 0, path))


@pytest.mark.fast
def test_bands_without_puzzles(hundred: Path) -> None:
    with pytest.raises(UserError, match="has no test puzzle rated 2600 to 2799"):
        boards_of(hundred, "test", 2600)


# -- what counts as solved, and players without learning -------------------------------------------


@pytest.mark.fast
def test_the_two_highest_squares_count() -> None:
    targets = torch.zeros(1, 8, 8, dtype=torch.long)
    targets[0, 1, 4] = targets[0, 3, 4] = 1
    logits = torch.zeros(1, 2, 8, 8)
    logits[0, 1, 1, 4], logits[0, 1, 3, 4], logits[0, 1, 7, 7] = -1.0, -2.0, -3.0
    logits[0, 0] = 5.0
    logits[0, 0, 1, 4] = logits[0, 0, 3, 4] = 0.0
    inputs = torch.zeros(1, 12, 8, 8)
    assert chess_task.correct(inputs, logits, targets).tolist() == [True]
    logits[0, 1, 7, 7] = 9.0
    assert chess_task.correct(inputs, logits, targets).tolist() == [False]


@pytest.mark.fast
def test_chance_is_one_over_the_moves(three: ChessPuzzles) -> None:
    # Black's king e8: 5 moves; the pawn: a1 or takes b1, however it promotes.
    assert chance(three[:1]) == pytest.approx(1 / 7)
    by_hand = [1 / len({m[:2] for m in legal_moves(three.board(n))}) for n in range(3)]
    assert chance(three) == pytest.approx(np.mean(by_hand))


@pytest.mark.fast
def test_greed_takes_the_most_valuable_piece(three: ChessPuzzles) -> None:
    assert greedy(three[:2]) == 1.0
    # Nothing to take: castling is one of all moves.
    assert greedy(three[2:]) == pytest.approx(chance(three[2:]))


@pytest.mark.fast
def test_gains() -> None:
    def gains(fen: str) -> dict[str, int]:
        board = Board.read(fen)
        return {str(move): gain(board, move) for move in legal_moves(board)}

    white = gains("3rk3/2P5/8/8/8/8/8/4K3 w - - 0 1")
    assert (white["c7d8q"], white["c7c8n"], white["e1e2"]) == (5 + 8, 2, 0)
    assert gains("4k3/8/8/8/3Pp3/8/8/4K3 b - d3 0 1")["e4d3"] == 1


# -- pictures and archives -------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_move_forming_is_printed_and_drawn(
    tmp_path: Path, three: ChessPuzzles, suffix: str
) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    inputs, targets = three[1:2].planes(), three[1:2].squares()
    right = torch.nn.functional.one_hot(targets.long(), 2).movedim(-1, 1).float() * 9
    path = tmp_path / f"board{suffix}"
    lines = chess_task.show(SolutionTrace(inputs, targets, [torch.zeros_like(right), right], path))
    assert lines[0] == ". . . . . . . ."
    assert lines[1] == ". . . . k . . ."
    assert lines[9].split()[1:3] == ["c3", "d5"]
    assert lines[9].endswith("right")
    with image.open(path) as picture:
        assert picture.height > 300


def save_archive(folder: Path, puzzles: ChessPuzzles) -> None:
    torch.save(puzzles.planes(turned=False).float(), folder / "data.pth")
    torch.save(puzzles.squares(turned=False).long(), folder / "segment_targets.pth")
    torch.save(torch.from_numpy(puzzles.black).float().unsqueeze(1), folder / "who_moves.pth")
    torch.save(torch.from_numpy(puzzles.ratings).float().unsqueeze(1), folder / "rating.pth")


@pytest.mark.fast
def test_published_tensors_give_the_same_puzzles(tmp_path: Path, three: ChessPuzzles) -> None:
    save_archive(tmp_path, three)
    found = archived_puzzles(tmp_path)
    for field in ("boards", "black", "origins", "destinations", "ratings"):
        assert np.array_equal(getattr(found, field), getattr(three, field)), field
    (tmp_path / "rating.pth").unlink()
    (tmp_path / "segment_targets.pth").rename(tmp_path / "targets.pth")
    assert archived_puzzles(tmp_path).ratings.tolist() == [0, 0, 0]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.fast
def test_bad_tensors_are_named_and_code_is_not_run(tmp_path: Path, three: ChessPuzzles) -> None:
    save_archive(tmp_path, three)
    torch.save(Evil(), tmp_path / "rating.pth")
    with pytest.raises(UserError, match=r"rating\.pth: cannot be read as a tensor"):
        archived_puzzles(tmp_path)
    (tmp_path / "rating.pth").unlink()
    torch.save(torch.zeros(3, 8, 8), tmp_path / "segment_targets.pth")
    with pytest.raises(UserError, match="does not mark two squares"):
        archived_puzzles(tmp_path)
    torch.save(torch.ones(3, 12, 8, 8), tmp_path / "data.pth")
    with pytest.raises(UserError, match="two pieces on one square"):
        archived_puzzles(tmp_path)
    torch.save({"a": 1}, tmp_path / "data.pth")
    with pytest.raises(UserError, match=r"data\.pth: holds no tensor but a dict"):
        archived_puzzles(tmp_path)
    (tmp_path / "data.pth").unlink()
    with pytest.raises(UserError, match=r"data\.pth: cannot be read"):
        archived_puzzles(tmp_path)
