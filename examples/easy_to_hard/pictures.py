"""The answers of a solver, as a strip of pictures or an animated GIF."""

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

IN_A_STRIP = 8
"""Pictures in a strip, at most."""

SHORT_SIDE = 160
"""The smallest width of a picture, pixels."""

_CAPTION = 18
_GAP = 8
_MILLISECONDS = 250
_LAST_MILLISECONDS = 2500


def save(answers: Sequence[Picture], solution: Picture, caption: str, path: Path) -> str:
    """Write pictures of equal size: an animation to a .gif, a strip side by side to a .png.

    A strip has :data:`IN_A_STRIP` of them: the first, the last, and evenly between.

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
        raise UserError(f"--out {path}: write to a .png (strip) or a .gif (animation)")
    framed = [_framed(picture, f"after {n}") for n, picture in enumerate(answers, start=1)]
    framed.append(_framed(solution, caption))
    try:
        chosen = sorted({round(n) for n in np.linspace(0, len(framed) - 1, IN_A_STRIP)})
        strip = _side_by_side([framed[n] for n in chosen])
        if path.suffix == ".gif":
            times = [_MILLISECONDS] * (len(framed) - 1) + [_LAST_MILLISECONDS]
            # One palette for all frames: with separate ones the animation flickers.
            palette = strip.quantize()
            frames = [frame.quantize(palette=palette) for frame in framed]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
            return f"{escape(str(path))}: {pluralize(len(framed), 'frame')}"
        strip.save(path)
        return f"{escape(str(path))}: {len(chosen)} of {len(framed)} pictures"
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def _side_by_side(frames: Sequence[Image]) -> Image:
    width, height = frames[0].size
    step = width + _GAP
    strip = pillow().Image.new("RGB", (step * len(frames) - _GAP, height), "white")
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * step, 0))
    return strip


def settled(answers: Sequence[Tensor]) -> int:
    """The number of answers up to the first one after which they do not change."""
    changes = [n for n in range(1, len(answers)) if not answers[n].equal(answers[n - 1])]
    return changes[-1] + 1 if changes else 1


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
