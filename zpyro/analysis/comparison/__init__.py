"""Comparing models on one data set: runs over several seeds, statistics, a table and a figure.

In reading order: ``variants`` (rows of the table), ``jobs`` (its runs), ``worker`` (one run),
``executors`` (where runs are executed), ``running`` (all of them), ``summary`` (statistics).
"""

from zpyro.analysis.comparison.executors import Executor, LocalExecutor, RayExecutor, Resources
from zpyro.analysis.comparison.jobs import ComparisonSpec, Scoring
from zpyro.analysis.comparison.running import ComparisonResult, compare
from zpyro.analysis.comparison.summary import (
    Estimate,
    Summary,
    VariantSummary,
    markdown_table,
    plot_comparison,
    summarize,
)
from zpyro.analysis.comparison.variants import VARIANTS, Variant, find_variants

__all__ = [
    "VARIANTS",
    "ComparisonResult",
    "ComparisonSpec",
    "Estimate",
    "Executor",
    "LocalExecutor",
    "RayExecutor",
    "Resources",
    "Scoring",
    "Summary",
    "Variant",
    "VariantSummary",
    "compare",
    "find_variants",
    "markdown_table",
    "plot_comparison",
    "summarize",
]
