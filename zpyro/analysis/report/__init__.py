"""Looking at trained runs: pictures, curves, and a page that shows them."""

from zpyro.analysis.report.builder import Report, inspect
from zpyro.analysis.report.curves import plot
from zpyro.analysis.report.views import SequenceView, view

__all__ = ["Report", "SequenceView", "inspect", "plot", "view"]
