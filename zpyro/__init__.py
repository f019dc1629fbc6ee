"""Stochastic recurrent networks with Z-Forcing, as Pyro models and guides."""

from zpyro import datasets, likelihoods, models
from zpyro.analysis.decoding import Decoded, decode, reconstruct
from zpyro.analysis.posteriors import Posterior, posterior
from zpyro.errors import UserError
from zpyro.models import SequenceModel, ZForcing
from zpyro.objectives import schedules
from zpyro.objectives.elbo import ObjectiveTerms, ZForcingELBO
from zpyro.objectives.multi_sample import MultiSampleELBO
from zpyro.objectives.sequence_terms import SequenceTerms, sequence_terms
from zpyro.version import __version__

__all__ = [
    "Decoded",
    "MultiSampleELBO",
    "ObjectiveTerms",
    "Posterior",
    "SequenceModel",
    "SequenceTerms",
    "UserError",
    "ZForcing",
    "ZForcingELBO",
    "__version__",
    "datasets",
    "decode",
    "likelihoods",
    "models",
    "posterior",
    "reconstruct",
    "schedules",
    "sequence_terms",
]
