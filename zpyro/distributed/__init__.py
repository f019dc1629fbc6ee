"""Several processes that train or evaluate together, Ray clusters, and seeds of random numbers."""

from zpyro.distributed.processes import (
    SINGLE_PROCESS,
    BatchShard,
    ProcessGroup,
    full_batch,
    init_distributed,
    launched_by_torchrun,
)
from zpyro.distributed.ray_cluster import RayCluster
from zpyro.distributed.seeding import named_noise, seed_everything

__all__ = [
    "SINGLE_PROCESS",
    "BatchShard",
    "ProcessGroup",
    "RayCluster",
    "full_batch",
    "init_distributed",
    "launched_by_torchrun",
    "named_noise",
    "seed_everything",
]
