"""Layers, the recurrence over time, and the numerical settings that they share.

In reading order: ``layers`` (MLPs, recurrent cells, densities), ``recurrence`` (the loop over time
in its readable form, and the choice of a fast one), ``noise`` (random numbers), ``precision``
(TF32, bfloat16), ``modes`` (evaluation mode), ``blocks`` (memory), and ``kernels``, which is
private: the fast loops, in torch, in C++ and as CUDA graphs.
"""

from zpyro.nn.blocks import in_blocks
from zpyro.nn.layers import (
    MLP,
    Cell,
    ConditionalLayerNormLSTM,
    GaussianMLP,
    HiddenLayer,
    LatentLSTM,
    State,
    TiedLinear,
    gaussian_kl,
    gaussian_log_density,
    lstm_states,
    lstm_step,
    orthogonal_recurrent_weights,
    run_backward,
)
from zpyro.nn.modes import evaluation_mode
from zpyro.nn.noise import CounterNoise, Dropout, NoiseSource
from zpyro.nn.precision import PRECISIONS, resolve_precision, run_lstm
from zpyro.nn.recurrence import RECURRENCES, Path, Recurrence

__all__ = [
    "MLP",
    "PRECISIONS",
    "RECURRENCES",
    "Cell",
    "ConditionalLayerNormLSTM",
    "CounterNoise",
    "Dropout",
    "GaussianMLP",
    "HiddenLayer",
    "LatentLSTM",
    "NoiseSource",
    "Path",
    "Recurrence",
    "State",
    "TiedLinear",
    "evaluation_mode",
    "gaussian_kl",
    "gaussian_log_density",
    "in_blocks",
    "lstm_states",
    "lstm_step",
    "orthogonal_recurrent_weights",
    "resolve_precision",
    "run_backward",
    "run_lstm",
]
