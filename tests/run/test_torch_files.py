"""torch.save and torch.load where the disk is full and where the file is a trap."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import pytest
import torch

from zpyro import UserError
from zpyro.io import torch_files

pytestmark = pytest.mark.fast


def test_what_is_written_is_read(tmp_path: Path) -> None:
    value = {"weights": torch.arange(5), "step": 3, "nested": [1.5, "text", None]}
    torch_files.write(tmp_path / "state.pt", value)
    found = torch_files.read(tmp_path / "state.pt")
    assert torch.equal(found.pop("weights"), torch.arange(5))
    assert found == {"step": 3, "nested": [1.5, "text", None]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk /dev/full")
def test_a_full_disk_is_said_so() -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        torch_files.write(Path("/dev/full"), torch.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC


def test_a_complaint_of_torch_without_a_cause_is_a_failure_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0\nat some line")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"torch could not write it: unexpected pos 64 vs 0$"):
        torch_files.write(tmp_path / "state.pt", {})


def test_a_file_that_would_expand_is_not_read(tmp_path: Path) -> None:
    path, packed = tmp_path / "state.pt", tmp_path / "packed.pt"
    torch_files.write(path, torch.zeros(100_000))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for member in whole.infolist():
            out.writestr(member.filename, whole.read(member))
    assert packed.stat().st_size < path.stat().st_size / 10
    with pytest.raises(UserError, match=r"packed\.pt: declares more than it holds"):
        torch_files.read(packed)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_pickle_protocol_is_warned_of(
    tmp_path: Path, protocol: int, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "state.pt"
    torch.save({"x": torch.arange(3.0)}, path, pickle_protocol=protocol)
    if protocol <= 3:
        assert torch.equal(torch_files.read(path)["x"], torch.arange(3.0))
    else:  # torch's restricted unpickler lacks their instructions
        with pytest.raises(UserError, match=r"state.pt: is corrupt, or no file of plain tensors"):
            torch_files.read(path)
    assert not recwarn.list
