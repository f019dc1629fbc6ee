"""Numbers that are not finite: skipped, counted, blamed, and hunted down."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.run.small import dataset, model, settings
from tests.run.test_tally import accumulator, add
from tests.run.test_training import At, with_a_loud_sequence
from zpyro.errors import UserError
from zpyro.models import SequenceModel
from zpyro.training import fitting as training
from zpyro.training import runs


def test_the_first_bad_step_and_its_first_bad_term() -> None:
    tally = accumulator()
    add(tally, 40.0)
    assert tally.first_nonfinite() is None
    add(tally, math.nan, log_likelihood=-math.inf, norm=math.nan)
    add(tally, math.inf)
    assert tally.first_nonfinite() == tally.first_nonfinite(in_a_row=True) == (2, "log_likelihood")
    add(tally, 40.0)
    assert tally.first_nonfinite() == (2, "log_likelihood")
    assert tally.first_nonfinite(in_a_row=True) is None
    add(tally, 40.0, norm=math.inf)
    assert tally.first_nonfinite(in_a_row=True) == (5, "gradient_norm")
    tally.clear()
    assert tally.first_nonfinite() is None
    assert tally.first_nonfinite(in_a_row=True) == (5, "gradient_norm")
    add(tally, math.nan)
    assert tally.first_nonfinite() == (6, "loss")
    other = accumulator()
    other.load_state_dict(tally.state_dict())
    assert other.first_nonfinite() == (6, "loss")
    assert other.first_nonfinite(in_a_row=True) == (5, "gradient_norm")


def test_records_name_the_first_bad_term_and_step(tmp_path: Path) -> None:
    config = settings(max_steps=18, log_every=6)
    run = runs.create(tmp_path / "run", config)
    training.fit(model(), with_a_loud_sequence(dataset()), config, run=run)
    records = [record for record in run.records() if record["kind"] == "train"]
    assert [record["bad_term"] for record in records] == ["log_likelihood"] * 3
    for record in records:
        assert record["step"] - 6 < record["bad_step"] <= record["step"]


def break_weight(module: SequenceModel, name: str) -> None:
    with torch.no_grad():
        module.get_parameter(name).view(-1)[0] = math.inf


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        ("embedding.weight", "output of embedding is not finite"),
        ("prior_network.output.weight", "output of prior_network.*is not finite"),
        ("reverse_output.weight", "output of reverse_output is not finite"),
    ],
)
def test_hunting_names_the_step_and_the_network(parameter: str, found: str) -> None:
    module = model()
    logger = At(3, lambda: break_weight(module, parameter))
    with pytest.raises(UserError, match=rf"step 4: the {found}, on walk.* and 3 more; look") as e:
        training.fit(module, dataset(), settings(), callbacks=[logger], detect_anomaly=True)
    assert "\n" not in str(e.value)


def test_hunting_names_the_gradient() -> None:
    module = model()
    weight = module.get_parameter("output.bias")
    # After its own hook: the loss stays finite, this one gradient does not.
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        UserError, match=r"step 1: .*(gradient of output.bias|gradient_norm) is not"
    ):
        training.fit(module, dataset(), settings(), detect_anomaly=True)


def test_hunting_names_the_operation() -> None:
    module = model()
    cell = module.get_parameter("output.bias")

    def forward(*arguments: object) -> torch.Tensor:
        # The root's slope at 0 is infinite, and 0 times that is NaN.
        return original(*arguments) + (cell.sum() * 0).sqrt() * 0

    original = module.output.forward
    module.output.forward = forward
    with (
        pytest.warns(UserWarning, match="SqrtBackward0"),
        pytest.raises(
            UserError,
            match="step 1: Function 'SqrtBackward0' returned nan values in its 0th output",
        ),
    ):
        training.fit(module, dataset(), settings(), detect_anomaly=True)


def test_hunting_changes_no_weight(tmp_path: Path) -> None:
    plain, hunted = model(), model()
    config = settings(max_steps=4)
    torch.manual_seed(0)
    training.fit(plain, dataset(), config)
    torch.manual_seed(0)
    training.fit(hunted, dataset(), config, detect_anomaly=True)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, hunted.state_dict()[name])
