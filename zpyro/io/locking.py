"""One training at a time in a run directory: a lock that ends with its process.

The lock is ``flock`` on the file ``.lock`` in the directory. On NFS it holds between machines where
the server runs a lock service (Linux turns it into a byte-range lock there). Where the file system
or the operating system knows no such lock, :func:`locked` logs a warning and continues without it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Generator
from contextvars import ContextVar
from pathlib import Path

from zpyro.errors import UserError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LONGEST_OWNER = 200

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Path, *, is_main_process: bool = True) -> Generator[None, None, None]:
    """Lock a run directory for the length of the block; nested locks of one directory do nothing.

    Args:
        folder: the run directory; it must exist.
        is_main_process: False in the other processes of one training, for which the main process
            takes the lock.

    Raises:
        UserError: if another process trains in it, or the lock's file cannot be written.
    """
    place = folder.resolve()
    if place in _held.get() or not is_main_process:
        yield
        return
    descriptor = _opened(folder)
    try:
        _take(folder, descriptor)
        token = _held.set(_held.get() | {place})
        try:
            yield
        finally:
            _held.reset(token)
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    path = folder / LOCK
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); training needs to write there, "
            "change its permissions or choose another directory"
        ) from error


def _take(folder: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        logger.warning("%s: no locks on this system; see that nobody else trains there", folder)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except BlockingIOError as error:
        raise UserError(
            f"{folder}: another training{_owner(descriptor)} is writing there; "
            "wait for it, stop it, or choose another --out"
        ) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise UserError(f"{folder / LOCK}: cannot be written ({error.strerror})") from error
        logger.warning(
            "%s: this file system has no locks; see that nobody else trains there", folder
        )


def _owner(descriptor: int) -> str:
    """The owner of the lock according to its file, in parentheses."""
    owner = os.read(descriptor, _LONGEST_OWNER).decode("utf-8", "replace").strip()
    return f" ({owner})" if owner.isprintable() and owner else ""
