"""Guides from a user's file: loading one, keeping a copy with the run, and asking for it again.

``FILE.py:NAME`` names a class or function that takes the built model and gives a guide. What stands
in a run directory is never run unless asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import textwrap
import traceback
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from zpyro.errors import UserError, without_shapes
from zpyro.io import files

if TYPE_CHECKING:
    from zpyro.models.base import SequenceModel

FOLDER, RECORD = "guide", "guide.json"
PREFIX = "custom_guide."
"""Of the names of its parameters in a checkpoint."""
MODULE = "zpyro_custom_guide_"
"""Of the names that a user's files are imported under."""
MOST_SAID = 300
"""Characters of an exception's message that are shown."""


@dataclass(frozen=True)
class GuideSource:
    """A guide's code.

    Attributes:
        path: the file it was read from.
        name: of the class or function there.
        text: what the file held.
        factory: that class or function.
    """

    path: Path
    name: str
    text: str
    factory: Callable[[Any], Any]

    @property
    def checksum(self) -> str:
        """The sha256 of the text."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def attach(self, module: SequenceModel) -> None:
        """Make a guide for a model; its parameters become some of the model's.

        Raises:
            UserError: if the user's code fails, or gives nothing that can be called.
        """
        with wrap_user_errors(self.path, f"making {self.name}"):
            guide = self.factory(module)
        if not callable(guide):
            raise UserError(
                f"{self.path}: {self.name} gives {type(guide).__name__}, which cannot be called; "
                "it must give a guide(x, lengths, start)"
            )
        attach(module, guide)


def attach(module: SequenceModel, guide: Callable[..., Any]) -> None:
    """Make a guide the one that a model is trained and evaluated with.

    The guide may hold the model or parts of it; those stay the model's own, with one name each
    among its parameters.

    Args:
        module: the model.
        guide: called with (x, lengths, start); if a torch module, its parameters are trained and
            saved with the model's.
    """
    if isinstance(guide, nn.Module):
        theirs = set(module.modules())
        for part in list(guide.modules()):
            if part in theirs:
                continue
            for name, child in list(part.named_children()):
                if child in theirs:
                    delattr(part, name)
                    object.__setattr__(part, name, child)
    module.custom_guide = guide
    module.granularity = getattr(guide, "granularity", module.granularity)


_current: ContextVar[GuideSource | None] = ContextVar("zpyro_guide", default=None)


@contextlib.contextmanager
def using(source: GuideSource | None) -> Generator[None, None, None]:
    """Within it, every model that is built or loaded gets this guide."""
    token = _current.set(source)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> GuideSource | None:
    """The guide that models now get, or None for their own."""
    return _current.get()


def load(spec: str) -> GuideSource:
    """Run a user's file and find the guide in it.

    Args:
        spec: ``FILE.py:NAME``.

    Raises:
        UserError: if the file or the name is missing, or the file fails; it names the file, the
            line and the exception.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UserError(f"--guide is {spec!r}; give FILE.py:NAME, such as my_guide.py:MyGuide")
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; name another file for --guide") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as Python ({error}); name another") from error
    factory = getattr(_imported(path), name, None)
    if not callable(factory):
        what = "has no" if factory is None else "has no class or function"
        raise UserError(f"{path}: {what} {name}; give the name of the guide after the colon")
    return GuideSource(path, name, text, factory)


def _imported(path: Path) -> Any:
    name = f"{MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: is no Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses and the like look for the names of their own module.
    sys.modules[name] = module
    with wrap_user_errors(path, "importing it"):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def wrap_user_errors(path: Path, doing: str) -> Generator[None, None, None]:
    """Turn what goes wrong in a user's code within into one line with the file and the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a user's code may raise
        line = _line_of(error, path)
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where}: {_said(error)} (while {doing}); mend it") from error


def describe_user_error(error: Exception) -> str | None:
    """What to say of an exception that the code of a guide raised; None if none of it did."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not name.startswith(MODULE) or path is None:
            continue
        line = _line_of(error, Path(path))
        if line is not None:
            return f"{path}, line {line}: {_said(error)}; mend it"
    return None


def _said(error: Exception) -> str:
    """The exception on one line; tensors that are printed within it are cut off."""
    words = " ".join(without_shapes(str(error)).split())
    return f"{type(error).__name__}: {textwrap.shorten(words, MOST_SAID, placeholder=' ...')}"


def _line_of(error: Exception, path: Path) -> int | None:
    if (
        isinstance(error, SyntaxError)
        and error.filename
        and Path(error.filename) == path.absolute()
    ):
        return error.lineno
    wanted = path.absolute()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == wanted]
    return lines[-1] if lines else None


# -- with a run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """What a run says of its guide.

    Attributes:
        path: the copy of the file in the run directory.
        file: the name of the file it was trained from.
        name: of the class or function there.
        sha256: of the file.
    """

    path: Path
    file: str
    name: str
    sha256: str

    def load(self) -> GuideSource:
        """Run the copy.

        Raises:
            UserError: if it is not what was recorded, or fails.
        """
        if not self.path.is_file() or files.checksum(self.path) != self.sha256:
            raise UserError(
                f"{self.path}: is missing or not what the run recorded; pass --guide with the file"
            )
        return load(f"{self.path}:{self.name}")


def keep(run: Path) -> None:
    """Leave a copy of the present guide's file and its checksum in a run directory, if any."""
    source = current()
    if source is None:
        return
    folder = run / FOLDER
    with files.translate_os_errors(folder):
        folder.mkdir(exist_ok=True)
    copy = folder / source.path.name
    record = {"file": source.path.name, "name": source.name, "sha256": source.checksum}
    files.replace_file(copy, source.text)
    files.replace_file(folder / RECORD, json.dumps(record, indent=2) + "\n")


def recorded(run: Path) -> Recorded | None:
    """What a run says of its guide; None where it was trained with the model's own.

    Raises:
        UserError: if the record is corrupt.
    """
    path = run / FOLDER / RECORD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is corrupt ({error}); take another run") from error
    keys = ("file", "name", "sha256")
    values = [found.get(key) for key in keys] if isinstance(found, dict) else []
    if not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{path}: is corrupt; take another run")
    file, name, checksum = cast(list[str], values)
    if Path(file).name != file:
        raise UserError(f"{path}: names the file {file}, not one beside it; take another run")
    return Recorded(path.parent / file, file, name, checksum)
