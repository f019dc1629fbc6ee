"""Comparing models on one data set: runs over several seeds, statistics, a table and a figure.

In reading order: ``variants`` (rows of the table), ``jobs`` (running it), ``worker`` (one run),
``summary`` (statistics).
"""

from zpyro.analysis.comparison.jobs import ComparisonResult, ComparisonSpec, Resources, compare
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
    "Resources",
    "Summary",
    "Variant",
    "VariantSummary",
    "compare",
    "find_variants",
    "markdown_table",
    "plot_comparison",
    "summarize",
]
