"""Running a comparison: several training processes at once, each resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zpyro.analysis.comparison.summary import Summary, summarize
from zpyro.analysis.comparison.variants import (
    Variant,
    count_parameters,
    match_parameters,
    variant_config,
    with_likelihood,
)
from zpyro.datasets.sequences import Dataset
from zpyro.distributed.processes import (
    ENVIRONMENT,
    SINGLE_PROCESS,
    ProcessGroup,
    available_cores,
)
from zpyro.errors import UserError, pluralize
from zpyro.io import files
from zpyro.nn.devices import choose_device
from zpyro.training import config, plugins, runs, user_files
from zpyro.training.config import Config
from zpyro.training.interruption import SIGNALS, Interruption

LOG, RESULT = "log.txt", "result.json"
POLL_SECONDS = 0.2
STOPPED = tuple(status for number in SIGNALS for status in (128 + number, -number))
"""Exit statuses of a run that a signal stopped, before or after it installed its handlers."""


@dataclass(frozen=True)
class ComparisonSpec:
    """The settings of a comparison.

    Attributes:
        folder: of the comparison; runs are in FOLDER/VARIANT/seed-N.
        variants: each with the settings it starts from.
        seeds: one run per seed and variant.
        match_parameters: give all variants the number of parameters of the largest.
        split: the split that is scored.
        particles: of the importance-weighted bound.
        plugins: files that every process imports.
    """

    folder: Path
    variants: tuple[tuple[Variant, Config], ...]
    seeds: tuple[int, ...]
    match_parameters: bool = True
    split: str = "test"
    particles: int = 25
    plugins: tuple[Path, ...] = ()


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
        at_once = at_once or len(devices) or max(1, cores // 2)
        return cls(at_once, max(1, cores // at_once), devices)

    def environment(self, slot: int) -> dict[str, str]:
        """The environment of the process in a slot, 0 to ``at_once`` - 1."""
        # Each run is a training of one process, even if torchrun started this one.
        inherited = {name: v for name, v in os.environ.items() if name not in ENVIRONMENT}
        variables = {"OMP_NUM_THREADS": str(self.threads), **inherited}
        if self.devices:
            variables["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return variables


@dataclass(frozen=True)
class Job:
    """One run of a comparison: the name of its variant, its seed and its directory."""

    variant: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant} seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether it was trained and scored."""
        return (self.folder / RESULT).exists()

    def result(self) -> dict[str, Any]:
        """Its scores.

        Raises:
            UserError: if the file is corrupt.
        """
        path = self.folder / RESULT
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); remove it and run the same command again"
            ) from error

    def describe_end(self, status: int) -> str:
        """A line on how its process ended, with an exit status."""
        if status == 0:
            result = self.result()
            kl = f", KL {result['kl']:,.1f}" if result["kl"] else ""
            steps = pluralize(result["steps"], "step")
            return f"{self.name}: bound {result['elbo']:,.1f}{kl}, {steps}"
        if status in STOPPED:
            return f"{self.name}: stopped and saved"
        return f"{self.name}: failed; see {self.folder / LOG}"


@dataclass(frozen=True)
class ComparisonResult:
    """How a comparison ended.

    Attributes:
        summary: of the runs that have a result.
        failed: runs whose process failed.
        interrupted: the signal that ended it early, with every run saved; or None.
    """

    summary: Summary
    failed: tuple[Job, ...]
    interrupted: signal.Signals | None


def compare(
    spec: ComparisonSpec,
    load_dataset: Callable[[], Dataset],
    resources: Resources,
    title: str,
    *,
    process_group: ProcessGroup = SINGLE_PROCESS,
    on_log: Callable[[str], object] | None = None,
) -> ComparisonResult:
    """Train and score the runs that have no result yet, and summarize all results.

    Args:
        spec: the settings.
        load_dataset: loads the data set, which determines the sizes of the models.
        resources: of the runs.
        title: of the summary.
        process_group: the processes that share the runs.
        on_log: receives lines of progress.

    Raises:
        UserError: if a run directory exists with other settings, or cannot be written.
    """
    log = on_log or (lambda _: None)
    with process_group.main_process_first():
        jobs = prepare_jobs(spec, load_dataset())
    left = sum(not job.done for job in jobs)
    at_once = resources.at_once * process_group.world_size
    count = f"{len(jobs)} run{'' if len(jobs) == 1 else 's'}"
    log(f"{count}, {left} to do, {at_once} at once; {spec.folder}")
    failed: list[Job] = []

    def on_end(job: Job, status: int) -> None:
        log(job.describe_end(status))
        if status != 0 and status not in STOPPED:
            failed.append(job)

    interrupted = run_jobs(
        spec,
        jobs[process_group.rank :: process_group.world_size],
        resources,
        on_start=lambda job: log(f"{job.name}: started; its log is {job.folder / LOG}"),
        on_end=on_end,
    )
    all_failed = tuple(job for part in process_group.gather(failed) for job in part)
    results: dict[str, dict[int, Mapping[str, Any]]] = {v.name: {} for v, _ in spec.variants}
    for job in jobs:
        if job.done:
            results[job.variant][job.seed] = job.result()
    summary = summarize(title, spec.particles, results)
    return ComparisonResult(summary, all_failed, interrupted)


def prepare_jobs(spec: ComparisonSpec, dataset: Dataset) -> list[Job]:
    """Make the run directories that do not exist yet.

    Returns:
        All runs, ordered by seed.

    Raises:
        UserError: if a run directory exists with other settings, or cannot be written.
    """
    configs = [
        (variant, with_likelihood(variant_config(settings, variant), dataset))
        for variant, settings in spec.variants
    ]
    if spec.match_parameters:
        largest = max(count_parameters(settings.model, dataset) for _, settings in configs)
        configs = [
            (variant, replace(each, model=match_parameters(each.model, dataset, largest)))
            for variant, each in configs
        ]
    jobs: list[Job] = []
    for seed in spec.seeds:
        for variant, settings in configs:
            wanted = replace(settings, train=replace(settings.train, seed=seed))
            folder = spec.folder / variant.name / f"seed-{seed}"
            if not (folder / runs.CONFIG).exists():
                runs.create(folder, wanted)
                plugins.keep(folder, [user_files.read(path, "--plugin") for path in spec.plugins])
            elif config.write_config(runs.open_run(folder).config()) != config.write_config(wanted):
                raise UserError(
                    f"{folder}: was started with other settings; choose another --out, or use the "
                    "same settings to continue"
                )
            jobs.append(Job(variant.name, seed, folder))
    return jobs


def run_jobs(
    spec: ComparisonSpec,
    jobs: Sequence[Job],
    resources: Resources,
    *,
    on_start: Callable[[Job], object],
    on_end: Callable[[Job, int], object],
) -> signal.Signals | None:
    """Run the jobs that are not done.

    ``on_start`` receives each job that starts, ``on_end`` each one that ends and its exit status.

    Returns:
        The signal that ended it early, with every run saved; or None.
    """
    pending = [job for job in jobs if not job.done]
    running: dict[Job, tuple[int, subprocess.Popen[bytes]]] = {}
    with Interruption() as interruption:
        while running or (pending and not interruption.signal):
            while pending and len(running) < resources.at_once and not interruption.signal:
                job = pending.pop(0)
                slot = min(set(range(resources.at_once)) - {used for used, _ in running.values()})
                running[job] = slot, _start(spec, job, resources.environment(slot))
                on_start(job)
            if interruption.signal:
                for _, process in running.values():
                    process.send_signal(signal.SIGTERM)
                for _, process in running.values():
                    process.wait()
            for job, (_, process) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[job]
                    on_end(job, status)
            time.sleep(POLL_SECONDS)
    return interruption.signal


def _start(spec: ComparisonSpec, job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zpyro.analysis.comparison.worker"]
    # Absolute, so that no name begins with a dash.
    command += [str(job.folder.absolute())]
    command += ["--split", spec.split, "--particles", str(spec.particles)]
    command += [text for path in spec.plugins for text in ("--plugin", str(path))]
    with files.translate_os_errors(job.folder), (job.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
