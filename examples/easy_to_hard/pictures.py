"""Answers forming, as a strip of pictures or an animated GIF."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor

from zpyro.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]
"""(rows, columns, 3), red, green and blue of 0 to 255."""

IN_A_STRIP = 8
"""Pictures in a strip, at most."""

_CAPTION = 18
_GAP = 8
_MILLISECONDS = 250
_LAST_MILLISECONDS = 2500


def save(pictures: Sequence[Picture], captions: Sequence[str], path: Path) -> str:
    """Write pictures of equal size: one after another to a .gif, side by side to a .png.

    A strip shows :data:`IN_A_STRIP` of them, the first, the last, and evenly between.

    Returns:
        A line that says what was written, in rich's markup.

    Raises:
        UserError: if Pillow is missing, the suffix is another, or the file cannot be written.
    """
    if path.suffix not in (".gif", ".png"):
        raise UserError(f"--out {path}: write to a .png (strip) or a .gif (animation)")
    framed = [_framed(*each) for each in zip(pictures, captions, strict=True)]
    try:
        if path.suffix == ".gif":
            times = [_MILLISECONDS] * (len(framed) - 1) + [_LAST_MILLISECONDS]
            # The same palette for all: one of its own for each frame would flicker.
            frames = [frame.quantize(palette=framed[-1].quantize()) for frame in framed]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
            return f"{escape(str(path))}: {len(framed)} frames"
        chosen = sorted({round(n) for n in np.linspace(0, len(framed) - 1, IN_A_STRIP)})
        _strip([framed[n] for n in chosen]).save(path)
        return f"{escape(str(path))}: {len(chosen)} of {len(framed)} pictures"
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def settled(answers: Sequence[Tensor]) -> int:
    """How many answers there are up to the first that is like all that follow."""
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


def _strip(frames: Sequence[Image]) -> Image:
    width = frames[0].width + _GAP
    strip = pillow().Image.new("RGB", (width * len(frames) - _GAP, frames[0].height), "white")
    for number, frame in enumerate(frames):
        strip.paste(frame, (number * width, 0))
    return strip
