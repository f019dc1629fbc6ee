"""What the command line says of damaged checkpoints and of numbers that are not finite."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import SMALL, Zpyro, train
from zpyro.training import runs


def test_a_damaged_newest_checkpoint_is_a_warning_that_names_it(
    zpyro: Zpyro, arrays: Path, tmp_path: Path
) -> None:
    out = train(zpyro, "npz", arrays, tmp_path / "run", "--set=train.checkpoint_every=5")
    weights = out / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = zpyro("train", "--resume", out, "--max-steps", 15)
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert f"{weights}: does not match its checksum, it is corrupt" in warnings[0]
    run = runs.open_run(out)
    assert run.load("last").step == 15
    steps = [record["step"] for record in run.records() if record["kind"] == "train"]
    assert steps == sorted(set(steps))


def test_hunting_for_what_is_not_finite(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    new = ("train", "--dataset=npz", "--data", arrays, *SMALL, "--max-steps=9", "--detect-anomaly")
    healthy = zpyro(*new, "--out", tmp_path / "healthy")
    assert healthy.exit_code == 0, healthy.output
    # Resumed without the option, nothing of it is left.
    assert "anomaly" not in (tmp_path / "healthy" / "config.toml").read_text()
    result = zpyro(*new, "--out", tmp_path / "wild", "--set=train.learning_rate=1e38")
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: step 2: ")
    assert "is not finite, on " in line
