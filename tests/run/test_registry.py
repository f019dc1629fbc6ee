"""Entries by name: registered ones, those of installed distributions, and unknown ones."""

from __future__ import annotations

from importlib import metadata

import pytest

from zpyro.errors import UserError
from zpyro.io.registry import Registry

pytestmark = pytest.mark.fast


class Points:
    """Entry points of one group, in place of those that are installed."""

    def __init__(self, *points: metadata.EntryPoint) -> None:
        self.points = points

    def __call__(self, group: str) -> list[metadata.EntryPoint]:
        return [point for point in self.points if point.group == group]


def test_entries_are_found_by_name_and_added_once() -> None:
    registry: Registry[int] = Registry("thing", group="zpyro.none")
    assert registry.register("one", 1) == 1
    registry.register("one", 1)
    assert registry.find("one") == registry["one"] == 1
    assert list(registry) == ["one"]
    assert len(registry) == 1
    with pytest.raises(UserError, match="thing one exists already; choose another name"):
        registry.register("one", 2)
    registry.unregister("one")
    assert "one" not in registry


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    registry: Registry[int] = Registry("thing", group="zpyro.none")
    registry.register("vowels", 1)
    registry.register("wav", 2)
    with pytest.raises(UserError, match=r"thing 'vowel' is unknown; did you mean vowels\?"):
        registry.find("vowel")
    with pytest.raises(UserError, match=r"model.name is qqq; choose one of vowels, wav"):
        registry.find("qqq", "model.name")


def test_entry_points_are_loaded_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = Points(metadata.EntryPoint("pi", "math:pi", "zpyro.things"))
    monkeypatch.setattr(metadata, "entry_points", points)
    registry: Registry[float] = Registry("thing", group="zpyro.things")
    assert registry.find("pi") == pytest.approx(3.14159, abs=1e-4)


def test_a_broken_entry_point_is_an_error_that_names_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = Points(metadata.EntryPoint("pi", "no_such_module:pi", "zpyro.things"))
    monkeypatch.setattr(metadata, "entry_points", points)
    registry: Registry[float] = Registry("thing", group="zpyro.things")
    with pytest.raises(UserError, match=r"thing pi of the package no_such_module:pi cannot be"):
        registry.find("pi")
