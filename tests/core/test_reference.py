"""The published code's own numbers: every term and every gradient (tests/data/*.npz)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

import zpyro
from zpyro.models.interop import convert_tensors, from_reference
from zpyro.nn.recurrence import RECURRENCES
from zpyro.objectives.sequence_terms import FixedNoise

FOLDER = Path(__file__).parent.parent / "data"
CASES = ("gaussian", "gaussian_z_force", "gaussian_conditional_layer_norm", "categorical")
RELATIVE = 1e-9

pytestmark = pytest.mark.fast


def load(case: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{case}.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def reference_state(case: str, arrays: dict[str, Tensor]) -> dict[str, object]:
    """The dictionary that the published code would have saved, its sizes read off the weights."""
    weights = {name[7:]: value for name, value in arrays.items() if name.startswith("weight/")}
    embedding = weights["emb_mod.0.weight"]
    tokens = case == "categorical"
    return {
        "inp_dim": embedding.shape[0] if tokens else embedding.shape[1],
        "emb_dim": embedding.shape[1] if tokens else embedding.shape[0],
        "rnn_dim": weights["pri_mod.0.weight"].shape[1],
        "z_dim": arrays["z"].shape[-1],
        "mlp_dim": weights["pri_mod.0.weight"].shape[0],
        "out_dim": weights["fwd_out_mod.weight"].shape[0],
        "nlayers": 1,
        "cond_ln": "layer_norm" in case,
        "z_force": "z_force" in case,
        "out_type": "softmax" if tokens else "gaussian",
        "state_dict": weights,
    }


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-9 relative to the size of the array."""
    scale = theirs.abs().max().clamp(min=1e-300)
    error = ((ours - theirs).abs().max() / scale).item()
    assert error <= RELATIVE, f"relative error {error:.3g}"


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("recurrence", ["auto", *RECURRENCES])
@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_terms_and_gradients_are_the_published_ones(
    case: str, granularity: str, recurrence: str
) -> None:
    arrays = load(case)
    module = from_reference(reference_state(case, arrays))
    module.recurrence = recurrence
    x, start = arrays["y"].transpose(0, 1), arrays["x"][0]
    noise = arrays["eps"].transpose(0, 1)

    terms = zpyro.sequence_terms(module, x, start=start, noise=noise, granularity=granularity)

    for name, ours in {
        "z": terms.z,
        "kl_per_step": terms.kl,
        "aux_nll_per_step": -terms.log_auxiliary,
        "log_prior_per_step": terms.log_prior,
        "log_posterior_per_step": terms.log_posterior,
    }.items():
        close(ours.transpose(0, 1), arrays[name])
    for name, ours in {
        "forward_nll": -terms.log_likelihood,
        "backward_nll": -terms.log_reverse,
        "aux_nll": -terms.log_auxiliary,
        "kl": terms.kl,
    }.items():
        close(ours.sum(-1), arrays[name])

    loss = (
        -terms.log_likelihood
        - arrays["beta"] * terms.log_reverse
        - arrays["alpha"] * terms.log_auxiliary
        + arrays["kl_weight"] * terms.kl
    ).sum(-1)
    close(loss.mean(), arrays["loss"])
    loss.mean().backward()
    check_gradients(module, arrays)


@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_objective_is_the_published_loss(case: str, granularity: str) -> None:
    arrays = load(case)
    module = from_reference(reference_state(case, arrays))
    module.granularity = granularity
    x, start = arrays["y"].transpose(0, 1), arrays["x"][0]
    objective = zpyro.ZForcingELBO(
        kl_weight=float(arrays["kl_weight"]),
        auxiliary_weight=float(arrays["alpha"]),
        reverse_weight=float(arrays["beta"]),
    )(module.model, module.guide)

    with FixedNoise(arrays["eps"].transpose(0, 1)):
        loss = objective(x, None, start) / len(x)

    close(loss, arrays["loss"])
    loss.backward()
    check_gradients(module, arrays)
    assert objective.terms is not None
    close(objective.terms.kl, arrays["kl"].sum())
    close(objective.terms.log_auxiliary, -arrays["aux_nll"].sum())
    close(objective.terms.bound, -(arrays["forward_nll"] + arrays["kl"]).sum())


def check_gradients(module: zpyro.ZForcing, arrays: dict[str, Tensor]) -> None:
    gradients = {name[5:]: value for name, value in arrays.items() if name.startswith("grad/")}
    expected = convert_tensors(gradients)
    parameters = dict(module.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        close(parameter.grad, expected[name])


def test_parameters_left_out_on_import_have_no_influence_there() -> None:
    arrays = load("gaussian_conditional_layer_norm")
    for name in ("gain", "bias"):
        assert not arrays[f"grad/fwd_mod.ln_hh.{name}"].any()


def test_states_are_the_published_ones(case: str) -> None:
    arrays = load(case)
    module = from_reference(reference_state(case, arrays))
    process = module.bind(arrays["y"].transpose(0, 1), None, arrays["x"][0])
    close(process.backward_states.transpose(0, 1), arrays["b"])
    trajectory = process.trajectory(process.sample_posterior(arrays["eps"].transpose(0, 1)))
    close(trajectory.features.squeeze(1), arrays["h"])
    close(module.emission(trajectory.features).squeeze(1), arrays["forward_output"])
    outputs = module.reverse_output(process.backward_states)
    close(outputs.transpose(0, 1), arrays["backward_output"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_type": "poisson"}, "out_type 'poisson'"),
        ({"rnn_dim": 8}, "has shape"),
        ({"rnn_dim": -8}, "rnn_dim is -8"),
        ({"z_dim": "4"}, "z_dim is '4'"),
        ({"out_dim": 11}, "out_dim must be twice"),
        ({"nlayers": 2}, "backward_lstm.weight_ih_l1 is missing"),
        ({"state_dict": [1, 2]}, "state_dict is not a dictionary"),
        ({"emb_dropout": 1.0}, r"emb_dropout is 1\.0, not in \[0, 1\)"),
        ({"emb_dropout": True}, "emb_dropout is True"),
        ({"out_type": "softmax"}, "softmax with inp_dim . and out_dim .*; they must be equal"),
    ],
)
def test_foreign_checkpoints_are_checked(change: dict[str, object], message: str) -> None:
    state = reference_state("gaussian", load("gaussian"))
    with pytest.raises(zpyro.UserError, match=message):
        from_reference({**state, **change})
    state.pop("inp_dim")
    with pytest.raises(zpyro.UserError, match="'inp_dim' is missing"):
        from_reference(state)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("pri_mod.0.bias", [1.0], "pri_mod.0.bias is not a tensor of floating numbers"),
        ("pri_mod.0.bias", torch.zeros(5, dtype=torch.int64), r"floating numbers \(float32 or"),
        ("pri_mod.0.bias", torch.zeros(5).half(), r"floating numbers \(float32 or float64\)"),
        ("pri_mod.0.bias", torch.zeros(5, 1, 1), "has 3 dimensions"),
        ("pri_mod.0.bias", torch.zeros(1).expand(1 << 40), "repeats what it holds"),
        ("pri_mod.0.bias", torch.full((5,), torch.inf), "holds NaN or infinity"),
        ("nowhere.weight", torch.zeros(5), "nowhere.weight is not one of the published model"),
    ],
)
def test_foreign_parameters_are_checked(name: str, tensor: object, message: str) -> None:
    state = reference_state("gaussian", load("gaussian"))
    weights = {**cast("dict[str, Tensor]", state["state_dict"]), name: tensor}
    with pytest.raises(zpyro.UserError, match=message):
        from_reference({**state, "state_dict": weights})


def test_foreign_parameters_are_of_one_type() -> None:
    state = reference_state("gaussian", load("gaussian"))
    weights = dict(cast("dict[str, Tensor]", state["state_dict"]))
    weights["pri_mod.0.bias"] = weights["pri_mod.0.bias"].float()
    with pytest.raises(zpyro.UserError, match="parameters have different floating types"):
        from_reference({**state, "state_dict": weights})
