"""Sequence models as Pyro programs, one file for each model.

In reading order: ``steps`` (the contract: the equations of one step, and defaults derived from
them), ``conditions`` and ``bound_model`` (a model bound to one batch), ``distributions`` and
``programs`` (the Pyro sites), ``base`` (the base class), ``smoothing`` (auxiliary terms), the
models, ``guides`` (latents of any guide), ``interop`` (published checkpoints).
"""

from zpyro.io.registry import Registry
from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.dmm import DMM
from zpyro.models.guides import model_inputs
from zpyro.models.interop import from_reference
from zpyro.models.programs import AuxiliaryCosts, Program
from zpyro.models.rnn import RNN
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.srnn import SRNN
from zpyro.models.steps import PosteriorPath, StepwiseModel
from zpyro.models.storn import STORN
from zpyro.models.vrnn import VRNN
from zpyro.models.zforcing import ZForcing

MODELS: Registry[type[SequenceModel]] = Registry("model", group="zpyro.models")
"""Models by the name that the setting ``model.name`` takes."""

for _name, _cls in (
    ("rnn", RNN),
    ("dmm", DMM),
    ("storn", STORN),
    ("vrnn", VRNN),
    ("srnn", SRNN),
    ("zforcing", ZForcing),
):
    MODELS.register(_name, _cls)


def register(name: str, model: type[SequenceModel]) -> None:
    """Make a model available under a name, for ``model.name`` and ``zpyro compare``.

    Raises:
        UserError: if the name belongs to another model.
    """
    MODELS.register(name, model)


__all__ = [
    "DMM",
    "MODELS",
    "RNN",
    "SRNN",
    "STORN",
    "VRNN",
    "AuxiliaryCosts",
    "BoundModel",
    "PosteriorPath",
    "Program",
    "SequenceModel",
    "SmoothingModel",
    "StepwiseModel",
    "ZForcing",
    "from_reference",
    "model_inputs",
    "register",
]
