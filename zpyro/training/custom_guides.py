"""Custom guides from a user's file.

``FILE.py:NAME`` names a class or function that takes the built model and returns a guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from zpyro.errors import UserError
from zpyro.io.paths import user_path
from zpyro.models import parameter_store
from zpyro.models.base import SequenceModel
from zpyro.training import user_files
from zpyro.training.user_files import RecordedFile, UserFile, wrap_user_errors

FOLDER, RECORD = "guide", "guide.json"
PREFIX = "custom_guide."
"""Prefix of a guide's parameters among those of a model."""


class GuideMaker(Protocol):
    """What gives a model its custom guide."""

    def attach(self, module: SequenceModel) -> None:
        """Make a guide for a model and attach it."""
        ...


@dataclass(frozen=True)
class GuideFactory:
    """A class or function that takes the built model and returns a guide."""

    factory: Callable[[SequenceModel], Callable[..., Any]]

    def attach(self, module: SequenceModel) -> None:
        """Make a guide for a model; its parameters become some of the model's."""
        attach_guide(module, self.factory(module))


@dataclass(frozen=True)
class GuideSource:
    """The code of a custom guide.

    Attributes:
        file: the file.
        name: of the class or function in it.
        factory: that class or function.
    """

    file: UserFile
    name: str
    factory: Callable[[Any], Any]

    def attach(self, module: SequenceModel) -> None:
        """Make a guide for a model; its parameters become some of the model's.

        Raises:
            UserError: if the user's code fails or returns nothing callable.
        """
        path = self.file.path
        with wrap_user_errors(path, f"making {self.name}"):
            guide = self.factory(module)
        if not callable(guide):
            raise UserError(
                f"{path}: {self.name} returns {type(guide).__name__}, which cannot be called; "
                "it must return a guide(x, lengths, start)"
            )
        attach_guide(module, guide)

    def keep(self, run: Path) -> None:
        """Leave a copy of the file and its checksum in a run directory."""
        user_files.keep(run / FOLDER, RECORD, [(self.file, self.name)])


def attach_guide(module: SequenceModel, guide: Callable[..., Any]) -> None:
    """Make a guide the one that a model is trained and evaluated with.

    The guide may hold the model or parts of it; those stay the model's own, with one name each
    among its parameters.

    Args:
        module: the model.
        guide: called with (x, lengths, start); if a torch module, its parameters are trained and
            saved with the model's.
    """
    if isinstance(guide, nn.Module):
        of_model = set(module.modules())
        for part in list(guide.modules()):
            if part in of_model:
                continue
            for name, child in list(part.named_children()):
                if child in of_model:
                    delattr(part, name)
                    object.__setattr__(part, name, child)
        # The guide runs before the model, which would load values too late for its own.
        guide.register_forward_pre_hook(partial(_load_values, module))
    module.custom_guide = guide
    # A guide that is a PyroModule and holds the model has renamed it.
    module.store_name = module.store_name
    module.granularity = getattr(guide, "granularity", module.granularity)


def _load_values(module: SequenceModel, _guide: nn.Module, _arguments: Any) -> None:
    """Copy what was loaded into Pyro's parameter store since the newest call."""
    parameter_store.load(module, module.store_name)


def load(spec: str) -> GuideSource:
    """Import a user's file and find the guide in it.

    Args:
        spec: ``FILE.py:NAME``.

    Raises:
        UserError: if the file or the name is missing, or the file fails; the message names the
            file, the line and the exception.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UserError(f"--guide is {spec!r}; give FILE.py:NAME, such as my_guide.py:MyGuide")
    return _found(user_files.read(user_path(file), "--guide"), name)


def load_recorded(record: RecordedFile) -> GuideSource:
    """Import the copy of a guide's file in a run directory.

    Raises:
        UserError: if it differs from what was recorded, or fails.
    """
    assert record.name is not None
    return _found(record.read("--guide"), record.name)


def recorded(run: Path) -> RecordedFile | None:
    """The recorded guide of a run; None where it was trained with the model's own.

    Raises:
        UserError: if the record is corrupt.
    """
    found = user_files.recorded(run / FOLDER, RECORD)
    if found and found[0].name is None:
        raise UserError(f"{run / FOLDER / RECORD}: is corrupt; choose another run")
    return found[0] if found else None


def _found(file: UserFile, name: str) -> GuideSource:
    factory = getattr(file.run(), name, None)
    if not callable(factory):
        what = "has no" if factory is None else "has no class or function"
        raise UserError(f"{file.path}: {what} {name}; give the name of the guide after the colon")
    return GuideSource(file, name, factory)
