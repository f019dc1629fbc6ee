"""Where the runs of a comparison are executed: processes of this machine, or tasks of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent import futures
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Protocol

import torch

from zpyro.analysis.comparison.jobs import LOG, ComparisonSpec, Job
from zpyro.distributed.processes import (
    ENVIRONMENT,
    SINGLE_PROCESS,
    ProcessGroup,
    available_cores,
)
from zpyro.distributed.ray_cluster import RayCluster
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.nn.devices import choose_device
from zpyro.training import plugins

CORES = 2
"""Of a run, where nothing else is set."""


class Executor(Protocol):
    """Executes runs, each in a process of its own.

    Attributes:
        at_once: number of runs at a time; None where the executor queues them itself.
    """

    at_once: int | None

    def submit(self, spec: ComparisonSpec, job: Job) -> str:
        """Execute a run; returns what happened to it: "started" or "submitted"."""
        ...

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """The runs that ended, with their exit statuses; waits so many seconds at most."""
        ...

    def cancel(self) -> None:
        """Stop all runs, and wait until they are saved; :meth:`wait` returns them."""
        ...


@dataclass(frozen=True)
class Resources:
    """The resources of the runs.

    Attributes:
        at_once: number of processes at a time.
        threads: of each process, unless OMP_NUM_THREADS is set.
        devices: values of CUDA_VISIBLE_DEVICES, used in turn; empty to leave it unchanged.
    """

    at_once: int
    threads: int
    devices: tuple[str, ...] = ()

    @classmethod
    def detect(
        cls, at_once: int | None, device: str, process_group: ProcessGroup = SINGLE_PROCESS
    ) -> Resources:
        """The resources of this machine: a CUDA GPU per run, or two cores.

        A device with an index, such as "cuda:1", and other accelerators take one run at a time.
        With several processes, each runs one at a time, on a separate GPU if there are any.

        Args:
            at_once: number of processes at a time, or None to choose.
            device: "auto", or a device of torch such as "cpu" or "cuda:1".
            process_group: the processes that share the runs.
        """
        cores = available_cores()
        devices: tuple[str, ...] = ()
        chosen = choose_device(device)
        if chosen.type != "cpu" and (chosen.type != "cuda" or ":" in device):
            at_once = at_once or 1
        elif chosen.type == "cuda":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            count = torch.cuda.device_count()
            devices = tuple(visible.split(",") if visible else map(str, range(count)))
        if process_group.world_size > 1:
            devices = devices[process_group.local % len(devices) :][:1] if devices else ()
            at_once = at_once or 1
            return cls(at_once, max(1, cores // (at_once * process_group.world_size)), devices)
        at_once = at_once or len(devices) or max(1, cores // CORES)
        return cls(at_once, max(1, cores // at_once), devices)

    def environment(self, slot: int) -> dict[str, str]:
        """The environment of the process in a slot, 0 to ``at_once`` - 1."""
        # Each run is a training of one process, even if torchrun started this one.
        inherited = {name: v for name, v in os.environ.items() if name not in ENVIRONMENT}
        variables = {"OMP_NUM_THREADS": str(self.threads), **inherited}
        if self.devices:
            variables["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return variables


class LocalExecutor:
    """Processes of this machine.

    Args:
        resources: of the runs.
    """

    def __init__(self, resources: Resources) -> None:
        self.at_once: int | None = resources.at_once
        self._resources = resources
        self._running: dict[Job, tuple[int, subprocess.Popen[bytes]]] = {}

    def submit(self, spec: ComparisonSpec, job: Job) -> str:
        """Start a process."""
        used = {slot for slot, _ in self._running.values()}
        slot = min(set(range(self._resources.at_once)) - used)
        command = [sys.executable, "-m", "zpyro.analysis.comparison.worker"]
        # Absolute, so that no name begins with a dash.
        command += [str(job.folder.absolute())]
        scoring = spec.scoring
        command += ["--split", scoring.split, "--particles", str(scoring.particles)]
        command += [text for bound in scoring.bounds for text in ("--bound", bound)]
        command += [text for path in spec.plugins for text in ("--plugin", str(path))]
        with files.translate_os_errors(job.folder), (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._resources.environment(slot),
                start_new_session=True,
            )
        self._running[job] = slot, process
        return "started"

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """Look at all processes after the given time."""
        time.sleep(seconds)
        polled = [(job, process.poll()) for job, (_, process) in self._running.items()]
        ended = [(job, status) for job, status in polled if status is not None]
        for job, _ in ended:
            del self._running[job]
        return ended

    def cancel(self) -> None:
        """Send SIGTERM to all."""
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in self._running.values():
            process.wait()


class RayExecutor:
    """Tasks of a Ray cluster, which distributes them over its machines and starts lost ones again.

    Every machine needs zpyro, the data set and the folder of the comparison under the same names.

    Args:
        cluster: a connected cluster.
        at_once: number of runs at a time, or None for as many as there is room for.
        device: "cpu", "auto" for a GPU per run if the cluster has any, or the type of a device.

    Raises:
        UserError: if the device has an index, or the cluster has no GPU for it.
    """

    def __init__(
        self, cluster: RayCluster, at_once: int | None = None, device: str = "auto"
    ) -> None:
        kind, _, index = device.partition(":")
        if index:
            raise UserError(
                f"device is {device}, but Ray gives each run a device; give {kind} without an index"
            )
        has_gpus = any(machine.get("GPU", 0) >= 1 for machine in cluster.machines)
        if kind not in ("auto", "cpu") and not has_gpus:
            raise UserError(f"device is {device}, but the Ray cluster has no GPU; give cpu")
        largest = max(int(machine.get("CPU", 0)) for machine in cluster.machines)
        threads = os.environ.get("OMP_NUM_THREADS", str(min(CORES, max(1, largest))))
        self.at_once = at_once
        self._tasks = cluster.executor(
            cpus=min(int(threads), largest),
            gpus=int(has_gpus and kind != "cpu"),
            environment={"OMP_NUM_THREADS": threads},
            new_processes=True,
        )
        self._running: dict[Future[int], Job] = {}

    def submit(self, spec: ComparisonSpec, job: Job) -> str:
        """Submit a task; it carries the text of the plugins."""
        # Imported here, because Python warns of a program that its own package has imported.
        from zpyro.analysis.comparison import worker

        plugin_files = plugins.read(spec.plugins)
        folder = job.folder.absolute()
        future = self._tasks.submit(worker.run_as_task, folder, spec.scoring, plugin_files)
        self._running[future] = job
        return "submitted"

    def wait(self, seconds: float) -> list[tuple[Job, int]]:
        """Wait for the first task that ends.

        Raises:
            UserError: if a machine does not see the run directory.
        """
        done, _ = futures.wait(self._running, seconds, futures.FIRST_COMPLETED)
        return [(self._running.pop(future), _exit_status(future)) for future in done]

    def cancel(self) -> None:
        """Interrupt all tasks."""
        self._tasks.shutdown(cancel_futures=True)


def _exit_status(future: Future[int]) -> int:
    try:
        return future.result()
    except CancelledError:
        return -signal.SIGINT
