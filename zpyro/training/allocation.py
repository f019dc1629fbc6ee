"""Freed memory that stays with the process: what a long training wants of the C library."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``, from its ``malloc.h``."""
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, and use it again; gives whether that was done.

    By default glibc fetches every tensor of more than 32 MB from the system and gives it back when
    it is freed, so that each step of training on long sequences pays for clearing fresh pages
    again. The process then holds the most memory it ever needed until it ends. The setting is the
    whole process's, so a library must not choose it: ``zpyro train`` and ``zpyro evaluate`` do, a
    program of one's own may. Under another C library nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
