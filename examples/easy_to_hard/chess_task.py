"""The chess task: presets, splits by rating, exact match, and the answers as text and pictures.

A size is the lower end of a band of :data:`BAND` rating points, or one of two with a name.
Puzzles are sorted by rating. The training set is the easier part without a few that are held out
evenly. One half of those is for validation; the other half and the harder puzzles are for testing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError, pluralize

from . import pictures
from .chess import ChessPuzzles, archived_puzzles, exports, read_puzzles
from .chess_board import (
    BISHOP,
    BLACK,
    KNIGHT,
    PAWN,
    PIECES,
    QUEEN,
    ROOK,
    Board,
    Move,
    legal_moves,
    square_name,
)
from .networks import RecurrentNetwork
from .prefix_sums import PrefixSums
from .tasks import Examples, Preset, Request, SolutionTrace, Task

BAND = 200
"""Rating points in a band."""

HARDER = 0
"""Size of all puzzles harder than the training set; all of a split for training and validation."""
HELD_OUT = 1
"""Size of the puzzles for testing that are as easy as the training set; no rating is that low."""

VALUES = {0: 0, PAWN: 1, KNIGHT: 3, BISHOP: 3, ROOK: 5, QUEEN: 9}
"""The usual values of pieces by white number, in pawns."""

_SQUARE = 40
_LIGHT, _DARK = np.array([248, 246, 240]), np.array([214, 206, 192])
_MARK = np.array([20, 90, 235])
_TRUTH = (220, 50, 30)
_GLYPHS = dict(zip("KQRBNPkqrbnp", "♚♛♜♝♞♟♚♛♜♝♞♟", strict=True))

PRESETS = {
    "quick": Preset(
        width=48,
        iterations=6,
        progressive_weight=0.5,
        train_size=0,
        train_count=30_000,
        epochs=6,
        batch_size=32,
        weight_decay=1e-4,
        average=0.998,
        precision="auto",
        valid_sizes=(0,),
        test_sizes=(HELD_OUT, HARDER, 800, 1200, 1600, 1800, 2000, 2200, 2400),
        options={"train_part": 0.75, "held_out_every": 20, "mirrored": True},
    ),
    "published": Preset(
        width=512,
        iterations=30,
        progressive_weight=0.5,
        train_size=0,
        train_count=600_000,
        epochs=120,
        batch_size=300,
        learning_rate=1e-2,
        optimizer="sgd",
        weight_decay=2e-4,
        clip_norm=None,
        schedule="steps",
        milestones=(100, 110),
        warmup=3.0,
        valid_sizes=(0,),
        test_sizes=(HARDER,),
        options={"train_to": 600_000, "test_to": 700_000, "held_out_every": 200},
    ),
}


def build(request: Request) -> Examples:
    """Puzzles of one band of ratings."""
    puzzles = chosen(request)
    turned = bool(request.options.get("turned", True))
    inputs, targets = puzzles.planes(turned), puzzles.squares(turned)
    if request.split == "train" and request.options.get("mirrored"):
        # Left and right differ only by castling, which few puzzles ask for.
        inputs, targets = (torch.cat([part, part.flip(-1)]) for part in (inputs, targets))
    return Examples(inputs, targets)


def chosen(request: Request) -> ChessPuzzles:
    """The puzzles that a request asks for.

    Raises:
        UserError: if no file was named, or it has no such puzzles.
    """
    puzzles, split = _asked_for(request)
    if not len(split):
        raise UserError(_no_puzzle(puzzles, request))
    if len(split) > request.count:
        order = np.random.default_rng([request.seed, request.size]).permutation(len(split))
        split = np.sort(split[order[: request.count]])
    return puzzles[split]


def _asked_for(request: Request) -> tuple[ChessPuzzles, np.ndarray]:
    """All puzzles of the data, and the indices of those of the split and size."""
    if request.source is None:
        raise UserError("chess needs --data FILE, a puzzle export of database.lichess.org")
    puzzles = _read(request.source, bool(request.options.get("skip_bad", False)))
    split = _split(puzzles, request)
    if request.size not in (HARDER, HELD_OUT):
        ratings = puzzles.ratings[split]
        split = split[(ratings >= request.size) & (ratings < request.size + BAND)]
    return puzzles, split


def size_error(request: Request) -> str | None:
    """Why the data have no puzzle that a request asks for; None if they have one.

    Raises:
        UserError: if no file was named, or it cannot be read.
    """
    puzzles, split = _asked_for(request)
    return None if len(split) else _no_puzzle(puzzles, request)


def _no_puzzle(puzzles: ChessPuzzles, request: Request) -> str:
    """That there is no puzzle of a request's size, and which sizes there are."""
    names = {HARDER: "at all", HELD_OUT: "as easy as those in training"}
    which = names.get(request.size, f"rated {request.size} to {request.size + BAND - 1}")
    error = f"{request.source} has no {request.split} puzzle {which}"
    rated = puzzles.ratings[_split(puzzles, request)]
    if request.size in names or not len(rated):
        return f"{error}; give more puzzles"
    return f"{error}; choose a size between {rated.min()} and {rated.max()}"


def _split(puzzles: ChessPuzzles, request: Request) -> np.ndarray:
    """Indices of the puzzles of a split, in the order of their ratings."""
    options = request.options
    part = float(options.get("train_part") or 0.75)
    cut = int(options.get("train_to") or part * len(puzzles))
    end = int(options.get("test_to") or len(puzzles))
    every = int(options.get("held_out_every") or 20)
    if len(puzzles) < end:
        raise UserError(
            f"{request.source}: has {pluralize(len(puzzles), 'puzzle')}; this preset "
            f"needs {end:,}, "
            "or take --preset quick"
        )
    easier = np.arange(cut)
    held_out = easier % every == every // 2
    valid = held_out & (easier // every % 2 == 0)
    if request.split == "train":
        return easier[~held_out]
    if request.split == "valid":
        return easier[valid]
    easier, harder = easier[held_out & ~valid], np.arange(cut, end)
    if request.size == HARDER:
        return harder
    # A band takes whatever was not trained on.
    return easier if request.size == HELD_OUT else np.concatenate([easier, harder])


def _read(source: Path, skip_bad: bool) -> ChessPuzzles:
    if not (source.is_dir() or source.is_file()):
        raise UserError(f"{source}: there is no such file")
    return _read_version(source, skip_bad, source.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read_version(source: Path, skip_bad: bool, _changed: int) -> ChessPuzzles:
    if source.is_dir() and not exports(source):
        if not any(source.glob("*.pth")):
            raise UserError(
                f"{source}: holds neither puzzle exports (*.csv, also compressed) nor the "
                "published tensors (data.pth, ...); give another folder"
            )
        return archived_puzzles(source)
    puzzles = read_puzzles(source, skip_bad)
    if puzzles.skipped:
        click.echo(
            f"{source}: {puzzles.skipped} bad rows skipped, the first: {puzzles.first_damage}",
            err=True,
        )
    if puzzles.repeated:
        click.echo(
            f"{source}: {pluralize(puzzles.repeated, 'row')} left out whose puzzle is in several "
            "files",
            err=True,
        )
    return puzzles


def correct(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the two most probable squares are those of the move, (B,)."""
    del inputs
    highest = (logits[:, 1] - logits[:, 0]).flatten(1).topk(2).indices
    return targets.flatten(1).gather(1, highest).bool().all(1)


def players(request: Request) -> dict[str, float]:
    """The fraction of the same puzzles that players without learning solve."""
    puzzles = chosen(request)
    return {"any legal move": chance(puzzles), "greedy": greedy(puzzles)}


def chance(puzzles: ChessPuzzles) -> float:
    """The expected fraction of puzzles solved by playing any legal move, all equally likely.

    As for networks only the squares count: promotions to different pieces are one move.
    """
    return _solved(puzzles, lambda _, moves: moves)


def greedy(puzzles: ChessPuzzles) -> float:
    """The expected fraction solved by the move that wins most material at once.

    What the opponent takes back is ignored; of equally good moves any is played.
    """
    return _solved(puzzles, _greediest)


def gain(board: Board, move: Move) -> int:
    """The material that a move wins by a capture and a promotion."""
    captured = board.squares[move.destination]
    pawn = board.squares[move.origin] == (PAWN if board.white else PAWN + BLACK)
    if pawn and move.destination == board.en_passant:
        captured = PAWN
    kind = captured - BLACK if captured > BLACK else captured
    promoted = VALUES[move.promotion] - VALUES[PAWN] if move.promotion else 0
    return VALUES[kind] + promoted


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


def show(forming: SolutionTrace) -> list[str]:
    """The two most probable squares after every iteration; with ``out`` a picture of each.

    Boards are seen from the mover's side, whose pieces are the capital (white) ones.
    """
    planes = forming.inputs[0]
    best = _names(forming.targets[0].float(), planes)
    pieces = _pieces(planes)
    lines = [" ".join(pieces[8 * rank : 8 * rank + 8]) for rank in reversed(range(8))]
    for iteration, logits in enumerate(forming.logits, start=1):
        probability = logits[0].softmax(0)[1]
        names = _names(probability, planes)
        odds = " ".join(f"{p:.0%}" for p in probability.flatten().topk(2).values.tolist())
        lines.append(
            f"{iteration:>6}  {' '.join(names)}  ({odds})"
            + ("  right" if set(names) == set(best) else "")
        )
    lines.append(f"{'move':>6}  {' '.join(best)}")
    if forming.out is not None:
        answers = [logits[0].softmax(0)[1] for logits in forming.logits]
        frames = [_picture(planes, answer, None) for answer in answers]
        solution = _picture(planes, answers[-1], forming.targets[0])
        lines.append(pictures.save(frames, solution, "the move outlined", forming.out))
        lines.append("  squares are the bluer the more probable they are")
    return lines


def _names(values: Tensor, planes: Tensor) -> list[str]:
    """The squares of the two highest values, the mover's own pieces first."""
    mine = planes[:6].sum(0).flatten()
    highest = values.flatten().topk(2).indices.tolist()
    return [square_name(n) for n in sorted(highest, key=lambda n: -int(mine[n]))]


def _pieces(planes: Tensor) -> list[str]:
    """The letter on each of the 64 squares, "." for none."""
    numbers = (planes.long() * torch.arange(1, 13).view(12, 1, 1)).sum(0)
    return [PIECES[n] for n in numbers.flatten().tolist()]


def _picture(planes: Tensor, probability: Tensor, target: Tensor | None) -> pictures.Picture:
    """The board, its squares the bluer the more probably they belong to the move.

    The blue is proportional to the square root, so that a few percent can be seen.
    """
    rank, file = np.indices((8, 8))
    light = ((rank + file) % 2 == 1)[..., None]
    share = probability.sqrt().numpy()[..., None]
    colors = (1 - share) * np.where(light, _LIGHT, _DARK) + share * _MARK
    library = pictures.pillow()
    # The first rank is at the bottom.
    large = pictures.enlarged(colors[::-1].astype(np.uint8), _SQUARE)
    image = library.Image.fromarray(np.ascontiguousarray(large))
    pen, font = library.ImageDraw.Draw(image), _font(library)
    for number, piece in enumerate(_pieces(planes)):
        left, top = number % 8 * _SQUARE, (7 - number // 8) * _SQUARE
        if piece != ".":
            pen.text(
                (left + _SQUARE // 2, top + _SQUARE // 2),
                _GLYPHS[piece],
                fill="white" if piece.isupper() else "black",
                stroke_width=1,
                stroke_fill="black" if piece.isupper() else "white",
                font=font,
                anchor="mm",
            )
        if target is not None and target.flatten()[number]:
            corner = (left + _SQUARE - 2, top + _SQUARE - 2)
            pen.rectangle(((left + 1, top + 1), corner), outline=_TRUTH, width=3)
    return np.asarray(image)


def _font(library: object) -> object:
    """A font with chess pieces: the one that matplotlib carries."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("drawing boards needs matplotlib; pip install 'zpyro[plots]'") from error
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return library.ImageFont.truetype(str(path), _SQUARE - 8)  # type: ignore[attr-defined]


TASK = Task(
    name="chess",
    dimensions=2,
    channels=12,
    classes=2,
    presets=PRESETS,
    build=build,
    correct=correct,
    show=show,
    sources=(PrefixSums, RecurrentNetwork),  # one paper describes all three data sets
    # All boards have one size, so all bands get the same number of iterations.
    difficulty=lambda _: 1.0,
    players=players,
    unit="rating",
    named_sizes={"held-out": HELD_OUT, "harder": HARDER},
    size_error=size_error,
    summary="the two squares of the best move",
)
