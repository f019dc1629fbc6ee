"""``model.save``, ``zpyro.load``, continuing with SVI in another process, and the Hub."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

import zpyro
from zpyro import training
from zpyro.errors import UserError
from zpyro.likelihoods import (
    NADE,
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianMixture,
    LogisticMixture,
    StudentT,
)
from zpyro.models import DMM, RNN, SRNN, STORN, VRNN, SequenceModel
from zpyro.training import runs

from .small import MODEL, SIZE, dataset, model, settings

MODELS: list[tuple[type[SequenceModel], zpyro.likelihoods.Likelihood, dict[str, Any]]] = [
    (zpyro.ZForcing, Gaussian(3, (-4.0, 4.0)), {"forced_auxiliary": True, "granularity": "step"}),
    (zpyro.ZForcing, GaussianMixture(3, components=2), {"conditional_layer_norm": True}),
    (VRNN, Categorical(5, start_token=2, tied=True), {"embedding_size": 8}),
    (SRNN, Bernoulli(3), {"residual_posterior": False}),
    (VRNN, NADE(3, nade_size=4), {}),
    (DMM, Gaussian(3), {"missing": True, "covariate_size": 2}),
    (STORN, LogisticMixture(3, sample_bits=8, mu_law=True, sample_scale=0.1), {}),
    (RNN, StudentT(3, log_variance_bounds=(-4.0, 4.0)), {}),
]


@pytest.mark.parametrize(("cls", "likelihood", "given"), MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_comes_back_as_it_was(
    cls: Any, likelihood: Any, given: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    sizes = {} if cls is RNN else {"latent_size": 2}
    before = cls(likelihood, hidden_size=6, **sizes, **given).to(dtype)
    before.word_dropout, before.metadata = 0.25, {"data": {"mean": 0.5}}
    state = torch.get_rng_state()
    before.save(tmp_path / "model")
    after = zpyro.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), state), "loading uses no random numbers"
    assert type(after) is cls
    assert after.likelihood == likelihood
    assert after.constructor_arguments == before.constructor_arguments
    assert (after.word_dropout, after.metadata) == (0.25, {"data": {"mean": 0.5}})
    assert not after.training
    assert after.store_name != before.store_name
    expected, found = before.state_dict(), after.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
    x = likelihood.start(2, next(after.parameters())).unsqueeze(1).repeat(1, 4, *[1] * 1)
    if cls is not DMM:
        x = x if not likelihood.discrete_tokens else x.reshape(2, 4)
        terms = [
            zpyro.sequence_terms(each.eval(), x, noise=noise(each)) for each in (before, after)
        ]
        assert torch.equal(terms[0].log_likelihood, terms[1].log_likelihood)


def noise(module: SequenceModel) -> Tensor:
    return torch.zeros(2, 4, module.latent_size, dtype=next(module.parameters()).dtype)


def test_the_arguments_of_copies(tmp_path: Path) -> None:
    module = zpyro.ZForcing(Gaussian(3), 6, latent_size=2)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    for number, each in enumerate(copies):
        each.save(tmp_path / str(number))
        assert zpyro.load(tmp_path / str(number)).hidden_size == 6


class Scaled(zpyro.ZForcing):
    """A model of a user, with a buffer that is not saved and keyword arguments."""

    def __init__(self, likelihood: Any, *, scales: tuple[float, ...] = (1.0,), **sizes: Any):
        super().__init__(likelihood, **sizes)
        self.register_buffer("scales", torch.tensor(scales), persistent=False)


@dataclass(frozen=True)
class Wide(Gaussian):
    """A likelihood of a user."""

    width: float = 2.0


def test_classes_of_a_user(tmp_path: Path) -> None:
    module = Scaled(Wide(3, width=4.0), scales=(2.0, 3.0), hidden_size=6, latent_size=2)
    module.save(tmp_path / "model")
    loaded = zpyro.load(tmp_path / "model")
    assert isinstance(loaded, Scaled)
    assert loaded.likelihood == Wide(3, width=4.0)
    assert loaded.get_buffer("scales").tolist() == [2.0, 3.0]


def test_a_class_that_is_not_imported_is_named(tmp_path: Path) -> None:
    module = tmp_path / "my_models.py"
    module.write_text(
        "import zpyro\nclass Mine(zpyro.ZForcing):\n    pass\n"
        "if __name__ != '__main__':\n"
        "    Mine(zpyro.likelihoods.Gaussian(3), hidden_size=6, latent_size=2).save('saved')\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, "-c", "import my_models"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match=r"class Mine of my_models.py \(module my_models\); import"):
        zpyro.load(tmp_path / "saved")

    class Mine(zpyro.ZForcing):
        pass

    Mine.__qualname__ = "Mine"
    assert isinstance(zpyro.load(tmp_path / "saved", classes=[Mine]), Mine)


def test_a_custom_guide(tmp_path: Path) -> None:
    class Guide(nn.Module):
        def __init__(self, model: SequenceModel) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor, *_: Any) -> None:
            pyro.sample("z", pyro.distributions.Normal(self.shift, 1.0).to_event(1))

    module = zpyro.ZForcing(Gaussian(3), hidden_size=6, latent_size=2)
    training.attach_guide(module, Guide(module))
    with torch.no_grad():
        module.get_parameter("custom_guide.shift").fill_(7.0)
    module.save(tmp_path / "model")
    assert zpyro.load(tmp_path / "model").custom_guide is None
    loaded = zpyro.load(tmp_path / "model", guide=Guide)
    assert loaded.get_parameter("custom_guide.shift").tolist() == [7.0, 7.0]


def test_runs_can_be_loaded(tmp_path: Path) -> None:
    module = model()
    config = settings(max_steps=4)
    run = runs.create(tmp_path / "run", config)
    training.fit(module, dataset(), config, run=run)
    loaded = zpyro.load(tmp_path / "run")
    bounds = [zpyro.evaluate(each, dataset().test).elbo for each in (module, loaded)]
    assert bounds[0] == bounds[1]
    for key in ("data", "fingerprint"):
        assert loaded.metadata[key] == module.metadata[key]
    loaded.save(tmp_path / "again")
    assert zpyro.load(tmp_path / "again").metadata == loaded.metadata


def test_a_model_is_written_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = model(0), model(1)
    first.save(tmp_path / "model")
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("zpyro.io.torch_files.torch.save", fail)
        with pytest.raises(UserError, match="No space left"):
            second.save(tmp_path / "model", state={"step": 1})
    kept = zpyro.load(tmp_path / "model").state_dict()
    assert all(map(torch.equal, kept.values(), first.state_dict().values()))
    second.save(tmp_path / "model", state={"step": 1})
    kept = zpyro.load(tmp_path / "model").state_dict()
    assert all(map(torch.equal, kept.values(), second.state_dict().values()))
    assert zpyro.load_state(tmp_path / "model") == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_mistakes(tmp_path: Path) -> None:
    module = model()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(UserError, match="full: holds something other than a model"):
        module.save(tmp_path / "full")
    assert (tmp_path / "full/letter.txt").exists()
    with pytest.raises(UserError, match=r"missing: is not a directory; give a saved model"):
        zpyro.load(tmp_path / "missing")
    with pytest.raises(UserError, match="is not a checkpoint"):
        zpyro.load(tmp_path / "full")
    module.metadata["model"] = module
    with pytest.raises(UserError, match=r"metadata.model: is a ZForcing, which a saved model can"):
        module.save(tmp_path / "model")
    module.metadata = {"bound": float("nan")}
    with pytest.raises(UserError, match=r"metadata.bound: is nan, which"):
        module.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    module.metadata = {}
    module.save(tmp_path / "model")
    with pytest.raises(UserError, match="was saved without a state; pass state="):
        zpyro.load_state(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "meta.json"])
def test_damage_is_found(name: str, tmp_path: Path) -> None:
    model().save(tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="corrupt"):
        zpyro.load(tmp_path / "model")


SVI_PROGRAM = """
import sys
import pyro
import torch
import zpyro
from pyro.infer import SVI

walks = [torch.randn(8, 3, generator=torch.manual_seed(n)).cumsum(0) for n in range(24)]
data = zpyro.datasets.from_arrays(walks)
batches = [each for epoch in range(10) for each in data.train.batches(6, shuffle=True, epoch=epoch)]
optimizer = pyro.optim.Adam({"lr": 0.01})
kl_weight = zpyro.schedules.linear(0.2, 1.0, steps=20)
objective = zpyro.ZForcingELBO(kl_weight, zpyro.schedules.linear(0.0, 0.1, steps=15))
if sys.argv[1] == "whole":
    torch.manual_seed(0)
    for _ in range(int(sys.argv[2])):  # other models that were made before
        zpyro.ZForcing(zpyro.likelihoods.Gaussian(3), hidden_size=4, latent_size=2)
    model = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(3), hidden_size=6, latent_size=2, embedding_dropout=0.1
    )
else:
    model = zpyro.load("saved").train()
    state = zpyro.load_state("saved")
    optimizer.set_state(state["optimizer"])
    objective.load_state_dict(state["objective"])
    torch.set_rng_state(state["random"])
svi = SVI(model.model, model.guide, optimizer, loss=objective)
for step in range(objective.step, 24):
    if step == 12 and sys.argv[1] == "whole":
        state = {
            "optimizer": optimizer.get_state(),
            "objective": objective.state_dict(),
            "random": torch.get_rng_state(),
        }
        model.save("saved", state=state)
    batch = batches[step]
    print(step, repr(svi.step(batch.x, batch.lengths, batch.start)))
"""


def test_svi_continues_in_another_process(tmp_path: Path) -> None:
    """Its losses are those of an SVI that was not interrupted, schedules included."""
    program = tmp_path / "train.py"
    program.write_text(SVI_PROGRAM, encoding="utf-8")

    def losses(*arguments: str) -> dict[int, float]:
        words = [sys.executable, str(program), *arguments]
        out = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        return {int(line.split()[0]): float(line.split()[1]) for line in out.splitlines()}

    whole, rest = losses("whole", "2"), losses("continue")
    assert sorted(rest) == list(range(12, 24))
    for step, loss in rest.items():
        assert loss == pytest.approx(whole[step], rel=1e-6), step


# -- the Hub --------------------------------------------------------------------------------------


def test_a_card_holds_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module, data = model(), dataset()
    result = training.fit(module, data, steps=3, learning_rate=0.002, seed=5)
    bound = zpyro.evaluate(module, data.test)
    iwae = zpyro.iwae(module, data.test, particles=4)
    module.save_pretrained(tmp_path / "model", evaluation=[bound, iwae])
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    expected = {
        "ELBO, nats per sequence": f"{bound.elbo:.2f} ± {bound.elbo_stderr:.2f}",
        "IWAE with 4 particles, nats per sequence": f"{iwae.iwae:.2f} ± {iwae.stderr:.2f}",
        "sequences evaluated": "12",
        "sequences, train": "44",
        "sha256 of training and validation data": f"`{training.checkpoint.fingerprint(data)}`",
        "train.learning_rate": "0.002",
        "train.seed": "5",
        "hidden_size": str(MODEL.hidden_size),
        "best_elbo": str(result.best),
    }
    for name, value in expected.items():
        assert f"| {name} | {value} |" in card
    loaded = SequenceModel.from_pretrained(tmp_path / "model")
    assert zpyro.evaluate(loaded, data.test).elbo == bound.elbo
    assert loaded.likelihood.size == SIZE
    with pytest.raises(UserError, match=r"holds a ZForcing, not a VRNN; use ZForcing.from_pret"):
        VRNN.from_pretrained(tmp_path / "model")


def test_a_card_without_an_evaluation_has_no_bound(tmp_path: Path) -> None:
    module = model()
    module.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    assert "nats" not in card
    assert "## Training" not in card
    # Its readers may edit it.
    (tmp_path / "model/README.md").write_text("mine", encoding="utf-8")
    assert zpyro.load(tmp_path / "model").hidden_size == module.hidden_size


def test_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[tuple[str, Any]] = []
    kept = tmp_path / "kept"

    def upload_folder(repo_id: str, folder_path: Path) -> str:
        calls.append(("upload", repo_id))
        folder_path.rename(kept)
        return "https://example.org/commit"

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options["revision"]))
        assert set(options["allow_patterns"]) == {each.name for each in kept.iterdir()}
        return str(kept)

    monkeypatch.setattr(hub, "create_repo", lambda name, **_: calls.append(("create", name)))
    monkeypatch.setattr(hub, "upload_folder", upload_folder)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert model().push_to_hub("me/tides") == "https://example.org/commit"
    loaded = zpyro.ZForcing.from_pretrained("me/tides", revision="v1")
    assert loaded.hidden_size == MODEL.hidden_size
    assert calls == [("create", "me/tides"), ("upload", "me/tides"), ("me/tides", "v1")]


def test_a_repository_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"me/tides: is no directory here, and cannot be") as caught:
        zpyro.ZForcing.from_pretrained("me/tides", local_files_only=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"tides: is not a directory; give a saved model, or USER"):
        zpyro.ZForcing.from_pretrained("tides")


def test_a_saved_model_holds_no_code(tmp_path: Path) -> None:
    model().save(tmp_path / "model", state={"step": 3, "moments": [torch.ones(2)]})
    names = sorted(each.name for each in (tmp_path / "model").iterdir())
    assert names == ["meta.json", "model.safetensors", "state.pt"]
    meta = json.loads((tmp_path / "model/meta.json").read_text(encoding="utf-8"))
    assert meta["class"] == "zpyro.models.zforcing:ZForcing"
    torch.load(tmp_path / "model/state.pt", weights_only=True)


class ShiftGuide(nn.Module):
    """A guide with one parameter."""

    def __init__(self, module: SequenceModel) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(module.latent_size))

    def forward(self, x: Tensor, *_: Any) -> None:
        size = *x.shape[:2], len(self.shift)
        with pyro.plate("sequences", len(x)):
            fn = pyro.distributions.Normal(self.shift.expand(size), 1.0).to_event(2)
            pyro.sample("z", fn)


def test_runs_with_a_custom_guide_are_not_loaded_without_it(tmp_path: Path) -> None:
    module = model()
    training.attach_guide(module, ShiftGuide(module))
    result = training.fit(module, dataset(), steps=2, out=tmp_path / "run")
    with pytest.raises(UserError, match=r"run: was trained with a custom guide, .* guide=GUIDE$"):
        zpyro.load(tmp_path / "run")
    loaded = zpyro.load(tmp_path / "run", guide=ShiftGuide)
    shift = "custom_guide.shift"
    assert torch.equal(loaded.get_parameter(shift), module.get_parameter(shift))
    bounds = [zpyro.evaluate(each, dataset().valid, seed=1).elbo for each in (module, loaded)]
    assert bounds[0] == pytest.approx(bounds[1])
    assert result.best == pytest.approx(bounds[0])
