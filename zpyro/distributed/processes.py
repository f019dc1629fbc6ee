"""Processes that train or score together; a single process is the simplest group."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from zpyro.errors import UserError
from zpyro.nn.devices import accelerators, choose_device

if TYPE_CHECKING:
    from zpyro.datasets.batching import Batch

LONGEST_WAIT = timedelta(hours=2)
"""Time for one process to prepare data while the others wait; a crash is noticed at once."""
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets in every process."""

T = TypeVar("T")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessError(UserError):
    """An error of one process of several."""

    of_one_process = True


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that work together.

    Attributes:
        rank: its number.
        world_size: how many there are.
        local: its number on this machine, and so its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def is_main_process(self) -> bool:
        """Whether it is the one that writes files and logs."""
        return self.rank == 0

    @torch.no_grad()
    def synchronize(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of the main process."""
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                values = tensor.contiguous()
                dist.broadcast(values, src=0)
                tensor.copy_(values)

    def part(self, count: int) -> range:
        """The places of this process in a batch of ``count`` rows: neighbors."""
        return range(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )

    def stream_part(self, count: int) -> range:
        """The places of this process in a batch of streams, which may have fewer rows later on.

        A stream keeps its process.
        """
        return range(self.rank, count, self.world_size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes, in each."""
        if self.world_size == 1:
            return list(numbers)
        # On the host, to avoid waiting for an accelerator.
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values.tolist()

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in each."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            self.all_reduce_max(0.0)

    @contextlib.contextmanager
    def main_process_first(self) -> Generator[None, None, None]:
        """The main process runs the block before the others, for example to fill a cache."""
        if not self.is_main_process:
            self.barrier()
        yield
        if self.is_main_process:
            self.barrier()


SINGLE_PROCESS = ProcessGroup()


@dataclass(frozen=True, eq=False)
class BatchShard:
    """A part of a batch.

    Attributes:
        batch: the rows of this process; where it has none, one that does not count.
        places: their indices in the whole batch.
        total: number of rows of the whole batch.
    """

    batch: Batch
    places: range
    total: int


def full_batch(batch: Batch) -> BatchShard:
    """All of a batch."""
    return BatchShard(batch, range(len(batch)), len(batch))


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return all(name in os.environ for name in ENVIRONMENT) and int(os.environ["WORLD_SIZE"]) > 1


def restarts() -> tuple[int, int]:
    """How often torchrun has restarted this group of processes, and how often it would."""
    names = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
    done, most = (int(os.environ.get(name, 0)) for name in names)
    return done, most


@contextlib.contextmanager
def init_distributed(device: str = "auto") -> Generator[ProcessGroup, None, None]:
    """Join the processes that torchrun started for the length of the block.

    Args:
        device: "cpu", the type of an accelerator such as "cuda", or "auto" for the accelerator
            that torch finds. Process n of a machine takes device n.

    Raises:
        UserError: if there are fewer accelerators than processes on this machine, the device has
            an index, or another process of the group is gone.
    """
    if not launched_by_torchrun():
        yield SINGLE_PROCESS
        return
    process_group = ProcessGroup(
        *(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    )
    kind, _, index = device.partition(":")
    if index:
        raise UserError(
            f"device is {device}, but each of {process_group.world_size} processes takes a device "
            f"of its own; give {kind} without an index"
        )
    count = len(accelerators())
    backend = "gloo"
    if kind != "cpu" and (kind != "auto" or count):
        if process_group.local >= count:
            raise ProcessError(
                f"process {process_group.local} of this machine has no GPU of its own, "
                f"there are {count}; start fewer, or take --device cpu"
            )
        kind = choose_device(kind).type
        torch.accelerator.set_device_index(process_group.local)
        backend = f"cpu:gloo,{kind}:{dist.get_default_backend_for_device(kind)}"
    own: dict[str, Any] = {"timeout": LONGEST_WAIT}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank, world_size = process_group.rank, process_group.world_size
        store, _, _ = next(rendezvous("env://", timeout=LONGEST_WAIT))
        own |= {"rank": rank, "world_size": world_size}
        own["store"] = _unused_store(store, rank, world_size)
    dist.init_process_group(backend, **own)
    try:
        yield process_group
    except RuntimeError as error:
        if not _is_gone(error):
            raise
        raise UserError(
            f"process {process_group.rank} of {process_group.world_size} lost another one of the "
            "group; see what that one printed, and continue with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _unused_store(store: Store, rank: int, world_size: int) -> Store:
    """A part of a store that no process from before a restart has written to.

    torchrun keeps its store when it restarts the processes, and with it the addresses of those that
    are dead. The number of restarts does not tell them apart: it differs between machines. So each
    process sends a name of its own to the main process, which answers to that name.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"zpyro/request/{rank}", own)
        chosen = store.get(f"zpyro/answer/{own}").decode()
        store.set(f"zpyro/joined/{own}/{chosen}", "")
        return PrefixStore(chosen, store)
    missing = set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            # Of a dead process at first, perhaps; it does not confirm.
            name = store.get(f"zpyro/request/{other}").decode()
            store.set(f"zpyro/answer/{name}", own)
            if store.check([f"zpyro/joined/{name}/{own}"]):
                missing.remove(other)
        time.sleep(0.01)
    return PrefixStore(own, store)


def _is_gone(error: RuntimeError) -> bool:
    """Whether a collective failed because a process at the other end died."""
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    return isinstance(error, dist.DistError) or any(words in str(error) for words in lost)
