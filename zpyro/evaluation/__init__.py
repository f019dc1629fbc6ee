"""How good a model is on held-out sequences: bounds, and the information in its latents.

In reading order: ``elbo``, ``importance_sampling``, ``particle_filter``, ``information``,
``custom_guides`` (terms of models with a custom guide), ``baselines``.
"""

from zpyro.evaluation.elbo import (
    Evaluation,
    OnBatch,
    check_finite,
    evaluate,
    named_terms,
    perplexity,
)
from zpyro.evaluation.importance_sampling import ImportanceEvaluation, iwae
from zpyro.evaluation.particle_filter import FilterEvaluation, check_can_filter, smc

__all__ = [
    "Evaluation",
    "FilterEvaluation",
    "ImportanceEvaluation",
    "OnBatch",
    "check_can_filter",
    "check_finite",
    "evaluate",
    "iwae",
    "named_terms",
    "perplexity",
    "smc",
]
