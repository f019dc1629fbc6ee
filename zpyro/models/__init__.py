"""The sequence models: one file a model, one line a model in :data:`MODELS`."""

from zpyro.models.base import SequenceModel
from zpyro.models.dmm import DMM
from zpyro.models.rnn import RNN
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.srnn import SRNN
from zpyro.models.storn import STORN
from zpyro.models.vrnn import VRNN
from zpyro.models.zforcing import ZForcing

MODELS: dict[str, type[SequenceModel]] = {
    "rnn": RNN,
    "dmm": DMM,
    "storn": STORN,
    "vrnn": VRNN,
    "srnn": SRNN,
    "zforcing": ZForcing,
}
"""Models by the name that the setting ``model.name`` takes."""

__all__ = [
    "DMM",
    "MODELS",
    "RNN",
    "SRNN",
    "STORN",
    "VRNN",
    "SequenceModel",
    "SmoothingModel",
    "ZForcing",
]
