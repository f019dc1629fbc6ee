"""Models compared on one data set: rows, runs, statistics, and a table of them."""

from zpyro.analysis.comparison.rows import ROWS, Row, find, row_config
from zpyro.analysis.comparison.schedule import Job, Room, Spec, prepare, run_all
from zpyro.analysis.comparison.summary import Summary, markdown, summarize

__all__ = [
    "ROWS",
    "Job",
    "Room",
    "Row",
    "Spec",
    "Summary",
    "find",
    "markdown",
    "prepare",
    "row_config",
    "run_all",
    "summarize",
]
