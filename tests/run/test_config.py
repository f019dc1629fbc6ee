"""Configuration: layers, presets, errors."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from zpyro import likelihoods
from zpyro.errors import UserError
from zpyro.models import model_config
from zpyro.training import building, config
from zpyro.training.config import Preset

pytestmark = pytest.mark.fast


@dataclasses.dataclass(frozen=True)
class Data:
    frame_size: int = 200
    files: str = ""


PRESET = Preset("preset small", None, {"model.hidden_size": 8, "train.batch_size": 4})


def test_later_layers_win() -> None:
    settled = config.resolve(
        "any",
        Data,
        preset=PRESET,
        assignments=["train.batch_size=5", "data.files=*.wav", "train.seed=1"],
        options={"train.seed": 2},
    )
    assert settled.model.hidden_size == 8
    assert settled.train.batch_size == 5
    assert settled.train.seed == 2
    assert settled.data == Data(files="*.wav")
    assert settled.model.latent_size == model_config().latent_size


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "model.hiden_size=3",
            "--set: unknown setting model.hiden_size; did you mean model.hidden_size?",
        ),
        ("hidden_size=3", "--set: unknown setting hidden_size; did you mean model.hidden_size?"),
        (
            "data.fram_size=3",
            "--set: unknown setting data.fram_size; did you mean data.frame_size?",
        ),
        ("model.hidden_size=big", '--set: model.hidden_size must be a whole number, but is "big"'),
        (
            "model.hidden_size=-1",
            "--set: model.hidden_size must be at least 1 and at most 65536, but is -1",
        ),
        (
            "model.embedding_dropout=1",
            "--set: model.embedding_dropout must be at least 0 and below 1, but is 1",
        ),
        (
            "train.batch_size=0",
            "--set: train.batch_size must be at least 1 and at most 1048576, but is 0",
        ),
        ("train.learning_rate=0", "--set: train.learning_rate must be above 0, but is 0"),
        ("model.latent_size", "--set model.latent_size: has no =; write --set section.name=value"),
    ],
)
def test_wrong_assignments(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        config.resolve("any", Data, assignments=[assignment])


def test_weights_that_cannot_arrive() -> None:
    with pytest.raises(UserError, match="kl_weight_rate is 0"):
        config.resolve("any", Data, assignments=["objective.kl_weight_rate=0"])
    with pytest.raises(UserError, match="needs one of"):
        config.resolve("any", Data, assignments=["objective.auxiliary_weight_final=1"])


def test_every_setting_survives_the_run_directory(tmp_path: Path) -> None:
    settled = config.resolve(
        "any",
        Data,
        assignments=[
            "model.log_variance_bounds=none",
            "train.max_minutes=2.5",
            "data.files=a'b\"c",
        ],
    )
    path = tmp_path / "config.toml"
    path.write_text(config.write_config(settled), encoding="utf-8")
    assert config.resolve("any", Data, preset=config.read_preset(str(path))) == settled
    written = set(config.settings.flatten(tomllib.loads(path.read_text(encoding="utf-8"))))
    assert written == {*config.known_fields(Data), "dataset", "data_folder"}


@pytest.mark.parametrize("name", config.preset_names())
def test_presets_are_valid_and_say_where_each_number_is_from(name: str) -> None:
    preset = config.read_preset(name)
    for key, value in preset.values.items():
        if not key.startswith("data."):
            assert (
                config.known_fields(Data)[key].convert(value, name) is not None or value == "none"
            )
    text = (
        resources.files("zpyro.training.presets")
        .joinpath(f"{name}.toml")
        .read_text(encoding="utf-8")
    )
    for line in text.splitlines():
        if re.search(r"=\s*[\d\[\"]", line) and not line.startswith(("#", "dataset")):
            assert re.search(r"# (published|protocol|ours|likewise|recalled, unconfirmed)", line), (
                line
            )


def test_a_preset_belongs_to_its_data_set() -> None:
    with pytest.raises(UserError, match="preset fsdd is for the data set wav, not any"):
        config.resolve("any", Data, preset=config.read_preset("fsdd"))


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UserError, match="preset large is unknown; choose one of blizzard, "):
        config.read_preset("large")


@pytest.mark.parametrize(
    ("content", "message"), [(b"a = [", "is not TOML"), (b"\xff", "is not TOML")]
)
def test_a_broken_preset_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        config.read_preset(str(path))
    with pytest.raises(UserError, match=r"missing\.toml: cannot be read"):
        config.read_preset(str(tmp_path / "missing.toml"))


def test_settings_of_the_likelihood_reach_it() -> None:
    mixture = building.build_likelihood(
        model_config(likelihood="gaussian-mixture", mixture_components=5), "gaussian", 3
    )
    assert mixture == likelihoods.GaussianMixture(3, components=5, log_variance_bounds=(-14.0, 8.0))
    tied = model_config(tied_embedding=True)
    found = building.build_likelihood(tied, "categorical", 7)
    assert found == likelihoods.Categorical(7, tied=True)
    with pytest.raises(UserError, match="tied_embedding is for tokens"):
        building.build_likelihood(tied, "gaussian", 3)


ACCEPTED = {
    "bernoulli": {"bernoulli", "nade"},
    "categorical": {"categorical"},
    "gaussian": {"gaussian", "gaussian-mixture", "logistic-mixture", "student-t"},
}


@pytest.mark.parametrize("data", ACCEPTED)
def test_only_a_likelihood_of_the_type_of_the_data_is_built(data: str) -> None:
    for name in ACCEPTED["gaussian"] | ACCEPTED["bernoulli"] | ACCEPTED["categorical"]:
        settings = model_config(likelihood=name)
        if name in ACCEPTED[data]:
            assert building.build_likelihood(settings, data, 6).name == name
            continue
        with pytest.raises(UserError, match=rf"{name} does not fit .*; take {data}$"):
            building.build_likelihood(settings, data, 6)


def test_the_auxiliary_weight_moves_over_epochs() -> None:
    objective = config.ObjectiveConfig(
        auxiliary_weight=0.8, auxiliary_weight_final=0.2, auxiliary_weight_epochs=1.5
    )
    weight = building.build_objective(objective, 8).auxiliary_weight
    assert [weight(step) for step in (0, 3, 6, 12, 99)] == pytest.approx([0.8, 0.65, 0.5, 0.2, 0.2])


def test_a_setting_of_another_model_is_refused() -> None:
    expected = "model.conditional_layer_norm is not a setting of the model storn; leave it out"
    with pytest.raises(UserError, match=expected):
        model_config(name="storn", conditional_layer_norm=True)
