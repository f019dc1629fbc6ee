"""Training: configuration, the trainer, checkpoints and run directories.

In reading order: ``config`` (settings and presets), ``building`` (from settings to objects),
``task`` (what a trainer trains), ``trainer`` (the loop), ``sequence_task`` (sequence models on a
data set), ``optimizer``, ``accumulator``, ``callbacks``, ``checkpoint``, ``runs``.
"""

from zpyro.training.building import build_likelihood, build_model, build_objective
from zpyro.training.callbacks import Callback, LineLogger, NullLogger, ProgressLogger
from zpyro.training.checkpoint import Checkpoint, DataSpec
from zpyro.training.config import Config, ObjectiveConfig, TrainConfig
from zpyro.training.runs import Run, open_run
from zpyro.training.sequence_task import SequenceTask, fit
from zpyro.training.task import StepTerms, TrainingTask, TrainState
from zpyro.training.trainer import Outcome, Trainer

__all__ = [
    "Callback",
    "Checkpoint",
    "Config",
    "DataSpec",
    "LineLogger",
    "NullLogger",
    "ObjectiveConfig",
    "Outcome",
    "ProgressLogger",
    "Run",
    "SequenceTask",
    "StepTerms",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "TrainingTask",
    "build_likelihood",
    "build_model",
    "build_objective",
    "fit",
    "open_run",
]
