"""Settings as frozen dataclasses: typed and bounded values under dotted keys, read and written as
TOML.

Nothing here knows what the settings are for. A field is a whole number, a number, true or false,
text, or a tuple of numbers, each of them optional where its type says ``| None``; the text "none"
stands for None, which TOML cannot say.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zpyro.errors import UserError

__all__ = [
    "Field",
    "Limits",
    "build",
    "describe",
    "fields_of",
    "flatten",
    "literal",
    "parse_value",
    "read_toml",
    "setting",
    "to_toml",
    "unknown_key",
]

NONE = "none"
LARGEST_FILE = 1 << 20

RENAMED = {"data.row_frames": "data.segment_length"}
"""Present names of settings by their former ones."""

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The values that a setting may take, beyond its type.

    Attributes:
        above: every number is greater than this.
        at_least: every number is this or greater.
        below: every number is less than this.
        at_most: every number is this or less.
        choices: the texts to choose from; empty for any.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()

    def complaint(self, value: object) -> str | None:
        """What is asked of the value and not so, or None."""
        if self.choices and isinstance(value, str) and value not in self.choices:
            return self.in_words()
        numbers = value if isinstance(value, tuple) else (value,)
        if all(self._holds(number) for number in numbers if isinstance(number, int | float)):
            return None
        return self.in_words()

    def in_words(self) -> str:
        """What is asked of a value; empty where anything goes."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {
            "above": self.above,
            "at least": self.at_least,
            "below": self.below,
            "at most": self.at_most,
        }
        given = {word: bound for word, bound in words.items() if bound is not None}
        return " and ".join(f"{word} {bound:.12g}" for word, bound in given.items())

    def _holds(self, number: float) -> bool:
        return (
            (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.below is None or number < self.below)
            and (self.at_most is None or number <= self.at_most)
        )


def setting(default: Any, meaning: str, **limits: Any) -> Any:
    """A dataclass field with a default, what it means, and :class:`Limits`."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "limits": Limits(**limits)}
    )


@dataclass(frozen=True)
class Field:
    """One setting: its dotted key, type, and limits."""

    key: str
    hint: Any
    limits: Limits

    def convert(self, value: object, source: str) -> Any:
        """The value in this setting's type.

        Raises:
            UserError: if it has another type or lies outside the limits.
        """
        try:
            converted = _convert(value, self.hint)
        except TypeError:
            raise UserError(
                f"{source}: {self.key} must be {describe(self.hint)}, but is {shown(value)}"
            ) from None
        complaint = self.limits.complaint(converted)
        if complaint is not None:
            raise UserError(f"{source}: {self.key} must be {complaint}, but is {shown(value)}")
        return converted

    def parse(self, text: str, source: str) -> Any:
        """The value of a text as ``--set`` takes it: TOML, or bare words where they are text."""
        value = parse_value(text)
        if not isinstance(value, str) and str in _alternatives(self.hint):
            value = text
        return self.convert(value, source)


def fields_of(cls: type[Any], section: str) -> dict[str, Field]:
    """The settings of a dataclass by dotted key; those whose ``init`` is False are none."""
    hints = typing.get_type_hints(cls)
    prefix = f"{section}." if section else ""
    return {
        prefix + field.name: Field(
            prefix + field.name, hints[field.name], field.metadata.get("limits", Limits())
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def build(cls: type[T], values: Mapping[str, object], source: str) -> T:
    """A settings dataclass from names and values, checked.

    Raises:
        UserError: for an unknown name, a missing value, a wrong type or a value outside its limits.
    """
    fields = fields_of(cls, "")
    for name in values:
        if name not in fields:
            raise unknown_key(name, fields, source)
    needed = {
        field.name
        for field in dataclasses.fields(typing.cast(Any, cls))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed & fields.keys() - values.keys())
    if missing:
        raise UserError(f"{source}: setting {missing[0]} is missing; choose another file")
    converted = {name: fields[name].convert(value, source) for name, value in values.items()}
    try:
        return cls(**converted)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def unknown_key(key: str, known: Iterable[str], source: str) -> UserError:
    """The error for a key that does not exist; it names the nearest one that does."""
    if key in RENAMED:
        return UserError(f"{source}: {key} was renamed; use {RENAMED[key]}")
    by_name = {name.rpartition(".")[2]: name for name in known}
    names = difflib.get_close_matches(key.rpartition(".")[2], list(by_name), n=1, cutoff=0.7)
    keys = difflib.get_close_matches(key, list(by_name.values()), n=1, cutoff=0.0)
    guess = by_name[names[0]] if names else keys[0]
    return UserError(f"{source}: unknown setting {key}; did you mean {guess}?")


# -- TOML -----------------------------------------------------------------------------------------


def parse_value(text: str) -> object:
    """A TOML value, or the text itself where it is none."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if set(table) == {"value"} else text


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: if the file cannot be read or is not TOML.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: is larger than settings can be; choose another file")
        # Some editors write a byte order mark.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is not TOML ({error}); correct it or choose another file"
        ) from error


def flatten(table: Mapping[str, Any]) -> dict[str, object]:
    """Dotted keys and values of TOML tables one deep."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def to_toml(settings: object) -> str:
    """A dataclass as TOML: plain fields first, then a table for each field that is a dataclass."""
    plain: list[str] = []
    tables: list[str] = []
    for field in dataclasses.fields(typing.cast(Any, settings)):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            tables += ["", f"[{field.name}]", to_toml(value).rstrip("\n")]
        elif field.init:
            plain.append(f"{field.name} = {literal(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def plain(values: Any, section: str = "") -> dict[str, object]:
    """The fields of a dataclass by (dotted) name, as readers of JSON and TOML take them back."""
    prefix = f"{section}." if section else ""
    found: dict[str, object] = {}
    for field in dataclasses.fields(values):
        if field.init:
            value = getattr(values, field.name)
            value = list(value) if isinstance(value, tuple) else value
            found[prefix + field.name] = NONE if value is None else value
    return found


def literal(value: object) -> str:
    """One value as TOML writes it."""
    if value is None:
        return json.dumps(NONE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(literal(item) for item in value)}]"
    raise TypeError(f"{type(value).__name__} cannot be a setting")


# -- types ----------------------------------------------------------------------------------------

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def describe(hint: Any) -> str:
    """A type in words."""
    words: list[str] = []
    for kind in _alternatives(hint):
        if kind is type(None):
            words.append(f'"{NONE}"')
        elif typing.get_origin(kind) is tuple:
            words.append(f"a list of {_describe_items(typing.get_args(kind))}")
        else:
            words.append(_NAMES[kind])
    return " or ".join(words)


def _describe_items(items: tuple[Any, ...]) -> str:
    if items[-1] is Ellipsis:
        return "texts" if items[0] is str else "numbers"
    return f"{len(items)} numbers"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _convert(value: object, hint: Any) -> Any:
    kinds = _alternatives(hint)
    if type(None) in kinds and (value is None or value == NONE):
        return None
    for kind in kinds:
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            # A whole number too large for a float is no number to compute with either.
            if abs(value) <= sys.float_info.max:
                return float(value)
        elif typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            return _convert_items(value, typing.get_args(kind))
        elif type(value) is kind:
            return value
    raise TypeError


def _convert_items(values: Sequence[object], items: tuple[Any, ...]) -> tuple[Any, ...]:
    kinds = items[:1] * len(values) if items[-1] is Ellipsis else items
    if len(kinds) != len(values):
        raise TypeError
    return tuple(_convert(value, kind) for value, kind in zip(values, kinds, strict=True))


def shown(value: object) -> str:
    """A value for an error message, on one line and not endless."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
