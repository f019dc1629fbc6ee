"""What other operating systems lack is not needed to import the library, nor to write files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zpyro.io import files

IMPORT_ALL = """
import importlib, os, pkgutil, signal, sys, time

def modules():
    for root in ("zpyro", "zpyro_cli", "zpyro_examples"):
        package = importlib.import_module(root)
        yield root
        for found in pkgutil.walk_packages(package.__path__, root + "."):
            if not found.name.endswith("__main__"):
                yield found.name

def import_all():
    return [importlib.import_module(name) and name for name in modules()]

# What they import of others is not ours to change.
first = import_all()
for name in [each for each in sys.modules if each.split(".")[0].startswith("zpyro")]:
    del sys.modules[name]
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog"):
    sys.modules[name] = None
for module, names in (
    (os, "fork forkpty getuid geteuid getgid setsid killpg sched_getaffinity sysconf statvfs mkfifo"
         " getpgid wait3 wait4 uname nice O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY"),
    (signal, "SIGHUP SIGQUIT SIGKILL SIGPIPE SIGUSR1 SIGUSR2 SIGXCPU SIGALRM SIGCHLD alarm"
             " pthread_sigmask setitimer"),
    (time, "tzset"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
assert import_all() == first
from zpyro.distributed.processes import available_cores
assert available_cores() >= 1
print(len(first))
"""


def test_every_module_without_what_posix_has() -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


@pytest.mark.fast
def test_folders_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where only files open for writing can be flushed."""
    opened, real = [], os.open

    def open_file(path: Path, flags: int, *mode: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        opened.append(flags & os.O_RDWR)
        return real(path, flags, *mode)

    monkeypatch.setattr(files, "_IS_POSIX", False)
    monkeypatch.setattr(os, "open", open_file)
    files.replace_file(tmp_path / "a.txt", "text")
    files.replace_folder(
        tmp_path / "b", lambda folder: files.replace_file(folder / "c", "d"), keep_previous=False
    )
    assert (tmp_path / "a.txt").read_text() == "text"
    assert (tmp_path / "b" / "c").read_text() == "d"
    assert opened == [os.O_RDWR] * 3
