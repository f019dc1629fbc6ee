"""The fused recurrence: the whole sequence as one autograd function, whatever the cell.

See :mod:`zpyro.nn.kernels.fused_lstm` and :mod:`zpyro.nn.kernels.fused_layer_norm` for what is fused and how.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zpyro.nn.kernels import fused_layer_norm, fused_lstm
from zpyro.nn.kernels.lstm_loops import Loops, TorchLoops
from zpyro.nn.layers import Cell, GaussianMLP, LatentLSTM, State

TORCH_LOOPS = TorchLoops()


def fused_path(
    posterior: GaussianMLP,
    cell: Cell,
    backward: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
    loops: Loops = TORCH_LOOPS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, State]:
    """The fields of a :class:`zpyro.nn.recurrence.Path`, arguments as in its ``plain``.

    Under autocast the products run in its type, everything else in that of the parameters. The
    gradient cannot be differentiated again.
    """
    like = posterior.output.weight
    product_type = _product_type(like)
    inputs = (_time_major(part, like.dtype) for part in (backward, embedded, noise))
    first = (part.to(like.dtype) for part in state)
    if isinstance(cell, LatentLSTM):
        with torch.autocast(like.device.type, enabled=False):
            weights = fused_lstm.combined_weights(posterior, cell)
        outputs = fused_lstm.LSTMPath.apply(loops, product_type, *inputs, *first, *weights)
    else:
        backward, embedded, noise = inputs
        gates = cell.input_gates(embedded).to(like.dtype)
        weights = fused_layer_norm.Weights.of(posterior, cell)
        outputs = fused_layer_norm.LayerNormPath.apply(
            product_type, backward, gates, noise, *first, *weights
        )
    z, hidden, mean, log_variance, last_cell = outputs
    z, hidden, mean, log_variance = (
        part.transpose(0, 1) for part in (z, hidden, mean, log_variance)
    )
    return z, hidden, mean, log_variance, (hidden[:, -1], last_cell)


def _time_major(values: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, T, F) as contiguous (T, N, F)."""
    return values.transpose(0, 1).to(dtype).contiguous()


def _product_type(like: Tensor) -> torch.dtype:
    """The type of products: autocast's where it is on and concerns this type."""
    kind = like.device.type
    if like.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype
