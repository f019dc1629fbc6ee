"""Results do not depend on the size of the blocks."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import zpyro
from tests.core.cases import MODELS, gradients, make
from zpyro.nn import blocks
from zpyro.objectives.sequence_terms import SequenceTerms


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 6, 9])
def test_terms_and_gradients_in_blocks(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(name)
    results = []
    for at_once in (blocks.ROWS_AT_ONCE, rows):
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", at_once)
        terms = zpyro.sequence_terms(case.module, *case.batch, noise=case.noise)
        total = terms.log_likelihood + terms.kl + terms.log_auxiliary + terms.log_reverse
        results.append((terms, gradients(case.module, total.sum())))
    (whole, expected), (parts, found) = results
    for field in fields(SequenceTerms):
        torch.testing.assert_close(getattr(parts, field.name), getattr(whole, field.name))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10)


@pytest.mark.fast
def test_no_block_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 7)
    seen: list[int] = []

    def double(values: torch.Tensor) -> torch.Tensor:
        seen.append(values.shape[0])
        return 2.0 * values

    values = torch.randn(8, 1, 3, 2)
    assert torch.equal(blocks.in_blocks(double, values), 2.0 * values)
    assert seen == [2, 2, 2, 2]
