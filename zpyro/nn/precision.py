"""The precision of matrix products: float32, TF32, or bfloat16 under autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "tf32", "bfloat16", "auto")
"""TF32 rounds the factors of float32 products on CUDA to 10 bits (no effect on a CPU). bfloat16
computes products in bfloat16 and keeps states and sums in float32. For "auto" see
:func:`resolve_precision`."""


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision that a name of :data:`PRECISIONS` means on a device.

    "auto" is bfloat16 where the device has instructions for bfloat16 products (a GPU that supports
    them, a CPU with AVX512_BF16 or AMX) and float32 elsewhere. Other names stay as they are.
    """
    if name != "auto":
        return name
    return "bfloat16" if _has_fast_bfloat16(device.type) else "float32"


@contextlib.contextmanager
def products(precision: str) -> Generator[None, None, None]:
    """Set whether float32 products on CUDA are rounded to TF32, and restore the setting at the end.

    Args:
        precision: one of :data:`PRECISIONS`.
    """
    matmul, rounded = torch.backends.cuda.matmul, precision == "tf32"
    # cuDNN computes the LSTMs, with a setting of its own.
    before = bool(matmul.allow_tf32), torch.backends.cudnn.allow_tf32
    matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = rounded, rounded
    try:
        yield
    finally:
        matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of a precision: bfloat16, or no context for the others."""
    if resolve_precision(precision, device) != "bfloat16":
        return nullcontext()
    # Cached casts of weights would be freed while a recorded CUDA graph still reads them.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def run_lstm(
    lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Call an LSTM; under autocast in its dtype where the processor can, otherwise in float32.

    oneDNN has no bfloat16 LSTM for processors without AVX-512.

    Args:
        lstm: the module.
        inputs: its input.
        state: (h_0, c_0) as ``nn.LSTM`` takes them; zeros by default.

    Returns:
        What ``nn.LSTM`` returns.
    """
    device = inputs.device.type
    if (
        device != "cpu"
        or not torch.is_autocast_enabled(device)
        or _computes_lstm(torch.get_autocast_dtype(device))
    ):
        return lstm(inputs, state)
    dtype = next(lstm.parameters()).dtype
    with torch.autocast(device, enabled=False):
        first = None if state is None else (state[0].to(dtype), state[1].to(dtype))
        return lstm(inputs.to(dtype), first)


@cache
def _computes_lstm(dtype: torch.dtype) -> bool:
    """Whether this processor computes an LSTM and its gradient under autocast to a dtype."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        lstm = nn.LSTM(1, 1)
        try:
            with torch.autocast("cpu", dtype):
                lstm(torch.zeros(1, 1, 1))[0].sum().backward()
        except RuntimeError:
            return False
    return True


@cache
def _has_fast_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
