"""Checkpoints: what is written is read back; what is damaged is named."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zpyro
from zpyro import likelihoods
from zpyro.errors import UserError
from zpyro.io import files, manifest, tensor_files
from zpyro.likelihoods import Likelihood
from zpyro.models import model_config
from zpyro.training import checkpoint
from zpyro.training.building import build_model
from zpyro.training.checkpoint import Checkpoint, DataSpec

SMALL = model_config(hidden_size=5, latent_size=2, embedding_size=3, mlp_size=4)
DATA = DataSpec("wav", "audio", 8000, 0.25, 2.0)


def make(likelihood: Likelihood | None = None, dtype: torch.dtype = torch.float32) -> Checkpoint:
    likelihood = likelihood or likelihoods.Gaussian(3, log_variance_bounds=(-8.0, 8.0))
    module = build_model(SMALL, likelihood).to(dtype)
    start = torch.zeros(9) if likelihood.discrete_tokens else torch.randn(70, likelihood.size)
    start = start.long() if likelihood.discrete_tokens else start
    return Checkpoint(module, SMALL, DATA, start, 7, 2, {"elbo": -1.5, "kl": None}, averaged=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "best", make(), {"position": {"step": 7}})
    return tmp_path / "best"


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Gaussian(3),
        likelihoods.Gaussian(3, log_variance_bounds=(-2.0, 4.0)),
        likelihoods.Bernoulli(4),
        likelihoods.GaussianMixture(3, components=4, log_variance_bounds=(-2.0, 4.0)),
        likelihoods.Categorical(6, start_token=2),
        likelihoods.Categorical(6, tied=True),
    ],
    ids=lambda likelihood: likelihood.name,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_loaded(
    tmp_path: Path, likelihood: Likelihood, dtype: torch.dtype
) -> None:
    saved = make(likelihood, dtype)
    checkpoint.save(tmp_path / "last", saved)
    loaded = checkpoint.load(tmp_path / "last")
    assert loaded.model.likelihood == likelihood
    assert (loaded.config, loaded.data) == (SMALL, DATA)
    assert (loaded.step, loaded.epoch, loaded.averaged) == (7, 2, True)
    assert loaded.metrics == {"elbo": -1.5, "kl": None}
    assert loaded.start is not None
    assert saved.start is not None
    assert torch.equal(loaded.start, saved.start[:64])
    expected = saved.model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name])


def test_a_loaded_model_computes_and_trains(folder: Path) -> None:
    module = checkpoint.load(folder).model
    objective = zpyro.ZForcingELBO(auxiliary_weight=0.1)(module.model, module.guide)
    objective(torch.randn(2, 3, 3)).backward()
    assert module.output.weight.grad is not None


def test_a_tied_weight_is_stored_once_and_stays_tied(tmp_path: Path) -> None:
    saved = make(likelihoods.Categorical(6, tied=True), torch.float64)
    checkpoint.save(tmp_path / "last", saved)
    stored = load_file(tmp_path / "last" / "model.safetensors")
    assert [name for name, tensor in stored.items() if tensor.shape == (6, 3)] == [
        "embedding.weight"
    ]
    loaded = checkpoint.load(tmp_path / "last").model
    copied = copy.deepcopy(loaded)
    pickled = pickle.loads(pickle.dumps(loaded))
    x, noise = torch.randint(6, (2, 4)), torch.randn(2, 4, 2, dtype=torch.float64)
    for module in (saved.model, loaded, copied, pickled):
        with torch.no_grad():
            module.embedding.weight.mul_(2.0)
    found = [
        zpyro.sequence_terms(module, x, noise=noise).log_likelihood
        for module in (saved.model, loaded, copied, pickled)
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-12)


def test_loaded_weights_begin_where_new_ones_do(tmp_path: Path) -> None:
    """Last digits of products depend on where in memory their factors begin."""
    tensors = {f"weight_{size}": torch.randn(size, 3) for size in range(1, 20)}
    tensor_files.write(tmp_path / "weights.safetensors", tensors)
    loaded = tensor_files.read(tmp_path / "weights.safetensors", tensors)
    for name, values in tensors.items():
        assert torch.equal(loaded[name], values)
        assert values.data_ptr() % 64 == 0
        assert loaded[name].data_ptr() % 64 == 0


def test_state_comes_back(folder: Path) -> None:
    assert checkpoint.load_state(folder) == {"position": {"step": 7}}


def _change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def _change_meta(**values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "meta.json"
        path.write_text(json.dumps(manifest.signed({**json.loads(path.read_text()), **values})))

    return damage


def _overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _flip_a_bit(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 4
        (folder / name).write_bytes(content)

    return damage


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9]) and None


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "tensor missing": (
        _change_tensors(lambda tensors: tensors.pop("output.weight")),
        "tensor output.weight is missing",
    ),
    "tensor extra": (
        _change_tensors(lambda tensors: tensors.update(more=torch.zeros(1))),
        "tensor more is none of this model's",
    ),
    "tensor of another shape": (
        _change_tensors(lambda tensors: tensors.update({"output.bias": torch.zeros(2)})),
        r"tensor output.bias has shape \(2,\), its settings ask for \(6,\)",
    ),
    "tensor of another type": (
        _change_tensors(lambda tensors: tensors.update({"output.bias": torch.zeros(6).half()})),
        "tensor output.bias has type F16, its settings ask for float32",
    ),
    "another version": (_change_meta(format=99), "has format version 99, but zpyro .* reads 1"),
    "no version": (_change_meta(format=None), "has format version None"),
    "other sizes": (
        _change_meta(model={"hidden_size": 60_000, "latent_size": 60_000}),
        "tensor .* has shape",
    ),
    "absurd sizes": (_change_meta(model={"hidden_size": 10**12}), "hidden_size must be at least 1"),
    "unknown model": (_change_meta(model={"name": "other"}), "model.name is other"),
    "unknown likelihood": (_change_meta(likelihood={"name": "x"}), "likelihood 'x' is unknown"),
    "no data": (_change_meta(data=None), "entry 'data' is missing"),
    "wrong step": (_change_meta(step="many"), "step is 'many'"),
    "other checksum": (_change_meta(sha256={}), "does not match its checksum"),
    "flipped bit": (_flip_a_bit("model.safetensors"), "safetensors: does not match its checksum"),
    "truncated": (_truncate("model.safetensors"), "model.safetensors: is corrupt"),
    "text": (_overwrite("model.safetensors", b"hello"), "model.safetensors: is corrupt"),
    "empty start": (_overwrite("start.safetensors", b""), "start.safetensors: is corrupt"),
    "model gone": (lambda folder: (folder / "model.safetensors").unlink(), "model.* is missing"),
    "start gone": (lambda folder: (folder / "start.safetensors").unlink(), "start.* is missing"),
    "entry changed": (
        lambda folder: _overwrite(
            "meta.json", (folder / "meta.json").read_bytes().replace(b'"step": 7', b'"step": 6')
        )(folder),
        "meta.json: does not match its checksum",
    ),
    "type a list": (_change_meta(dtype=["float32"]), r"dtype is \['float32'\]"),
    "meta gone": (lambda folder: (folder / "meta.json").unlink(), "is not a checkpoint"),
    "meta cut": (_truncate("meta.json"), "meta.json: is corrupt"),
    "meta a list": (_overwrite("meta.json", b"[1]"), "has format version None"),
    "meta endless": (_overwrite("meta.json", b" " * (2 << 20)), "is larger than"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_on_one_line(folder: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or "model.name" in str(caught.value)


@pytest.mark.parametrize("damage", [_flip_a_bit("state.pt"), _truncate("state.pt")])
def test_damaged_state_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(UserError, match=r"state\.pt: does not match its checksum"):
        checkpoint.load_state(folder)


def test_nothing_is_unpickled(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return print, ("unpickled",)

    torch.save({"position": Evil()}, folder / "state.pt")
    sums = {"state.pt": files.checksum(folder / "state.pt")}
    _change_meta(sha256=sums)(folder)
    with pytest.raises(UserError, match=r"state\.pt: is corrupt"):
        checkpoint.load_state(folder)


def test_no_checkpoint() -> None:
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.load(Path("nowhere") / "best")


def test_a_failed_write_leaves_the_old_one(folder: Path) -> None:
    before = checkpoint.load(folder)

    def fail(place: Path) -> None:
        (place / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=re.escape("best: cannot be written (No space left")):
        files.replace_folder(folder, fail, keep_previous=False)
    assert checkpoint.load(folder).step == before.step


def test_a_kill_between_the_renames_loses_nothing(folder: Path) -> None:
    folder.rename(folder.with_name("best.previous"))
    assert checkpoint.load(folder).step == 7
    checkpoint.save(folder, make(), keep_previous=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["best", "best.previous"]
    checkpoint.save(folder, make())
    assert sorted(path.name for path in folder.parent.iterdir()) == ["best"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"data_type": "pictures"}, "data.data_type is 'pictures'; it must be one of"),
        ({"scale": 0.0}, "which is not a valid scale"),
        ({"mean": float("nan")}, "which is not a valid scale"),
        ({"sample_rate": -1}, "is not a valid size"),
        ({"image_shape": (28, 1 << 30)}, "is not a valid size"),
    ],
)
def test_facts_that_cannot_be_are_told(facts: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"data_type": "frames", "sample_rate": 16_000}
    right |= {"mean": 0.0, "scale": 1.0}
    DataSpec("some", **right)
    with pytest.raises(UserError, match=message):
        DataSpec("some", **{**right, **facts})
