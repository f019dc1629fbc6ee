"""Evaluation mode for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch
from torch import nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None, None, None]:
    """Run a block in evaluation mode and without gradients, and restore the mode of every part.

    Args:
        model: the model to evaluate; its submodules may be in different modes.

    Example:
        >>> model = nn.Dropout().train()
        >>> with evaluation_mode(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
