"""The models by name."""

from __future__ import annotations

from zpyro.io.registry import Registry
from zpyro.models.base import SequenceModel
from zpyro.models.dmm import DMM
from zpyro.models.rnn import RNN
from zpyro.models.srnn import SRNN
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
