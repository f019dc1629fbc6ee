"""A move forming on a chess board, in words and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError

from . import pictures
from .chess_board import PIECES, square_name
from .tasks import SolutionTrace

_SQUARE = 40
_LIGHT, _DARK = np.array([238, 232, 216]), np.array([176, 160, 136])
_MARK = np.array([40, 120, 220])
_TRUTH = (220, 50, 30)
_GLYPHS = dict(zip("KQRBNPkqrbnp", "♚♛♜♝♞♟♚♛♜♝♞♟", strict=True))


def show(forming: SolutionTrace) -> list[str]:
    """The two most probable squares after every iteration; with ``out`` a picture of each.

    Boards are seen from the mover's side, whose pieces are the capital (white) ones.
    """
    best = _names(forming.targets[0].float(), forming.inputs[0])
    lines = _rows(forming.inputs[0])
    for iteration, logits in enumerate(forming.logits, start=1):
        probability = logits[0].softmax(0)[1]
        names = _names(probability, forming.inputs[0])
        odds = " ".join(f"{p:.0%}" for p in probability.flatten().topk(2).values.tolist())
        lines.append(
            f"{iteration:>6}  {' '.join(names)}  ({odds})"
            + ("  right" if set(names) == set(best) else "")
        )
    lines.append(f"{'move':>6}  {' '.join(best)}")
    if forming.out is not None:
        frames = [
            _picture(forming.inputs[0], logits[0].softmax(0)[1], None) for logits in forming.logits
        ]
        captions = [f"after {n}" for n in range(1, len(frames) + 1)]
        target = forming.targets[0].float()
        frames.append(_picture(forming.inputs[0], forming.logits[-1][0].softmax(0)[1], target))
        lines.append(pictures.save(frames, [*captions, "outlined: the move"], forming.out))
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


def _rows(planes: Tensor) -> list[str]:
    pieces = _pieces(planes)
    return [" ".join(pieces[8 * rank : 8 * rank + 8]) for rank in reversed(range(8))]


def _picture(planes: Tensor, probability: Tensor, target: Tensor | None) -> pictures.Picture:
    """The board, its squares the bluer the more probably they belong to the move."""
    rank, file = np.indices((8, 8))
    light = ((rank + file) % 2 == 1)[..., None]
    share = probability.numpy()[..., None]
    colors = (1 - share) * np.where(light, _LIGHT, _DARK) + share * _MARK
    library = pictures.pillow()
    # The first rank is drawn at the bottom.
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
