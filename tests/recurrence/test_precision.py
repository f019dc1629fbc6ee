"""The precision "auto", and LSTMs where the processor has no bfloat16 LSTM."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zpyro.nn import PRECISIONS, precision, resolve_precision, run_lstm

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")],
)
def test_auto_is_bfloat16_where_the_processor_is_fast(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision._has_fast_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    try:
        assert resolve_precision("auto", CPU) == expected
        with precision.autocast("auto", CPU):
            assert torch.is_autocast_enabled("cpu") == (expected == "bfloat16")
    finally:
        precision._has_fast_bfloat16.cache_clear()
    assert [resolve_precision(name, CPU) for name in PRECISIONS[:3]] == list(PRECISIONS[:3])


def test_without_a_bfloat16_lstm_float32_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_computes_lstm", lambda _: False)
    lstm, inputs = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    state = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    expected, _ = lstm(inputs, state)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = run_lstm(lstm, inputs, state)
        rounded, _ = run_lstm(lstm, inputs.bfloat16(), state)
    assert torch.equal(found, expected)
    assert rounded.dtype == torch.float32
    rounded.sum().backward()
    assert lstm.weight_hh_l0.grad is not None


def test_finding_out_does_not_change_the_random_numbers() -> None:
    precision._computes_lstm.cache_clear()
    before = torch.get_rng_state()
    precision._computes_lstm(torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)
