"""A report on a trained run: pictures, sounds, and a page that shows them.

In reading order: ``builder`` (the whole report), ``sections`` (its parts), ``views`` (the numbers
behind one sequence), ``figures`` (its pictures), ``page`` (HTML).
"""

from zpyro.analysis.report.builder import Report, write_report
from zpyro.analysis.report.views import SequenceView, view_sequence

__all__ = ["Report", "SequenceView", "view_sequence", "write_report"]
