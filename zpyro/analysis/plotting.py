"""Figures without a window system or hidden state; needs matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zpyro.errors import UserError
from zpyro.io import files

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Layout = Literal["constrained", "compressed"]

INSTALL = 'pictures need matplotlib; pip install "zpyro[plots]"'


def require() -> None:
    """Make sure that pictures can be drawn, before any work is done for them.

    Raises:
        UserError: with the line that installs matplotlib, where it is missing.
    """
    try:
        import matplotlib.figure as _  # noqa: F401 asked for its presence alone
    except ImportError as error:
        raise UserError(INSTALL) from error


def new_figure(width: float, height: float, layout: Layout = "constrained") -> Figure:
    """An empty figure of that size in inches.

    Args:
        width: inches.
        height: inches.
        layout: "compressed" where panels keep their own shape, as pictures do.

    Raises:
        UserError: if matplotlib is missing.
    """
    # The figure class itself, not pyplot: no window system, no state between pictures.
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def whole_numbers(axis: Axis) -> None:
    """Put the ticks of an axis at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a figure; the file's ending tells the format.

    Raises:
        UserError: if the ending is no picture format or the file cannot be written.
    """
    known = figure.canvas.get_supported_filetypes()
    ending = path.suffix.removeprefix(".").lower()
    if ending not in known:
        raise UserError(f"{path}: pictures end in one of {', '.join(sorted(known))}; rename it")
    with files.translate_os_errors(path), warnings.catch_warnings():
        # Words of scripts that the font does not have are boxes; nobody can mend that here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
