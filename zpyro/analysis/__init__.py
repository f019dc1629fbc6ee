"""The use of trained models: posteriors, samples, figures, reports and comparisons.

In reading order: ``loading`` (open a run), ``selection`` (sequences that a user names),
``decoding`` and ``posteriors`` (latents), ``sampling``, ``forecasting``, ``scores``, ``plots``
(figures), ``report``, ``comparison``, ``citations``.
"""

from zpyro.analysis.citations import cite
from zpyro.analysis.comparison import (
    VARIANTS,
    ComparisonResult,
    ComparisonSpec,
    LocalExecutor,
    RayExecutor,
    Resources,
    Scoring,
    Summary,
    Variant,
    compare,
    find_variants,
    markdown_table,
    plot_comparison,
)
from zpyro.analysis.decoding import Decoded, Interpolation, decode, interpolate, reconstruct
from zpyro.analysis.forecasting import Forecast, Imputation, forecast, impute
from zpyro.analysis.loading import LoadedRun, load_run, load_split
from zpyro.analysis.plots import (
    plot_frames,
    plot_images,
    plot_side_by_side,
    plot_sounds,
    plot_spectrogram,
)
from zpyro.analysis.posteriors import Posterior, posterior
from zpyro.analysis.report import Report, SequenceView, view_sequence, write_report
from zpyro.analysis.sampling import sample
from zpyro.io.figures import new_figure, save_figure
from zpyro.training.curves import plot_curves

__all__ = [
    "VARIANTS",
    "ComparisonResult",
    "ComparisonSpec",
    "Decoded",
    "Forecast",
    "Imputation",
    "Interpolation",
    "LoadedRun",
    "LocalExecutor",
    "Posterior",
    "RayExecutor",
    "Report",
    "Resources",
    "Scoring",
    "SequenceView",
    "Summary",
    "Variant",
    "cite",
    "compare",
    "decode",
    "find_variants",
    "forecast",
    "impute",
    "interpolate",
    "load_run",
    "load_split",
    "markdown_table",
    "new_figure",
    "plot_comparison",
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
