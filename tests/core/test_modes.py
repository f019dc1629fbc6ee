"""Evaluation mode for the length of a block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zpyro.nn.modes import evaluation_mode

pytestmark = pytest.mark.fast


def test_every_part_gets_its_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    model[1].eval()
    with evaluation_mode(model):
        assert not any(part.training for part in model.modules())
        assert not torch.is_grad_enabled()
    assert [part.training for part in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_an_error_restores_it_too() -> None:
    model = nn.Dropout().train()
    with pytest.raises(ValueError, match="within"), evaluation_mode(model):
        raise ValueError("within")
    assert model.training
    assert torch.is_grad_enabled()
