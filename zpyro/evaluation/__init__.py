"""How good a model is on held-out sequences: bounds, and what the latents hold."""

from zpyro.evaluation.bound import (
    ACTIVE_VARIANCE,
    Evaluation,
    OnBatch,
    check_finite,
    evaluate,
    in_type_of,
    named_terms,
    perplexity,
)
from zpyro.evaluation.filtering import FilterEvaluation, check_can_filter, smc
from zpyro.evaluation.importance import ImportanceEvaluation, iwae

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
