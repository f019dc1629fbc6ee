"""What the pages take from the code: settings, formulas, links to public names."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import pytest
from docutils import nodes

from zpyro import datasets
from zpyro.models import MODELS
from zpyro.models.config import ModelConfig, config_class
from zpyro.training import config

from .pages import ROOT

pytestmark = pytest.mark.fast

SECTIONS = {
    **{f"model {name}": config_class(name) for name in MODELS},
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
@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_explained(extension: ModuleType, section: str) -> None:
    cls = SECTIONS[section]
    rows = extension.table(cls, section.split()[0]).splitlines()[2:]
    wav = datasets.entry("wav").settings
    known = {key for name in MODELS for key in config.known_fields(wav, name)}
    assert len(rows) == len([field for field in cls.__dataclass_fields__.values() if field.init])
    for row in rows:
        _, key, default, takes, meaning, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        assert key.strip("`") in known or key.startswith("`data.")
        assert default
        assert takes
        assert len(meaning) >= len("beta"), row


@pytest.mark.parametrize("extension", ["settings_pages"], indirect=True)
def test_bounds_and_defaults_are_shown(extension: ModuleType) -> None:
    table = extension.table(ModelConfig, "model")
    assert "| `model.latent_size` | `64` | a whole number, at least 1 and at most 65536 |" in table
    text = extension.table(datasets.entry("text").settings, "data")
    # From the docstring of the base class, over two lines.
    assert "keep so many of the most frequent words (or characters) of train; the start" in text


@pytest.mark.parametrize("extension", ["mathml"], indirect=True)
def test_formulas_are_mathml(extension: ModuleType) -> None:
    markup = extension.converted(nodes.math(text=r"\sigma_t^2"), as_block=False)
    assert markup.startswith("<math")
    assert "<msubsup>" in markup.replace("\n", "")
    assert "\u03c3" in markup


@pytest.mark.parametrize("extension", ["api_pages"], indirect=True)
def test_full_names_are_traced_to_public_ones(extension: ModuleType) -> None:
    assert extension.public_name("zpyro.ZForcing") == "zpyro.models.ZForcing"
    assert extension.public_name("zpyro.models.zforcing.ZForcing.embed") == (
        "zpyro.models.ZForcing.embed"
    )
    assert extension.public_name("zpyro.datasets.sequences.Dataset.train") == (
        "zpyro.datasets.Dataset.train"
    )
    assert extension.public_name("zpyro.io.files") == ""
    assert extension.public_name("zpyro.Nothing") is None
    assert extension.public_name("torch.Tensor") is None


@pytest.mark.parametrize("extension", ["api_pages"], indirect=True)
def test_every_package_has_a_page(extension: ModuleType) -> None:
    entries = {path.stem for path in (ROOT / "zpyro").iterdir() if path.name[0] not in "._"}
    documented = {name.removeprefix("zpyro.") for name in extension.PACKAGES}
    assert entries - {"version", "py"} == documented
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs/reference").glob("*.md"))
    for name in extension.PACKAGES:
        assert f".. automodule:: {name}\n" in pages
