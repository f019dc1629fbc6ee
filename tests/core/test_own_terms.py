"""A term of the user's own: one class, in every objective, granularity and report."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from torch import Tensor

import zpyro
from tests.core.cases import gradients, make
from zpyro.objectives import TERMS, MultiSampleELBO, Term, TracePair, register, schedules

pytestmark = pytest.mark.fast


class Sparsity(Term):
    """A cost of -sum |z_t|, with NaN in the padding to see that it is masked."""

    name, label, sign = "sparsity", "sparsity", -1.0

    def step_values(self, path: TracePair) -> Tensor:
        values = path.z.abs().sum(-1)
        return values if path.mask is None else values.where(path.mask, torch.nan)


def expected(case: zpyro.SequenceModel, z: Tensor, lengths: Tensor) -> Tensor:
    mask = torch.arange(z.shape[-2]) < lengths.unsqueeze(-1)
    return (z.abs().sum(-1) * mask).sum()


@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_value_weight_and_gradient(granularity: str) -> None:
    case = make("gaussian", granularity=granularity)
    objective = zpyro.ZForcingELBO(0.5, terms=[Sparsity(schedules.linear(0.0, 2.0, steps=4))])
    objective.step = 2
    torch.manual_seed(3)
    terms = objective.terms(case.module.model, case.module.guide, *case.batch)
    torch.manual_seed(3)
    trace = poutine.trace(case.module.guide).get_trace(*case.batch)
    z = (
        trace.nodes["z"]["value"]
        if granularity == "sequence"
        else torch.stack([trace.nodes[f"z_{t}"]["value"] for t in range(1, 6)], 1)
    )
    torch.testing.assert_close(terms.sparsity, expected(case.module, z, case.lengths))
    assert terms.sparsity_weight == 1.0
    plain = -(terms.log_likelihood - 0.5 * terms.kl)
    torch.testing.assert_close(terms.loss, plain + terms.sparsity)
    found = gradients(case.module, terms.loss)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["posterior_network.output.weight"].any()


def test_step_values_equal_in_both_granularities() -> None:
    case = make("gaussian")
    values = [
        zpyro.sequence_terms(
            case.module,
            *case.batch,
            noise=case.noise,
            granularity=granularity,
            terms=[Sparsity()],
        ).sparsity  # pyright: ignore[reportAttributeAccessIssue]
        for granularity in ("sequence", "step")
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    assert not values[0][1, 2:].any()


def test_in_the_multi_sample_bound() -> None:
    case = make("gaussian")
    objectives = [
        MultiSampleELBO(3, terms=terms, doubly_reparameterized=False)
        for terms in ([], [Sparsity(0.5)])
    ]
    found = []
    for objective in objectives:
        torch.manual_seed(5)
        found.append(objective.terms(case.module.model, case.module.guide, *case.batch))
    torch.testing.assert_close(found[1].loss, found[0].loss + 0.5 * found[1].sparsity)


def test_a_term_without_weight_is_reported_and_costs_no_gradient() -> None:
    case = make("gaussian")
    objective = zpyro.ZForcingELBO(terms=[Sparsity()])
    terms = objective.terms(case.module.model, case.module.guide, *case.batch)
    assert terms.sparsity > 0
    torch.testing.assert_close(terms.loss, -terms.bound)


def test_two_terms_of_one_name() -> None:
    with pytest.raises(ValueError, match="one name"):
        zpyro.ZForcingELBO(terms=[Sparsity(), Sparsity()])


def test_the_label_is_the_name_by_default() -> None:
    class PathLength(zpyro.objectives.Term):
        name = "path_length"

        def step_values(self, path: TracePair) -> Tensor:
            return path.z.square().sum(-1)

    assert PathLength.label == "path length"
    assert PathLength(0.5).weight_name == "path_length_weight"


def test_a_term_without_a_name() -> None:
    class Nameless(zpyro.objectives.Term):
        def step_values(self, path: TracePair) -> Tensor:
            return path.z.square().sum(-1)

    with pytest.raises(zpyro.UserError, match="objective term Nameless: has no name; set name"):
        Nameless(0.5)
    with pytest.raises(zpyro.UserError, match="objective term Nameless: the name '' is missing"):
        zpyro.objectives.register(Nameless)


def test_masked_auxiliary_terms() -> None:
    """poutine.mask and scale act on the auxiliary terms as on all others."""
    case = make("gaussian")
    model, guide = case.module.model, case.module.guide
    objective = zpyro.ZForcingELBO(1.0, 0.3, 0.2)
    keep = torch.tensor([True, False, True])
    torch.manual_seed(2)
    with poutine.mask(mask=keep):
        masked = objective.terms(model, guide, *case.batch)
    torch.manual_seed(2)
    with poutine.scale(scale=2.0):
        scaled = objective.terms(model, guide, *case.batch)
    torch.manual_seed(2)
    plain = objective.terms(model, guide, *case.batch)
    torch.manual_seed(2)
    x, lengths, start = case.batch
    noise = torch.randn(3, 5, 2, dtype=torch.float64)
    every = zpyro.sequence_terms(case.module, x, lengths, start, noise=noise)
    for name in ("log_likelihood", "kl", "log_auxiliary", "log_reverse"):
        assert getattr(scaled, name).item() == pytest.approx(2 * getattr(plain, name).item())
        by_sequence = getattr(every, name).sum(1)
        torch.testing.assert_close(getattr(masked, name), by_sequence[keep].sum())


def test_registered_by_name() -> None:
    register(Sparsity)
    try:
        assert TERMS["sparsity"] is Sparsity
    finally:
        TERMS.unregister("sparsity")


@pytest.mark.parametrize("name", ["", "two words", "loss", "step", "kl", "auxiliary"])
def test_reserved_names_are_refused(name: str) -> None:
    reserved = type("Reserved", (Sparsity,), {"name": name})
    with pytest.raises(zpyro.UserError, match="missing or reserved; choose another"):
        register(reserved)
    assert name not in TERMS


def test_the_step_is_part_of_the_state() -> None:
    case = make("gaussian")
    module = zpyro.ZForcingELBO(schedules.linear(0.0, 1.0, steps=10))(
        case.module.model, case.module.guide
    )
    module(*case.batch)
    other = zpyro.ZForcingELBO(schedules.linear(0.0, 1.0, steps=10))(
        case.module.model, case.module.guide
    )
    other.load_state_dict(module.state_dict())
    assert other.objective.step == 1
