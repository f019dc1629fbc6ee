"""Stochastic recurrent networks with Z-Forcing, as Pyro models and guides."""

from zpyro import datasets, likelihoods, models, schedules
from zpyro.decoding import Decoded, decode, reconstruct
from zpyro.elbo import ObjectiveTerms, ZForcingELBO
from zpyro.errors import UserError
from zpyro.models import SequenceModel, ZForcing
from zpyro.multisample import MultiSampleELBO
from zpyro.posteriors import Posterior, posterior
from zpyro.terms import SequenceTerms, sequence_terms
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
