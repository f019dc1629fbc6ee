"""Looking at trained runs: pictures, curves, and a page that shows them."""

from zpyro.inspection.curves import plot
from zpyro.inspection.report import Report, inspect
from zpyro.inspection.views import SequenceView, view

__all__ = ["Report", "SequenceView", "inspect", "plot", "view"]
