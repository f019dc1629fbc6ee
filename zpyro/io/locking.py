"""One process at a time in a directory: a lock that ends with its process.

The lock is that of the operating system on the file ``.lock`` in the directory: ``flock``, or
``LockFileEx`` on Windows. On NFS it holds between machines where the server runs a lock service
(Linux turns it into a byte-range lock there). Where the file system knows no such lock,
:func:`locked` logs a warning and continues without it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Generator
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from zpyro.errors import UserError
from zpyro.io.cache import ADVICE, is_cached

LOCK = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LONGEST_OWNER = 200

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(
    folder: Path,
    *,
    is_main_process: bool = True,
    work: str = "training",
    wait: bool = False,
    shown: Path | None = None,
) -> Generator[None, None, None]:
    """Lock a directory for the length of the block; nested locks of one directory do nothing.

    Args:
        folder: the directory; it must exist.
        is_main_process: False in the other processes of one training, for which the main process
            takes the lock.
        work: what the holder of the lock does, for messages.
        wait: wait for another process, which a logged line names, instead of an error, unless it is
            the parent of this one. It may remove the directory in the end.
        shown: the directory that messages name, by default ``folder``.

    Raises:
        UserError: if another process holds the lock, or the lock's file cannot be written.
    """
    place = folder.resolve()
    if place in _held.get() or not is_main_process:
        yield
        return
    lock = _taken(folder, work, wait, shown or folder)
    token = _held.set(_held.get() | {place})
    try:
        yield
    finally:
        _held.reset(token)
        if lock is not None:
            lock.release()


def _taken(folder: Path, work: str, wait: bool, shown: Path) -> FileLock | None:
    """The lock, or None where there are no locks."""
    path = folder / LOCK
    lock = FileLock(path, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_sign)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = _owner(path)
        # A worker that runs the script of its parent again: each would wait for the other.
        is_parents = _signature(os.getppid()) in owner
        if is_parents or not wait:
            raise UserError(
                f"{shown}: another {work}{owner} is writing there; "
                "wait for it, stop it, or choose another --out"
            ) from error
        logger.warning("%s: waiting for another %s%s to end", shown, work, owner)
        try:
            lock.acquire()
        except FileNotFoundError:
            # The owner has ended and removed the directory: there is nothing left to lock.
            return None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            advice = ADVICE if is_cached(path) else "choose another directory"
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); {work} needs to write there, "
                f"change its permissions or {advice}"
            ) from error
        logger.warning(
            "%s: this file system has no locks; see that no other %s writes there", shown, work
        )
        return None
    return lock


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{_signature(os.getpid())}\n".encode())


def _signature(process: int) -> str:
    return f"process {process} on {socket.gethostname()}"


def _owner(path: Path) -> str:
    """The owner of the lock according to its file, in parentheses."""
    try:
        with path.open("rb") as file:
            owner = file.read(_LONGEST_OWNER).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        # The owner has just removed it with the directory.
        return ""
    return f" ({owner})" if owner.isprintable() and owner else ""
