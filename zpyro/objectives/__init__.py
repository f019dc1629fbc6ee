"""Training objectives: named terms, their weights and schedules, and the bounds they add up to.

In reading order: ``schedules``, ``terms``, ``elbo``, ``multi_sample``, ``fivo``,
``sequence_terms``.
"""

from zpyro.objectives import schedules
from zpyro.objectives.elbo import ObjectiveModule, ObjectiveTerms, ZForcingELBO
from zpyro.objectives.fivo import FIVO
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.schedules import Schedule
from zpyro.objectives.sequence_terms import SequenceTerms, sequence_terms
from zpyro.objectives.terms import (
    KL,
    TERMS,
    Auxiliary,
    LogLikelihood,
    Reverse,
    SiteValues,
    Term,
    TracePair,
    register,
)

__all__ = [
    "FIVO",
    "KL",
    "TERMS",
    "Auxiliary",
    "LogLikelihood",
    "MultiSampleELBO",
    "ObjectiveModule",
    "ObjectiveTerms",
    "Reverse",
    "Schedule",
    "SequenceTerms",
    "SiteValues",
    "Term",
    "TracePair",
    "ZForcingELBO",
    "register",
    "schedules",
    "sequence_terms",
]
