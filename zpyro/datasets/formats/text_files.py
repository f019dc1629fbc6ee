"""Text files: found below a folder, and read as UTF-8 with what is wrong said by file and byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zpyro.datasets.formats.folders import walk
from zpyro.errors import UserError


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, its line ends as ``\\n``; a byte order mark is dropped.

    Raises:
        UserError: if it cannot be read, is empty, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); repair or remove it"
        ) from error
    return decoded(content, str(path))


def decoded(content: bytes, source: str) -> str:
    """The text of a UTF-8 file's bytes, its line ends as ``\\n``; a byte order mark is dropped.

    Args:
        content: the bytes.
        source: what to call them in an error.

    Raises:
        UserError: if they are no UTF-8, or no text is in them.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8;"
            " save the file as UTF-8 or remove it"
        ) from error
    if "\0" in text:
        raise UserError(f"{source}: holds NUL bytes, so it is not text; remove it")
    if not text.strip():
        raise UserError(f"{source}: is empty; remove it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_text(name: str) -> bool:
    """Whether a file has a text's name, ``*.txt`` in upper or lower case."""
    return name.lower().endswith(".txt")


def find(folder: Path, wanted: Callable[[str], bool] = is_text) -> list[Path]:
    """Every file below a folder whose name is wanted, sorted by path.

    Links are followed, but not to a folder that was walked before; hidden files and folders (names
    with a leading dot) are left out.

    Raises:
        UserError: if part of the folder cannot be read.
    """
    return sorted(path for path in walk(folder) if wanted(path.name))
