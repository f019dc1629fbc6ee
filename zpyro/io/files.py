"""Atomic writes: to a temporary name, flushed, then renamed, so that files are never partial."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from zpyro.errors import UserError
from zpyro.io.cache import ADVICE, is_cached

WRITING = ".writing"
PREVIOUS = ".previous"
DAMAGED = ".damaged"
_IS_POSIX = os.name == "posix"


def replace_folder(folder: Path, fill: Callable[[Path], None], *, keep_previous: bool) -> None:
    """Replace a folder so that a complete one exists at every time.

    The new one is written beside the old one, flushed, and renamed; in between the old one has the
    suffix ``.previous``, see :func:`complete_folder`.

    Args:
        folder: the folder to replace or make.
        fill: writes the files into the folder it is given.
        keep_previous: keep the old one under that name.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    writing = folder.with_name(folder.name + WRITING)
    previous = folder.with_name(folder.name + PREVIOUS)
    with translate_os_errors(folder):
        shutil.rmtree(writing, ignore_errors=True)
        try:
            writing.mkdir(parents=True)
            fill(writing)
            for file in sorted(writing.iterdir()):
                flush(file)
            flush(writing)
            if folder.exists():
                shutil.rmtree(previous, ignore_errors=True)
                folder.rename(previous)
            writing.rename(folder)
        finally:
            # A failed attempt must not keep space on a full disk.
            shutil.rmtree(writing, ignore_errors=True)
        flush(folder.parent)
        if not keep_previous:
            shutil.rmtree(previous, ignore_errors=True)


def complete_folder(folder: Path) -> Path:
    """The folder, or the previous one if the process was killed between the two renames."""
    previous = folder.with_name(folder.name + PREVIOUS)
    return previous if not folder.exists() and previous.exists() else folder


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder, so that the previous one is used.

    Returns:
        Its new path, with the suffix ``.damaged``; an older folder of that name is removed.

    Raises:
        UserError: if the place cannot be written.
    """
    damaged = folder.with_name(folder.name + DAMAGED)
    with translate_os_errors(folder):
        shutil.rmtree(damaged, ignore_errors=True)
        folder.rename(damaged)
        flush(folder.parent)
    return damaged


def replace_file(
    path: Path, content: str | Callable[[Path], None], *, several_writers: bool = False
) -> None:
    """Replace a file so that the old or the new one exists at every time.

    A link stays, and what it leads to is replaced. Into a device or pipe, such as /dev/stdout, the
    content is written.

    Args:
        path: the file to replace or make.
        content: its text, or a function that writes it to a path.
        several_writers: as in :func:`replacing`.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    with translate_os_errors(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            _write_through(path, content)
            return
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        with replacing(target, several_writers=several_writers) as writing:
            _write(writing, content)


@contextlib.contextmanager
def replacing(path: Path, *, several_writers: bool = False) -> Generator[Path, None, None]:
    """Another name for a file that takes its place when the block ends well.

    Args:
        path: the file to replace or make.
        several_writers: whether other processes may write the same file at the same time. Each
            call then has a name of its own: the last one to end has its way, and every file is
            whole. Otherwise the name is always the same, and what a killed process left goes.
    """
    writer = f".{os.getpid()}-{secrets.token_hex(4)}" if several_writers else ""
    writing = path.with_name(f"{path.name}{writer}{WRITING}")
    try:
        yield writing
        flush(writing)
        os.replace(writing, path)
    finally:
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)
    flush(path.parent)


def _write(path: Path, content: str | Callable[[Path], None]) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    else:
        content(path)


def _write_through(path: Path, content: str | Callable[[Path], None]) -> None:
    """Write into a device or pipe, which cannot be replaced; writers of files may need to seek."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "content")
        _write(file, content)
        # Opened without buffer: a device that is full says so here.
        with path.open("wb", buffering=0) as device:
            content_left = memoryview(file.read_bytes())
            while content_left:
                content_left = content_left[device.write(content_left) :]


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if not _IS_POSIX and path.is_dir():
        # Windows opens no folders; its file systems keep a journal of names.
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if _IS_POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Generator[None, None, None]:
    """Turn a failure to write within into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ADVICE if is_cached(path) else "choose another place"
        raise UserError(f"{path}: cannot be written ({reason}); {advice}") from error
