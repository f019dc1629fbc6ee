"""What to do with a trained model: posteriors, samples, figures, reports and comparisons.

In reading order: ``loading`` (open a run), ``selection`` (sequences that a user names),
``decoding`` and ``posteriors`` (latents), ``sampling``, ``plots`` and ``curves`` (figures),
``report``, ``comparison``, ``citations``.
"""

from zpyro.analysis.citations import cite
from zpyro.analysis.curves import plot_curves
from zpyro.analysis.decoding import Decoded, Interpolation, decode, interpolate, reconstruct
from zpyro.analysis.loading import LoadedRun, load_run, load_split
from zpyro.analysis.plots import (
    plot_frames,
    plot_images,
    plot_side_by_side,
    plot_sounds,
    plot_spectrogram,
    save_figure,
)
from zpyro.analysis.posteriors import Posterior, posterior
from zpyro.analysis.report import Report, SequenceView, view_sequence, write_report
from zpyro.analysis.sampling import sample

__all__ = [
    "Decoded",
    "Interpolation",
    "LoadedRun",
    "Posterior",
    "Report",
    "SequenceView",
    "cite",
    "decode",
    "interpolate",
    "load_run",
    "load_split",
    "plot_curves",
    "plot_frames",
    "plot_images",
    "plot_side_by_side",
    "plot_sounds",
    "plot_spectrogram",
    "posterior",
    "reconstruct",
    "sample",
    "save_figure",
    "view_sequence",
    "write_report",
]
