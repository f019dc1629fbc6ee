"""Several processes that train or evaluate together, and the seeds of random numbers.

In reading order: ``processes``, ``seeding``.
"""

from zpyro.distributed.processes import (
    SINGLE_PROCESS,
    BatchShard,
    ProcessGroup,
    full_batch,
    init_distributed,
    launched_by_torchrun,
)
from zpyro.distributed.seeding import seed_everything

__all__ = [
    "SINGLE_PROCESS",
    "BatchShard",
    "ProcessGroup",
    "full_batch",
    "init_distributed",
    "launched_by_torchrun",
    "seed_everything",
]
