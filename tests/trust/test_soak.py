"""A long training keeps nothing; the script beside has the full length.

``python -m tests.trust.soak --steps 2000``
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.soak import ALLOWED, SETTLED, growth, soak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_neither_memory_nor_objects_grow_with_the_steps(tmp_path: Path) -> None:
    watch = soak(tmp_path / "run", 200)
    # At least 100 steps lie between the first and the last reading, so that one object kept by each
    # step would show; caches of modules that a worker has imported grow by tens at once.
    kept = watch.objects[SETTLED:]
    assert max(kept) - kept[0] < 100
    # The readings of a busy machine move by what it takes from a process and gives back.
    assert growth(watch.readings) <= 8 * ALLOWED
