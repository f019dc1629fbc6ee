"""What the pages take from the code: settings, formulas, the picture of the house."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from docutils import nodes

from zpyro import datasets
from zpyro.training import config

from .pages import ROOT

pytestmark = pytest.mark.fast

KINDS = {
    "model": config.ModelConfig,
    "objective": config.ObjectiveConfig,
    "train": config.TrainConfig,
    **{f"data of {name}": datasets.entry(name).settings for name in datasets.names()},
}


@pytest.fixture
def extension(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of docs/_extensions."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/_extensions"))
    yield importlib.import_module(request.param)
    sys.modules.pop(request.param)


@pytest.mark.parametrize("extension", ["settings_pages"], indirect=True)
@pytest.mark.parametrize("section", KINDS)
def test_every_setting_is_explained(extension: ModuleType, section: str) -> None:
    kind = KINDS[section]
    rows = extension.table(kind, section.split()[0]).splitlines()[2:]
    known = config.known_fields(datasets.entry("wav").settings)
    assert len(rows) == len([field for field in kind.__dataclass_fields__.values() if field.init])
    for row in rows:
        _, key, default, takes, meaning, _ = (cell.strip() for cell in row.split("|"))
        assert key.strip("`") in known or key.startswith("`data.")
        assert default
        assert takes
        assert len(meaning) >= len("beta"), row


@pytest.mark.parametrize("extension", ["settings_pages"], indirect=True)
def test_bounds_and_defaults_are_told(extension: ModuleType) -> None:
    table = extension.table(config.ModelConfig, "model")
    assert "| `model.latent_size` | `64` | a whole number, at least 1 and at most 65536 |" in table
    text = extension.table(datasets.entry("text").settings, "data")
    # Said in the docstring of the class that it inherits from, over two lines.
    assert "keep so many of the most frequent words (or characters) of train; the start" in text


@pytest.mark.parametrize("extension", ["mathml"], indirect=True)
def test_formulas_are_mathml(extension: ModuleType) -> None:
    markup = extension.converted(nodes.math(text=r"\sigma_t^2"), as_block=False)
    assert markup.startswith("<math")
    assert "<msubsup>" in markup.replace("\n", "")
    assert "\u03c3" in markup


@pytest.mark.parametrize("extension", ["house_pages"], indirect=True)
def test_the_picture_shows_every_layer_lowest_last(extension: ModuleType) -> None:
    layers = extension.layers()
    lines = extension.picture(layers).splitlines()
    storeys = [line.split()[1] for line in lines if line.startswith("| ")]
    assert storeys == [layer["name"] for layer in reversed(layers)]
    assert len({len(line) for line in lines if line.startswith(("|", "+"))}) == 1


@pytest.mark.parametrize("extension", ["house_pages"], indirect=True)
def test_patterns_stand_for_every_module_below(extension: ModuleType) -> None:
    found = extension.expanded(["zpyro.errors", "zpyro_examples.easy_to_hard.*"])
    files = {path.stem for path in (ROOT / "examples/easy_to_hard").glob("*.py")} - {"__init__"}
    package = "zpyro_examples.easy_to_hard"
    assert set(found) == {"zpyro.errors", package, *(f"{package}.{stem}" for stem in files)}


@pytest.mark.parametrize("extension", ["house_pages"], indirect=True)
def test_short_names_are_traced_to_where_they_stand(extension: ModuleType) -> None:
    assert extension.full_name("zpyro", "ZForcing") == "zpyro.models.zforcing.ZForcing"
    assert extension.full_name("zpyro", "Nothing") is None
    assert extension.full_name("torch", "Tensor") is None
    assert Path(extension.source("zpyro.objectives.elbo")) == ROOT / "zpyro/elbo.py"
