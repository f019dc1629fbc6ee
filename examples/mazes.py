"""The mazes example as a program: ``python examples/mazes.py train --out runs/mazes``."""

from __future__ import annotations

import sys

from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    main(["example", "mazes", *sys.argv[1:]], prog_name="zpyro")
