"""Stochastic recurrent networks with Z-Forcing, as Pyro models and guides.

The names here are the ones that most programs need. The packages hold the rest, lowest layer
first: ``settings``, ``io``, ``nn``, ``likelihoods``, ``datasets``, ``distributed``, ``models``,
``objectives``, ``evaluation``, ``training``, ``analysis``.
"""

from zpyro import (
    analysis,
    datasets,
    distributed,
    evaluation,
    io,
    likelihoods,
    models,
    nn,
    objectives,
    settings,
    training,
)
from zpyro.analysis import (
    Decoded,
    Forecast,
    Imputation,
    LoadedRun,
    Posterior,
    decode,
    forecast,
    impute,
    interpolate,
    load_run,
    posterior,
    reconstruct,
)
from zpyro.errors import UserError
from zpyro.evaluation import Filter, evaluate, iwae, smc
from zpyro.models import SequenceModel, ZForcing
from zpyro.objectives import (
    FIVO,
    MultiSampleELBO,
    ObjectiveTerms,
    SequenceTerms,
    ZForcingELBO,
    schedules,
    sequence_terms,
)
from zpyro.training import fit, load, load_state
from zpyro.version import __version__

__all__ = [
    "FIVO",
    "Decoded",
    "Filter",
    "Forecast",
    "Imputation",
    "LoadedRun",
    "MultiSampleELBO",
    "ObjectiveTerms",
    "Posterior",
    "SequenceModel",
    "SequenceTerms",
    "UserError",
    "ZForcing",
    "ZForcingELBO",
    "__version__",
    "analysis",
    "datasets",
    "decode",
    "distributed",
    "evaluate",
    "evaluation",
    "fit",
    "forecast",
    "impute",
    "interpolate",
    "io",
    "iwae",
    "likelihoods",
    "load",
    "load_run",
    "load_state",
    "models",
    "nn",
    "objectives",
    "posterior",
    "reconstruct",
    "schedules",
    "sequence_terms",
    "settings",
    "smc",
    "training",
]
