"""How good a model is on held-out sequences: bounds, and the information in its latents.

In reading order: ``elbo``, ``importance_sampling``, ``particle_filter``,
``largest`` (the best of these bounds), ``filtering`` (streams), ``information``,
``custom_guides`` (terms of models with a custom guide), ``forecasts`` (scores of samples and
backtests), ``baselines``.
"""

from zpyro.evaluation.baselines.forecasters import (
    LinearAutoregression,
    SeasonalNaive,
    StatsForecast,
)
from zpyro.evaluation.elbo import (
    Evaluation,
    OnBatch,
    check_finite,
    evaluate,
    named_terms,
    perplexity,
)
from zpyro.evaluation.filtering import Filter, FilterStep
from zpyro.evaluation.forecasts import (
    Backtest,
    Forecaster,
    ForecastScores,
    History,
    backtest,
    crps,
    energy_score,
    interval,
    interval_coverage,
    interval_width,
    mase,
    naive_error,
    score_forecasts,
)
from zpyro.evaluation.importance_sampling import ImportanceEvaluation, iwae
from zpyro.evaluation.largest import FrameBound, largest_per_frame
from zpyro.evaluation.particle_filter import FilterEvaluation, check_can_filter, smc

__all__ = [
    "Backtest",
    "Evaluation",
    "Filter",
    "FilterEvaluation",
    "FilterStep",
    "ForecastScores",
    "Forecaster",
    "FrameBound",
    "History",
    "ImportanceEvaluation",
    "LinearAutoregression",
    "OnBatch",
    "SeasonalNaive",
    "StatsForecast",
    "backtest",
    "check_can_filter",
    "check_finite",
    "crps",
    "energy_score",
    "evaluate",
    "interval",
    "interval_coverage",
    "interval_width",
    "iwae",
    "largest_per_frame",
    "mase",
    "naive_error",
    "named_terms",
    "perplexity",
    "score_forecasts",
    "smc",
]
