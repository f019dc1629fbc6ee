"""From settings to a trained model: configuration, the training loop, and the run directory.

In reading order: ``config`` (settings and presets), ``building`` (settings to objects), ``task``
and ``trainer`` (the loop), ``sequence_task`` (sequence models as a task), ``fitting``
(:func:`fit`), ``optimizer``, ``accumulator``, ``callbacks``, ``loggers`` (experiment trackers),
``checkpoint``, ``runs`` (the run directory), ``loading`` (:func:`load`), ``curves`` (figures of
records), ``custom_guides`` and ``plugins`` (a user's own code), ``joint_optim`` (an optimizer for
``pyro.infer.SVI``).
"""

from zpyro.nn.devices import choose_device
from zpyro.training.building import (
    build_likelihood,
    build_model,
    build_objective,
    fit_to_data,
)
from zpyro.training.callbacks import Callback, LineLogger, NullLogger, ProgressLogger, logger_for
from zpyro.training.checkpoint import Checkpoint, DataSpec
from zpyro.training.config import Config, ObjectiveConfig, Preset, TrainConfig, read_preset, resolve
from zpyro.training.custom_guides import GuideSource, attach_guide
from zpyro.training.fitting import FitResult, fit
from zpyro.training.joint_optim import JointOptim
from zpyro.training.loading import load, load_state
from zpyro.training.loggers import (
    LOGGERS,
    MLflowLogger,
    TensorBoardLogger,
    TrackerLogger,
    WandbLogger,
)
from zpyro.training.runs import Run, open_run
from zpyro.training.sequence_task import SequenceTask
from zpyro.training.task import StepTerms, TrainingTask, TrainState
from zpyro.training.trainer import Outcome, Trainer

__all__ = [
    "LOGGERS",
    "Callback",
    "Checkpoint",
    "Config",
    "DataSpec",
    "FitResult",
    "GuideSource",
    "JointOptim",
    "LineLogger",
    "MLflowLogger",
    "NullLogger",
    "ObjectiveConfig",
    "Outcome",
    "Preset",
    "ProgressLogger",
    "Run",
    "SequenceTask",
    "StepTerms",
    "TensorBoardLogger",
    "TrackerLogger",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "TrainingTask",
    "WandbLogger",
    "attach_guide",
    "build_likelihood",
    "build_model",
    "build_objective",
    "choose_device",
    "fit",
    "fit_to_data",
    "load",
    "load_state",
    "logger_for",
    "open_run",
    "read_preset",
    "resolve",
]
