"""Models from the files of the code published with Z-Forcing (arXiv:1711.05411)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zpyro.errors import UserError, pluralize
from zpyro.likelihoods import Categorical, Gaussian, Likelihood
from zpyro.models.zforcing import ZForcing

_BLOCKS = {
    "emb_mod.0": "embedding",
    "bwd_mod": "backward_lstm",
    "pri_mod.0": "prior_network.hidden",
    "pri_mod.2": "prior_network.output",
    "inf_mod.0": "posterior_network.hidden",
    "inf_mod.2": "posterior_network.output",
    "aux_mod.0": "auxiliary_network.hidden",
    "aux_mod.2": "auxiliary_network.output",
    "fwd_out_mod": "output",
    "bwd_out_mod": "reverse_output",
}

_PLAIN_CELL = {
    "gen_mod.weight": "cell.projection.weight",
    "gen_mod.bias": "cell.projection.bias",
    "fwd_mod.weight_ih": "cell.lstm.weight_ih_l0",
    "fwd_mod.weight_hh": "cell.lstm.weight_hh_l0",
    "fwd_mod.bias_ih": "cell.lstm.bias_ih_l0",
    "fwd_mod.bias_hh": "cell.lstm.bias_hh_l0",
}

_LAYER_NORM_CELL = {
    "gen_mod.0.weight": "cell.projection.hidden.weight",
    "gen_mod.0.bias": "cell.projection.hidden.bias",
    "gen_mod.2.weight": "cell.projection.output.weight",
    "gen_mod.2.bias": "cell.projection.output.bias",
    "fwd_mod.weight_ih": "cell.input_weight",
    "fwd_mod.weight_hh": "cell.hidden_weight",
    "fwd_mod.ln_ih.gain": "cell.input_gain",
    "fwd_mod.ln_ih.bias": "cell.input_bias",
}

# The published cell owns these and never reads them: z sets the gain and bias in their place.
_UNUSED = ("fwd_mod.ln_hh.gain", "fwd_mod.ln_hh.bias")

LARGEST_SIZES = {"inp_dim": 1 << 20, "out_dim": 1 << 21, "nlayers": 64}
"""Of the others, 2^16."""

_SIZES = ("inp_dim", "emb_dim", "rnn_dim", "z_dim", "mlp_dim", "out_dim", "nlayers")


def from_reference(state: Mapping[str, Any]) -> ZForcing:
    """A :class:`ZForcing` that computes the same terms as a saved model of the published code.

    Args:
        state: the saved dictionary, with ``inp_dim, emb_dim, rnn_dim, z_dim, mlp_dim, out_dim,
            nlayers, cond_ln, z_force, out_type, state_dict`` and, where they were saved,
            ``use_l2`` and ``emb_dropout``; other entries are ignored.

    Returns:
        The model with the weights' own type (float32 or float64). Its x is the published code's
        target y, batch first, and its start frame the first input.

    Raises:
        UserError: if an entry is missing or of a wrong type, or the weights do not fit the sizes.
    """
    sizes = {name: _positive(state, name) for name in _SIZES}
    tensors = _entry(state, "state_dict")
    if not isinstance(tensors, Mapping):
        raise UserError("reference checkpoint: state_dict is not a dictionary of tensors")
    settings = reference_settings(state)
    likelihood = _likelihood(str(_entry(state, "out_type")), sizes["inp_dim"], sizes["out_dim"])
    # No memory for the sizes before the weights have proved to be of these sizes.
    with torch.device("meta"):
        module = ZForcing(
            likelihood,
            sizes["rnn_dim"],
            sizes["z_dim"],
            sizes["emb_dim"],
            sizes["mlp_dim"],
            backward_layers=sizes["nlayers"],
            **settings,
        )
    converted = convert_tensors(tensors)
    _check(module, converted)
    module.to(next(iter(converted.values())).dtype)
    # Copies: tensors of a file may share memory.
    module.load_state_dict({name: t.clone() for name, t in converted.items()}, assign=True)
    return module.requires_grad_(True)


def reference_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of :class:`ZForcing` in a saved dictionary, its sizes left out.

    Raises:
        UserError: if one is missing or of a wrong type.
    """
    dropout = state.get("emb_dropout", 0.0)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"reference checkpoint: emb_dropout is {dropout!r}, not in [0, 1)")
    return {
        "conditional_layer_norm": _flag("cond_ln", _entry(state, "cond_ln")),
        "forced_auxiliary": _flag("z_force", _entry(state, "z_force")),
        "squared_error_auxiliary": _flag("use_l2", state.get("use_l2", False)),
        "embedding_dropout": float(dropout),
    }


def convert_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published code's parameters (or their gradients) under the names and layout used here.

    Raises:
        UserError: for a name that the published code does not have, or a value that is no tensor.
    """
    cell = _LAYER_NORM_CELL if "fwd_mod.ln_ih.gain" in tensors else _PLAIN_CELL
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _UNUSED:
            continue
        _check_tensor(name, tensor)
        # The published cell multiplies from the left and keeps its rows and columns swapped.
        turned = tensor.mT if name in ("fwd_mod.weight_ih", "fwd_mod.weight_hh") else tensor
        turned = turned.reshape(-1) if name.startswith("fwd_mod.ln_ih") else turned
        converted[cell.get(name) or _block_name(name)] = turned.contiguous()
    return converted


def _check_tensor(name: Any, tensor: Any) -> None:
    """A parameter is a matrix or vector of finite numbers that are all there."""
    wrong = None
    if not isinstance(name, str) or not torch.is_tensor(tensor):
        wrong = "is not a tensor of floating numbers"
    elif tensor.layout != torch.strided or tensor.dtype not in (torch.float32, torch.float64):
        wrong = "is not a tensor of floating numbers (float32 or float64)"
    elif tensor.dim() not in (1, 2):
        wrong = f"has {pluralize(tensor.dim(), 'dimension')}"
    elif tensor.nbytes > tensor.untyped_storage().nbytes():
        wrong = "repeats what it holds to a larger size"
    elif not bool(tensor.isfinite().all()):
        wrong = "holds NaN or infinity"
    if wrong is not None:
        shown = name[:60] if isinstance(name, str) else _shown(name)
        raise UserError(f"reference checkpoint: {shown} {wrong}")


def _block_name(name: str) -> str:
    for theirs, ours in _BLOCKS.items():
        if name.startswith(theirs + "."):
            return ours + name[len(theirs) :]
    raise UserError(
        f"reference checkpoint: parameter {name[:60]} is not one of the published model"
    )


def _check(module: ZForcing, converted: Mapping[str, Tensor]) -> None:
    expected = module.state_dict()
    missing = sorted(expected.keys() - converted.keys())
    unknown = sorted(converted.keys() - expected.keys())
    if missing or unknown:
        wrong = [f"{name} is missing" for name in missing] + [f"{name} is new" for name in unknown]
        listed = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise UserError(f"reference checkpoint: parameters do not fit its sizes: {listed}")
    for name, tensor in converted.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"reference checkpoint: {name} has shape {tuple(tensor.shape)},"
                f" its sizes ask for {tuple(expected[name].shape)}"
            )
    if len({tensor.dtype for tensor in converted.values()}) != 1:
        raise UserError("reference checkpoint: parameters have different floating types")


def _likelihood(kind: str, inputs: int, outputs: int) -> Likelihood:
    if kind == "softmax":
        if inputs != outputs:
            raise UserError(
                f"reference checkpoint: softmax with inp_dim {inputs} and out_dim {outputs};"
                " they must be equal"
            )
        return Categorical(inputs)
    if kind == "gaussian":
        if outputs != 2 * inputs:
            raise UserError(
                f"reference checkpoint: gaussian with inp_dim {inputs} and out_dim {outputs};"
                " out_dim must be twice inp_dim"
            )
        return Gaussian(inputs)
    raise UserError(
        f"reference checkpoint: out_type {_shown(kind)} is neither softmax nor gaussian"
    )


def _entry(state: object, name: str) -> Any:
    if not isinstance(state, Mapping) or name not in state:
        raise UserError(f"reference checkpoint: entry {name!r} is missing; is it a saved ZForcing?")
    return state[name]


def _flag(name: str, value: Any) -> bool:
    # Saved from command line options, some of them 0 and 1.
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise UserError(f"reference checkpoint: {name} is {_shown(value)}, not true or false")
    return bool(value)


def _shown(value: Any) -> str:
    """A value for an error message, not endless."""
    plain = isinstance(value, bool | int | float | str)
    text = repr(value) if plain else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _positive(state: Mapping[str, Any], name: str) -> int:
    value = _entry(state, name)
    largest = LARGEST_SIZES.get(name, 1 << 16)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
        raise UserError(
            f"reference checkpoint: {name} is {_shown(value)}, not a whole number of 1 to {largest}"
        )
    return value
