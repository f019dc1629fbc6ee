"""Settings: types, limits, TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpyro import settings
from zpyro.errors import UserError
from zpyro.settings import setting

pytestmark = pytest.mark.fast


@dataclass(frozen=True)
class Sample:
    count: int = setting(3, "a count", at_least=1, at_most=9)
    rate: float = setting(0.5, "a rate", at_least=0, below=1)
    name: str = "some"
    kind: str = setting("a", "a kind", choices=("a", "b"))
    flag: bool = False
    bounds: tuple[float, float] | None = (-1.0, 1.0)
    limit: int | None = None
    files: tuple[str, ...] = ()


FIELDS = settings.fields_of(Sample, "part")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "7", 7),
        ("rate", "0", 0.0),
        ("rate", "1e-3", 1e-3),
        ("name", "*_[0-4].wav", "*_[0-4].wav"),
        ("name", '"quoted"', "quoted"),
        ("name", "12", "12"),
        ("name", "none", "none"),
        ("flag", "true", True),
        ("bounds", "none", None),
        ("bounds", "[-8, 8]", (-8.0, 8.0)),
        ("limit", "none", None),
        ("limit", "4", 4),
        ("files", '["a", "b"]', ("a", "b")),
    ],
)
def test_a_text_becomes_the_settings_own_type(key: str, text: str, value: object) -> None:
    parsed = FIELDS[f"part.{key}"].parse(text, "--set")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("count", "many", 'part.count must be a whole number, but is "many"'),
        ("count", "2.5", "part.count must be a whole number, but is 2.5"),
        ("count", "true", "part.count must be a whole number, but is true"),
        ("count", "0", "part.count must be at least 1 and at most 9, but is 0"),
        ("rate", "1", "part.rate must be at least 0 and below 1, but is 1"),
        ("rate", "nan", "part.rate must be a number, but is NaN"),
        ("rate", "inf", "part.rate must be a number, but is Infinity"),
        ("rate", "1" + "0" * 400, "part.rate must be a number"),
        ("flag", "1", "part.flag must be true or false, but is 1"),
        ("kind", "c", 'part.kind must be one of a, b, but is "c"'),
        ("bounds", "[1]", 'part.bounds must be a list of 2 numbers or "none", but is [1]'),
        ("limit", "soon", 'part.limit must be a whole number or "none", but is "soon"'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(key: str, text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        FIELDS[f"part.{key}"].parse(text, "--set")
    assert str(caught.value).startswith(f"--set: {complaint}")


@pytest.mark.parametrize(
    ("key", "guess"),
    [("part.cuont", "part.count"), ("count", "part.count"), ("prat.flag", "part.flag")],
)
def test_an_unknown_key_names_the_nearest(key: str, guess: str) -> None:
    error = settings.unknown_key(key, FIELDS, "--set")
    assert str(error) == f"--set: unknown setting {key}; did you mean {guess}?"


@given(
    count=st.integers(1, 9),
    rate=st.floats(0, 0.99, allow_subnormal=False),
    name=st.text(st.characters(exclude_categories=["Cs"])),
    flag=st.booleans(),
    bounds=st.none() | st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    limit=st.none() | st.integers(),
    files=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
)
def test_settings_survive_toml(**values: object) -> None:
    written = Sample(**values)  # pyright: ignore[reportArgumentType]
    table = tomllib.loads(settings.to_toml(written))
    assert settings.build(Sample, table, "file") == written


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="file: unknown setting cout; did you mean count"):
        settings.build(Sample, {"cout": 1}, "file")


def test_build_needs_what_has_no_default() -> None:
    @dataclass(frozen=True)
    class Needy:
        size: int

        def __post_init__(self) -> None:
            if self.size > 9:
                raise UserError("size is too large")

    with pytest.raises(UserError, match="file: setting size is missing"):
        settings.build(Needy, {}, "file")
    with pytest.raises(UserError, match="file: size is too large"):
        settings.build(Needy, {"size": 10}, "file")
    assert settings.build(Needy, {"size": 9}, "file") == Needy(9)


def test_a_file_beyond_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[model]\n")
    assert settings.read_toml(path) == {"model": {}}
    monkeypatch.setattr(settings, "LARGEST_FILE", 3)
    with pytest.raises(UserError, match=r"settings\.toml: is larger than settings can be"):
        settings.read_toml(path)


def test_types_are_told_in_words() -> None:
    assert settings.describe(tuple[str, ...]) == "a list of texts"
    assert settings.describe(tuple[float, ...] | None) == 'a list of numbers or "none"'
    with pytest.raises(TypeError, match="set cannot be a setting"):
        settings.literal({1})


def test_a_former_name_of_a_setting_is_an_error_with_the_present_one() -> None:
    known = ["data.frame_size", "data.segment_length"]
    error = settings.unknown_key("data.row_frames", known, "--set")
    assert str(error) == "--set: data.row_frames was renamed; use data.segment_length"
