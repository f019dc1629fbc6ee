"""Figures of matplotlib (``pip install "zpyro[plots]"``), made without pyplot: no window system,
and no state between figures.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zpyro.errors import UserError
from zpyro.io import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before any work is done for a figure.

    Raises:
        UserError: with the command that installs it.
    """
    try:
        import matplotlib.figure as _  # noqa: F401 imported as a check
    except ImportError as error:
        raise UserError('pictures need matplotlib; pip install "zpyro[plots]"') from error


def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """An empty figure; sizes in inches.

    The layout is "compressed" for panels with a fixed aspect ratio, as images have.

    Raises:
        UserError: if matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a figure; the suffix of the file selects the format.

    Raises:
        UserError: if the suffix is not a picture format or the file cannot be written.
    """
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise UserError(f"{path}: pictures end in one of {', '.join(sorted(formats))}; rename it")
    with files.translate_os_errors(path), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
