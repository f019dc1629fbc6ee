"""The prefix-sum example as a program: ``python examples/prefix_sums.py train --out runs/sums``."""

from __future__ import annotations

import sys

from zpyro_cli.main import main  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    main(["example", "prefix-sums", *sys.argv[1:]], prog_name="zpyro")
