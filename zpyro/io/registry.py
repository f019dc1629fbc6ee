"""Named entries that a package, a plugin file or an installed distribution adds to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TypeVar

from zpyro.errors import UserError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Entries by name; those of installed distributions are loaded when first needed.

    Args:
        noun: what an entry is, for error messages ("data set").
        group: entry-point group in which distributions declare further entries. Entry
            points are loaded by name; the loaded object is the entry.

    Example::

        MODELS: Registry[type] = Registry("model", group="zpyro.models")
        MODELS.register("mine", MyModel)
        MODELS.find("mine")
    """

    def __init__(self, noun: str, group: str) -> None:
        self.noun = noun
        self.group = group
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, entry: T) -> T:
        """Add an entry; the same entry may be added again.

        Raises:
            UserError: if the name belongs to another entry.
        """
        known = self._entries.get(name)
        if known is not None and known is not entry and not _same_source(known, entry):
            raise UserError(f"{self.noun} {name} exists already; choose another name")
        self._entries[name] = entry
        return entry

    def unregister(self, name: str) -> None:
        """Remove an entry."""
        del self._entries[name]

    def find(self, name: str, setting: str | None = None) -> T:
        """The entry of a name.

        Args:
            name: its name.
            setting: the setting that named it, for the error message.

        Raises:
            UserError: naming the nearest entry if there is none of that name.
        """
        if name in self:
            return self[name]
        subject = f"{self.noun} {name!r} is unknown" if setting is None else f"{setting} is {name}"
        nearest = difflib.get_close_matches(name, self, n=1)
        choices = f"choose one of {', '.join(self)}"
        hint = f"did you mean {nearest[0]}?" if nearest and setting is None else choices
        raise UserError(f"{subject}; {hint}")

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        """Load the entries that installed distributions declare, once."""
        if self._loaded:
            return
        self._loaded = True
        for point in metadata.entry_points(group=self.group):
            if point.name in self._entries:
                continue
            try:
                self._entries[point.name] = point.load()
            except Exception as error:  # an installed distribution may raise anything
                source = point.dist.name if point.dist is not None else point.value
                raise UserError(
                    f"{self.noun} {point.name} of the package {source} cannot be loaded "
                    f"({type(error).__name__}: {error}); update or uninstall that package"
                ) from error


def _same_source(first: object, second: object) -> bool:
    """Whether two entries come from the same place, as after a second import of a file."""
    names = ("__module__", "__qualname__")
    # An entry that is not a class or function itself is identified by how it is loaded.
    origins = [getattr(each, "load", each) for each in (first, second)]
    found = [[getattr(each, name, None) for name in names] for each in origins]
    return None not in found[0] and found[0] == found[1]
