"""Tables of settings, presets and data sets, read from the code that checks them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection
from importlib import resources
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zpyro import datasets, settings
from zpyro.models import MODELS
from zpyro.models.config import ModelConfig, config_class
from zpyro.training import config


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives ``zpyro-settings`` and ``zpyro-presets``."""
    for name in MODELS:  # before autodoc_preserve_defaults replaces the defaults of constructors
        config_class(name)
    app.add_directive("zpyro-settings", SettingsTables)
    app.add_directive("zpyro-presets", PresetsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class SettingsTables(SphinxDirective):
    """Tables of the settings of all runs, with those of each model, then of each data set."""

    def run(self) -> list[nodes.Node]:
        sections = {
            "model": ModelConfig,
            "objective": config.ObjectiveConfig,
            "train": config.TrainConfig,
        }
        text = [f"## {name}\n\n{table(cls, name)}" for name, cls in sections.items()]
        shared = {field.name for field in dataclasses.fields(ModelConfig)}
        for name in MODELS:
            own = table(config_class(name), "model", without=shared)
            text.insert(1, f"## model, for `{name}`\n\n{own}")
        for name in datasets.names():
            entry = datasets.entry(name)
            text.append(f"## data, for `{name}`\n\n{entry.summary}.\n\n")
            text.append(table(entry.settings, "data"))
        return self.parse_text_to_nodes("\n\n".join(text), allow_section_headings=True)


class PresetsTable(SphinxDirective):
    """A table of the presets with the comment at the top of each file."""

    def run(self) -> list[nodes.Node]:
        rows = ["| preset | what it is for |", "|---|---|"]
        for name in config.preset_names():
            text = (resources.files("zpyro.training.presets") / f"{name}.toml").read_text(
                encoding="utf-8"
            )
            comment = re.match(r"(?:#.*\n)*", text)
            words = comment.group().replace("#", " ").split() if comment else []
            rows.append(f"| `{name}` | {' '.join(words)} |")
        return self.parse_text_to_nodes("\n".join(rows))


def table(cls: type[Any], section: str, without: Collection[str] = ()) -> str:
    """One dataclass of settings as a Markdown table, without some of its fields."""
    known = settings.fields_of(cls, section)
    explained = described(cls)
    rows = ["| setting | default | takes | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if not field.init or field.name in without:
            continue
        entry = known[f"{section}.{field.name}"]
        takes = ", ".join(filter(None, [settings.describe(entry.hint), entry.limits.in_words()]))
        meaning = field.metadata.get("meaning") or explained[field.name]
        meaning = re.sub(r":\w+:(?=`)", "", meaning).replace("|", "\\|")
        default = settings.literal(field.default)
        rows.append(f"| `{entry.key}` | `{default}` | {takes} | {meaning} |".replace("\n", " "))
    return "\n".join(rows)


def described(cls: type[Any]) -> dict[str, str]:
    """The text of each attribute in the docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            found[name] = " ".join(text.replace("``", "`").split()).rstrip(".")
    return found
