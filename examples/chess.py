"""The chess example as a program: ``python examples/chess.py train --data puzzles.csv``."""

from __future__ import annotations

import sys

from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    main(["example", "chess", *sys.argv[1:]], prog_name="zpyro")
