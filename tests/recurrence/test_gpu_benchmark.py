"""The benchmark for GPUs runs on a CPU, and leaves out what does not fit into its minutes."""

from __future__ import annotations

import time

import torch

from benchmarks import gpu

CPU = torch.device("cpu")


def test_everything_is_measured() -> None:
    records = list(gpu.run(CPU, ["tiny"], time.monotonic() + 1e6))
    stages = [record["stage"] for record in records]
    assert stages[0] == "machine"
    assert "left out" not in stages
    assert "failed" not in stages
    assert all(record["state"] == "ok" for record in records if record["stage"] == "correctness")
    steps = [record for record in records if record["stage"] == "step"]
    assert [record["precision"] for record in steps] == ["float32", "bfloat16"]
    for record in steps:
        assert set(record["seconds"]) == set(gpu.CONTENDERS)
        assert all(seconds > 0.0 for seconds in record["seconds"].values())
    assert stages.count("generation") == 2
    assert all(gpu._line(record) for record in records)


def test_what_does_not_fit_is_left_out() -> None:
    records = list(gpu.run(CPU, ["tiny"], time.monotonic() - 1.0))
    left_out = [record["what"] for record in records if record["stage"] == "left out"]
    # Once for each precision, and generation for each number of voices.
    assert left_out.count("published") == 2
    assert left_out.count("generation at tiny") == 2
