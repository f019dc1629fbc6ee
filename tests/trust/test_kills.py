"""Kills at random moments and within writes, a few of them; the script beside has the full number.

``python -m tests.trust.kills --kills 50 --writes 20``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.trust import killing, writes


def test_killed_trainings_end_bit_equal(tmp_path: Path) -> None:
    found = killing.kill_and_resume(tmp_path, 2, steps=60, seed=7, workers=2)
    # A kill may come too late on a machine that is busy with other things: then it proves nothing.
    assert set(found) <= {"equal", "ended before its kill"}


def test_a_killed_write_leaves_a_checkpoint(tmp_path: Path) -> None:
    assert writes.kill_within_writes(tmp_path, 2, seed=7) == ["loads"] * 2


def test_the_comparison_sees_one_bit() -> None:
    state = {"adam": [torch.zeros(3)], "seconds": 1.0}
    other = {"adam": [torch.tensor([0.0, 0.0, np.float32(1e-45)])], "seconds": 2.0}
    one = killing.Finished((b"", b""), killing.untimed(state), [])
    assert one.equals(killing.Finished((b"", b""), killing.untimed({**state, "seconds": 3.0}), []))
    assert not one.equals(killing.Finished((b"", b""), killing.untimed(other), []))
