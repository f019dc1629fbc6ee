"""Standard streams that end no work when they cannot be written.

A pipe whose reader has ended, a full disk, a terminal that is gone and a character that the
encoding lacks are failures of the output, not of the computation whose progress it shows.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import IO


class SafeStream(io.TextIOBase):
    """A text stream to write to that never raises.

    Characters that the encoding lacks are written as question marks. After the first failure
    everything else is dropped.

    Args:
        file: the stream behind it.

    Attributes:
        error: the first failure, or None.

    Example::

        console = Console(file=SafeStream(sys.stderr))
    """

    # There is no attribute ``buffer``: click would write to it directly where it prefers another
    # encoding.

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.error: OSError | ValueError | None = None

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the stream behind."""
        return getattr(self._file, "encoding", None) or "utf-8"

    def write(self, text: str | bytes, /) -> int:
        """Write, or drop, a text; gives its length. Bytes are what click has for completion."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        if self.error is None:
            try:
                try:
                    self._file.write(text)
                except UnicodeEncodeError:
                    encoded = text.encode(self.encoding, errors="replace")
                    self._file.write(encoded.decode(self.encoding))
            except (OSError, ValueError) as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Write, or drop, what is buffered."""
        if self.error is None:
            try:
                self._file.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._file.closed and self._file.isatty()

    def fileno(self) -> int:
        """The file descriptor behind it.

        Raises:
            OSError: if there is none.
        """
        return self._file.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def discard(self) -> None:
        """Drop what is still buffered, which the interpreter would try to write when it ends."""
        with contextlib.suppress(io.UnsupportedOperation):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


@contextlib.contextmanager
def safe_standard_streams() -> Generator[SafeStream, None, None]:
    """A context in which standard output and standard error are :class:`SafeStream`.

    Descriptors 0 to 2 that the caller closed are opened on the null device, so that no file of a
    run gets one of these numbers.

    Yields:
        Standard output.
    """
    _open_closed_descriptors()
    stdout, stderr = (
        SafeStream(open(os.devnull, "w") if file is None else file)  # noqa: SIM115
        for file in (sys.stdout, sys.stderr)
    )
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            yield stdout
        finally:
            for stream in (stdout, stderr):
                stream.flush()
                if stream.error is not None:
                    stream.discard()


def _open_closed_descriptors() -> None:
    """Open descriptors 0 to 2 on the null device where they are closed."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
