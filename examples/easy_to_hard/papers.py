"""The papers behind each task: its data, and the networks that learn it."""

from __future__ import annotations

from .mazes import Mazes
from .networks import RecurrentNetwork
from .prefix_sums import PrefixSums

PAPERS: dict[str, tuple[object, ...]] = {
    "prefix-sums": (PrefixSums, RecurrentNetwork),
    "mazes": (Mazes, RecurrentNetwork),
    "chess": (PrefixSums, RecurrentNetwork),  # one paper describes all three data sets
}
"""What ``zpyro cite`` finds BibTeX in, by the name of the task."""
