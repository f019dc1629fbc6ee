"""The sequence models: one file a model."""

from zpyro.models.base import SequenceModel
from zpyro.models.zforcing import ZForcing

__all__ = ["SequenceModel", "ZForcing"]
