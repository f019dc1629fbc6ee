"""The answers of a solver, as pictures in rows or an animated GIF."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor

from zpyro.errors import UserError, pluralize

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]
"""(rows, columns, 3), red, green and blue of 0 to 255."""

MOST_PICTURES, IN_A_ROW = 12, 4
"""Pictures in a .png, and in a row of it, at most."""

SMALLEST_WIDTH = 400
"""Of a picture of few squares, pixels."""

_CAPTION = 18
_GAP = 8
_MILLISECONDS = 250
_LAST_MILLISECONDS = 2500


def save(answers: Sequence[Picture], solution: Picture, caption: str, path: Path) -> str:
    """Write pictures of equal size: an animation to a .gif, rows of them to a .png.

    A .png has :data:`MOST_PICTURES` of them: the first, the last, and evenly between.

    Args:
        answers: after 1, 2, ... iterations.
        solution: the last picture.
        caption: of the solution.
        path: the file.

    Returns:
        A line that says what was written, in rich's markup.

    Raises:
        UserError: if Pillow is missing, the suffix is another, or the file cannot be written.
    """
    if path.suffix not in (".gif", ".png"):
        raise UserError(f"--out {path}: write to a .png (pictures in rows) or a .gif (animation)")
    framed = [
        _framed(picture, f"after {pluralize(n, 'iteration')}")
        for n, picture in enumerate(answers, start=1)
    ]
    framed.append(_framed(solution, caption))
    try:
        chosen = sorted({round(n) for n in np.linspace(0, len(framed) - 1, MOST_PICTURES)})
        sheet = _in_rows([framed[n] for n in chosen])
        if path.suffix == ".gif":
            times = [_MILLISECONDS] * (len(framed) - 1) + [_LAST_MILLISECONDS]
            # One palette for all frames: with separate ones the animation flickers.
            palette = sheet.quantize()
            frames = [frame.quantize(palette=palette) for frame in framed]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
            return f"{escape(str(path))}: {pluralize(len(framed), 'frame')}"
        sheet.save(path)
        shown = [n + 1 for n in chosen[:-1]]
        of = "" if len(shown) == len(answers) else f" of {len(answers)}"
        steps = ", ".join(map(str, shown))
        noun = "iteration" if len(shown) == 1 else "iterations"
        return f"{escape(str(path))}: after {noun} {steps}{of}, and {caption}"
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def _in_rows(frames: Sequence[Image]) -> Image:
    width, height = (side + _GAP for side in frames[0].size)
    columns = min(IN_A_ROW, len(frames))
    rows = -(-len(frames) // columns)
    size = (width * columns - _GAP, height * rows - _GAP)
    sheet = pillow().Image.new("RGB", size, "white")
    for place, frame in enumerate(frames):
        sheet.paste(frame, (place % columns * width, place // columns * height))
    return sheet


def settled(answers: Sequence[Tensor]) -> int:
    """The number of answers up to the first one after which they do not change."""
    changes = [n for n in range(1, len(answers)) if not answers[n].equal(answers[n - 1])]
    return changes[-1] + 1 if changes else 1


def scale_of(columns: int) -> int:
    """Pixels in a side of a square, for a picture of so many columns."""
    return max(1, -(-SMALLEST_WIDTH // columns))


def enlarged(pixels: Picture, scale: int) -> Picture:
    """Every pixel as a square of ``scale`` x ``scale``."""
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def pillow() -> Any:
    """The package PIL.

    Raises:
        UserError: if it is not installed.
    """
    try:
        for part in ("Image", "ImageDraw", "ImageFont"):
            importlib.import_module(f"PIL.{part}")
    except ImportError as error:
        raise UserError("drawing pictures needs Pillow; pip install 'zpyro[plots]'") from error
    return importlib.import_module("PIL")


def _framed(pixels: Picture, caption: str) -> Image:
    library = pillow()
    height, width = pixels.shape[:2]
    frame = library.Image.new("RGB", (width, height + _CAPTION), "white")
    frame.paste(library.Image.fromarray(pixels), (0, _CAPTION))
    library.ImageDraw.Draw(frame).text((2, 3), caption, fill="black")
    return frame
