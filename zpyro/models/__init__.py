"""Sequence models as Pyro programs, one file for each model.

In reading order: ``steps`` (the contract: the equations of one step, and defaults derived from
them), ``conditions`` and ``bound_model`` (a model bound to one batch), ``distributions`` and
``programs`` (the Pyro sites), ``base`` (the base class), ``smoothing`` (auxiliary terms), the
models, ``registry`` and ``config`` (their names and settings), ``guides`` (latents of any
guide), ``interop`` (published checkpoints).
"""

from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.config import ModelConfig, config_class, model_config, register
from zpyro.models.dmm import DMM
from zpyro.models.guides import model_inputs
from zpyro.models.interop import from_reference
from zpyro.models.programs import AuxiliaryCosts, Program
from zpyro.models.registry import MODELS
from zpyro.models.rnn import RNN
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.srnn import SRNN
from zpyro.models.steps import PosteriorPath, StepwiseModel
from zpyro.models.storn import STORN
from zpyro.models.vrnn import VRNN
from zpyro.models.zforcing import ZForcing

__all__ = [
    "DMM",
    "MODELS",
    "RNN",
    "SRNN",
    "STORN",
    "VRNN",
    "AuxiliaryCosts",
    "BoundModel",
    "ModelConfig",
    "PosteriorPath",
    "Program",
    "SequenceModel",
    "SmoothingModel",
    "StepwiseModel",
    "ZForcing",
    "config_class",
    "from_reference",
    "model_config",
    "model_inputs",
    "register",
]
