"""How exactly products are computed: float32, TF32, or bfloat16 under autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")
"""In falling exactness. TF32 rounds the factors of float32 products on CUDA to 10 bits (it changes
nothing on a CPU); bfloat16 computes products in bfloat16 and keeps states and sums in float32."""


@contextlib.contextmanager
def products(precision: str) -> Generator[None, None, None]:
    """Within it, float32 products on CUDA are exact or rounded to TF32; then as they were before.

    Args:
        precision: one of :data:`PRECISIONS`.
    """
    rounded = precision == "tf32"
    before = _tf32()
    _set_tf32((rounded, rounded))
    try:
        yield
    finally:
        _set_tf32(before)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of a precision; it does nothing unless that is bfloat16."""
    if precision != "bfloat16":
        return nullcontext()
    # Casts of weights must not outlive a recorded CUDA graph, which caching them would do.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _tf32() -> tuple[bool, bool]:
    """Whether matrix products and cuDNN (its LSTM above all) round to TF32."""
    return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32


def _set_tf32(rounded: tuple[bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = rounded
