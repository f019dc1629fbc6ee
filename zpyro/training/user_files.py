"""Python files of a user: importing them, attributing their errors, keeping copies with a run.

A file in a run directory is never executed unless that is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import textwrap
import traceback
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpyro.errors import UserError, without_shapes
from zpyro.io import files

MODULE = "zpyro_user_file_"
"""Prefix of the module names under which files are imported."""
LONGEST_MESSAGE = 300
"""Characters of an exception's message that are shown."""


@dataclass(frozen=True)
class UserFile:
    """A Python file that was read.

    Attributes:
        path: where it is.
        text: its content.
    """

    path: Path
    text: str

    @property
    def checksum(self) -> str:
        """The sha256 of the content."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    def run(self) -> Any:
        """Import the file and return the module.

        Raises:
            UserError: if it fails; the message names the file, the line and the exception.
        """
        name = f"{MODULE}{self.path.stem}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise UserError(f"{self.path}: is not a Python file; give one that ends in .py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle look up the names of a module here.
        sys.modules[name] = module
        with wrap_user_errors(self.path, "importing it"):
            # The text whose checksum is recorded, not bytecode kept from another one.
            exec(compile(self.text, str(self.path.absolute()), "exec"), module.__dict__)
        return module


def read(path: Path, option: str) -> UserFile:
    """Read a Python file.

    Args:
        path: where it is.
        option: the command line option that named it, for error messages.

    Raises:
        UserError: if it is missing or cannot be read.
    """
    try:
        return UserFile(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; give another file for {option}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as Python ({error}); give another") from error


@contextlib.contextmanager
def wrap_user_errors(path: Path, action: str) -> Generator[None, None, None]:
    """Turn exceptions of a user's code within the block into one line with the file and line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a user's code may raise
        line = _line_in(error, path)
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where}: {_summary(error)} (while {action}); fix the file") from error


def describe_user_error(error: Exception, paths: Iterable[Path]) -> str | None:
    """One line about an exception that passed through one of the files; None if none did."""
    for path in paths:
        line = _line_in(error, path)
        if line is not None:
            return f"{path}, line {line}: {_summary(error)}; fix the file"
    return None


def _summary(error: Exception) -> str:
    """The exception on one line, without the shapes of printed tensors."""
    words = " ".join(without_shapes(str(error)).split())
    message = textwrap.shorten(words, LONGEST_MESSAGE, placeholder=" ...")
    return f"{type(error).__name__}: {message}"


def _line_in(error: Exception, path: Path) -> int | None:
    wanted = path.absolute()
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == wanted:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == wanted]
    return lines[-1] if lines else None


# -- copies in a run directory --------------------------------------------------------------------


@dataclass(frozen=True)
class RecordedFile:
    """The copy of a user's file that a run directory holds.

    Attributes:
        path: the copy.
        file: name of the file it was copied from.
        sha256: of the file.
        name: the class or function that was used, or None where the file was only imported.
    """

    path: Path
    file: str
    sha256: str
    name: str | None = None

    def read(self, option: str) -> UserFile:
        """The copy.

        Raises:
            UserError: if it is missing or was changed.
        """
        if not self.path.is_file() or files.checksum(self.path) != self.sha256:
            raise UserError(
                f"{self.path}: is missing or differs from what the run recorded; "
                f"pass {option} with the file"
            )
        return read(self.path, option)


def keep(folder: Path, record: str, sources: Iterable[tuple[UserFile, str | None]]) -> None:
    """Copy files into a folder of a run and record their checksums.

    Args:
        folder: of the run directory; created if missing.
        record: name of the JSON file with the checksums.
        sources: each file, of different names, with the name that is used from it, or None.

    Raises:
        UserError: if the folder cannot be written.
    """
    with files.translate_os_errors(folder):
        folder.mkdir(exist_ok=True)
    entries: list[dict[str, str]] = []
    for source, name in sources:
        files.replace_file(folder / source.path.name, source.text)
        entry = {"file": source.path.name, "sha256": source.checksum}
        entries.append(entry if name is None else {**entry, "name": name})
    # A file used by name stands alone in its record.
    content = entries[0] if len(entries) == 1 and "name" in entries[0] else entries
    files.replace_file(folder / record, json.dumps(content, indent=2) + "\n")


def recorded(folder: Path, record: str) -> list[RecordedFile]:
    """The files that :func:`keep` recorded; none where there is no record.

    Raises:
        UserError: if the record is corrupt.
    """
    path = folder / record
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is corrupt ({error}); choose another run") from error
    entries = [found] if isinstance(found, dict) else found
    if not isinstance(entries, list) or not entries or not all(map(_is_entry, entries)):
        raise UserError(f"{path}: is corrupt; choose another run")
    for entry in entries:
        if Path(entry["file"]).name != entry["file"]:
            raise UserError(
                f"{path}: names the file {entry['file']}, which is not beside it; "
                "choose another run"
            )
    return [
        RecordedFile(folder / entry["file"], entry["file"], entry["sha256"], entry.get("name"))
        for entry in entries
    ]


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"file", "sha256"} <= entry.keys():
        return False
    return all(isinstance(value, str) for value in entry.values())
