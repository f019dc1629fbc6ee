"""Freed memory that stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from zpyro.training.allocation import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
# The first result may split the block of the first tensor, so that the second needs another one.
for _ in range(2):
    torch.ones(1 << 25).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(1 << 25).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, kept: bool) -> int:
    """Pages that five tensors of 128 MiB, one after another, fetch from the system."""
    command = [sys.executable, "-c", PROGRAM.format(kept=kept)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    # The default may already reuse memory under another allocator, but never less than this.
    assert page_faults(kept=True) < 1000
    assert page_faults(kept=False) > 10_000
