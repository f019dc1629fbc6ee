"""The benchmark's implementation of the published algorithm reproduces the published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.published import PublishedZForcing

ARRAYS = Path(__file__).parent.parent / "data" / "gaussian.npz"
BLOCKS = {
    "emb_mod.0": "embedding",
    "gen_mod": "g",
    "pri_mod": "prior",
    "inf_mod": "posterior",
    "aux_mod": "auxiliary",
    "fwd_out_mod": "output",
    "bwd_out_mod": "reverse_output",
    "bwd_mod": "backward_lstm",
    "fwd_mod": "cell",
}

pytestmark = pytest.mark.fast


def renamed(arrays: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The published parameters (or gradients) under the names of the benchmark's module."""
    found: dict[str, Tensor] = {}
    for name, value in arrays.items():
        if not name.startswith(kind + "/"):
            continue
        theirs = name[len(kind) + 1 :]
        block = next(block for block in BLOCKS if theirs.startswith(block + "."))
        turned = theirs in ("fwd_mod.weight_ih", "fwd_mod.weight_hh")
        found[BLOCKS[block] + theirs[len(block) :]] = value.t() if turned else value
    return found


@pytest.fixture
def arrays() -> dict[str, Tensor]:
    with np.load(ARRAYS) as loaded:
        return {name: torch.from_numpy(np.asarray(loaded[name])) for name in loaded.files}


@pytest.fixture
def model(arrays: dict[str, Tensor]) -> PublishedZForcing:
    weights = renamed(arrays, "weight")
    embedding, width = weights["embedding.weight"], len(weights["prior.0.weight"])
    hidden, latent = weights["prior.0.weight"].shape[1], arrays["z"].shape[-1]
    model = PublishedZForcing(embedding.shape[1], hidden, latent, len(embedding), width).double()
    model.load_state_dict(weights)
    return model


def test_loss_and_gradients(model: PublishedZForcing, arrays: dict[str, Tensor]) -> None:
    terms = model(arrays["x"], arrays["y"], arrays["eps"])
    loss = (
        arrays["kl_weight"] * terms.kl
        - terms.log_likelihood
        - arrays["alpha"] * terms.log_auxiliary
        - arrays["beta"] * terms.log_reverse
    ).mean()
    assert loss.item() == pytest.approx(arrays["loss"].item(), rel=1e-12)
    loss.backward()
    expected = renamed(arrays, "grad")
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_padding_is_as_if_it_were_not_there(
    model: PublishedZForcing, arrays: dict[str, Tensor]
) -> None:
    x, y, noise = arrays["x"], arrays["y"], arrays["eps"]
    steps = len(x)
    short = steps - 2
    mask = torch.ones(x.shape[:2], dtype=x.dtype)
    mask[short:, 0] = 0.0
    together = model(x, y, noise, mask)
    alone = model(x[:short, :1], y[:short, :1], noise[:short, :1])
    for padded, exact in zip(together, alone, strict=True):
        torch.testing.assert_close(padded[:1], exact)
    assert isinstance(model, nn.Module)
