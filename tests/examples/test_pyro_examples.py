"""The two examples on Pyro programs run by themselves, and show what they say they show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import zpyro
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.models.guides import MeanLatents
from zpyro.training import custom_guides as custom_guides
from zpyro.training import guide_checks
from zpyro_examples import custom_guide, inspect_posteriors

EXAMPLES = Path(__file__).parents[2] / "examples"


def small(seed: int = 0) -> zpyro.ZForcing:
    torch.manual_seed(seed)
    return zpyro.ZForcing(zpyro.likelihoods.Gaussian(200), hidden_size=6, latent_size=3)


def test_bounds_of_four_guides_are_told() -> None:
    result = CliRunner(catch_exceptions=False).invoke(
        custom_guide.main, ["--steps", "1", "--particles", "2"]
    )
    assert result.exit_code == 0, result.output
    rows = [line.rsplit(maxsplit=2) for line in result.output.splitlines()[1:]]
    assert [row[0] for row in rows] == list(custom_guide.GUIDES)
    for _, elbo, iwae in rows:
        assert float(elbo) <= float(iwae)


@pytest.mark.parametrize("name", [name for name, make in custom_guide.GUIDES.items() if make])
def test_each_guide_keeps_the_contract(name: str) -> None:
    make = custom_guide.GUIDES[name]
    assert make is not None
    module = small()
    custom_guides.attach_guide(module, make(module))
    batch = zpyro.datasets.load("vowels").train[:4].batch()
    assert len(set(batch.lengths.tolist())) > 1
    guide_checks.check(module, batch, needs_backward_states=False)


def test_the_per_step_guide_is_the_filtering_one() -> None:
    """The same weights give the same bound whichever way the sites are cut."""
    module, other = small(), small()
    whole, steps = custom_guide.Filtering(module), custom_guide.StepByStep(other)
    for name, parameter in steps.cell.named_parameters():
        parameter.data.copy_(getattr(whole.recurrent, f"{name}_l0").data)
    steps.output.load_state_dict(whole.output.state_dict())
    custom_guides.attach_guide(module, whole)
    custom_guides.attach_guide(other, steps)
    batch = zpyro.datasets.load("vowels").test[:3].batch()
    zeros = torch.zeros(3, batch.x.shape[1], 3)
    with MeanLatents():
        first = path_log_probs(module, batch, 0, 0)
        second = path_log_probs(other, batch, 0, 0)
    assert zeros.shape == first[3].shape
    valid = torch.arange(zeros.shape[1]) < batch.lengths.unsqueeze(-1)
    torch.testing.assert_close(first[3][valid], second[3][valid], rtol=1e-4, atol=1e-4)
    for a, b in zip(first[:3], second[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_an_intervention_changes_nothing_before_it() -> None:
    model, _ = small().program("step")
    alone, done = inspect_posteriors.intervene(model, torch.zeros(2, 200), 3)
    assert torch.equal(alone[:, :2], done[:, :2])
    assert not torch.equal(alone[:, 2:], done[:, 2:])


def test_posteriors_are_inspected() -> None:
    result = CliRunner(catch_exceptions=False).invoke(
        inspect_posteriors.main, ["--steps", "1", "--draws", "3"]
    )
    assert result.exit_code == 0, result.output
    starts = [line.split(":")[0] for line in result.output.splitlines()]
    assert starts == ["posterior", "importance", "conditioned", "do(z_3 = 3)"]
    assert "as given: True" in result.output


@pytest.mark.parametrize("name", ["custom_guide", "inspect_posteriors"])
def test_they_run_as_files(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--steps" in shown.stdout
