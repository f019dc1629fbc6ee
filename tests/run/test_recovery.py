"""A damaged newest checkpoint: the one before it takes its place, and nothing is lost."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.run.small import dataset, model, settings
from tests.run.test_training import untimed
from zpyro.errors import UserError
from zpyro.io import files, manifest
from zpyro.training import checkpoint, runs
from zpyro.training import fitting as training
from zpyro.training.config import Config
from zpyro.training.runs import MetricsLog, Run


@pytest.fixture(scope="module")
def config() -> Config:
    return settings(max_steps=18, checkpoint_every=5, validate_every=6, log_every=4)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that nothing happened to."""
    run = runs.create(tmp_path_factory.mktemp("whole") / "run", config)
    training.fit(model(), dataset(), config, run=run)
    return run


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(whole.folder, tmp_path / "run")))


def flip(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def flip_the_step(path: Path) -> None:
    """Still valid JSON, with another step."""
    path.write_text(path.read_text().replace('"step": 18', '"step": 17'))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights flipped": (checkpoint.MODEL, flip),
    "weights cut": (checkpoint.MODEL, lambda path: path.write_bytes(path.read_bytes()[:99])),
    "weights gone": (checkpoint.MODEL, Path.unlink),
    "start frames gone": (checkpoint.START, Path.unlink),
    "state flipped": (checkpoint.STATE, lambda path: flip(path, 300)),
    "state empty": (checkpoint.STATE, lambda path: path.write_bytes(b"")),
    "meta empty": (manifest.META, lambda path: path.write_bytes(b"")),
    "another step": (manifest.META, flip_the_step),
    "another version, by a flipped bit": (
        manifest.META,
        lambda path: path.write_text(path.read_text().replace('"format": 2', '"format": 3')),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_training_goes_on_from_the_one_before(
    run: Run, whole: Run, config: Config, name: str
) -> None:
    file, damage = DAMAGE[name]
    damage(run.last / file)
    warning = run.recover()
    assert warning is not None
    named = run.last if name == "meta empty" else run.last / file
    assert str(named) in warning
    assert "\n" not in warning
    assert f"continues from {run.folder / 'last.previous'}" in warning
    loaded = run.load("last")
    assert loaded.step == 15
    training.fit(loaded.model, dataset(), config, run=run, resume=True)
    # Bit for bit as if nothing had happened, the metrics of the lost steps too.
    expected = whole.load("last").model.state_dict()
    for key, tensor in run.load("last").model.state_dict().items():
        assert torch.equal(tensor, expected[key])
    assert untimed(run) == untimed(whole)
    assert run.recover() is None
    assert (run.folder / "last.damaged").is_dir()


def test_the_sound_one_outlives_a_kill_in_the_next_write(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(run.last / checkpoint.MODEL)
    run.recover()

    def killed(self: Path, target: Path) -> Path:
        raise InterruptedError(errno.EINTR, "killed")

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(run.last, run.load("last"), {}, keep_previous=True)
    monkeypatch.undo()
    assert run.recover() is None
    assert run.load("last").step == 15


def test_no_sound_checkpoint_left_is_said_so(run: Run) -> None:
    flip(run.last / checkpoint.MODEL)
    flip(run.folder / "last.previous" / checkpoint.STATE)
    with pytest.raises(UserError, match=r"last/model\.safetensors: does not match .* start a new"):
        run.recover()
    assert run.last.is_dir()


def test_another_version_is_no_damage(run: Run) -> None:
    path = run.last / manifest.META
    path.write_text(json.dumps(manifest.signed({**json.loads(path.read_text()), "format": 99})))
    assert run.recover() is None
    with pytest.raises(UserError, match="has format version 99"):
        run.load("last")


def test_a_checkpoint_from_before_the_checksum_of_meta_loads(run: Run) -> None:
    path = run.last / manifest.META
    meta = json.loads(path.read_text())
    for entry in (manifest.CHECKSUM, "settings", "fingerprint"):
        del meta[entry]
    path.write_text(json.dumps(meta))
    assert run.recover() is None
    assert run.load("last").step == 18


def test_a_failed_write_leaves_no_debris(run: Run) -> None:
    def fail(place: Path) -> None:
        place.joinpath("big").write_bytes(b"x" * 9)
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(UserError, match="No space left"):
        files.replace_folder(run.last, fail, keep_previous=True)
    with pytest.raises(UserError, match="No space left"):
        files.replace_file(run.folder / "config.toml", lambda place: fail(place.parent))
    (run.folder / "big").unlink()
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_metrics_that_cannot_be_closed_are_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(run, 18)
    log.close()

    class Full:
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_file", Full())
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left"):
        log.close()
