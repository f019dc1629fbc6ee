"""How good a model is on held-out sequences: bounds, and what the latents hold."""

from zpyro.evaluation.elbo import (
    ACTIVE_VARIANCE,
    Evaluation,
    OnBatch,
    check_finite,
    evaluate,
    in_type_of,
    named_terms,
    perplexity,
)
from zpyro.evaluation.importance_sampling import ImportanceEvaluation, iwae
from zpyro.evaluation.particle_filter import FilterEvaluation, check_can_filter, smc

__all__ = [
    "ACTIVE_VARIANCE",
    "Evaluation",
    "FilterEvaluation",
    "ImportanceEvaluation",
    "OnBatch",
    "check_can_filter",
    "check_finite",
    "evaluate",
    "in_type_of",
    "iwae",
    "named_terms",
    "perplexity",
    "smc",
]
