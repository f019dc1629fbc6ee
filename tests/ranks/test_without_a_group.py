"""What is said of groups of processes that cannot be."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from zpyro.distributed import processes
from zpyro.errors import UserError

pytestmark = pytest.mark.fast


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun says to the second of two processes; no group is really made."""
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in {**told, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)


@pytest.mark.usefixtures("of_two")
def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "accelerators", lambda: [torch.device("cuda", 0)])
    expected = "process 1 of this machine has no GPU of its own, there are 1; start fewer"
    with pytest.raises(UserError, match=expected), processes.init_distributed("cuda"):
        pass


@pytest.mark.usefixtures("of_two")
@pytest.mark.parametrize(
    "error", [dist.DistBackendError("gone"), RuntimeError("[gloo] Connection closed by peer [::1]")]
)
def test_a_lost_process_is_told_in_a_line(error: RuntimeError) -> None:
    def work() -> None:
        with processes.init_distributed("cpu") as found:
            assert found == processes.ProcessGroup(1, 2, 1)
            raise error

    with pytest.raises(UserError, match="process 1 of 2 lost another one of the group; see what"):
        work()


@pytest.mark.usefixtures("of_two")
def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="of another kind"), processes.init_distributed("cpu"):
        raise RuntimeError("of another kind")


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with processes.init_distributed("cpu") as found:
        assert found == processes.SINGLE_PROCESS
