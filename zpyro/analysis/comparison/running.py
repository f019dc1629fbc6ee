"""Running a comparison: several trainings at once, each resumable."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zpyro.analysis.comparison.executors import Executor
from zpyro.analysis.comparison.jobs import LOG, STOPPED, ComparisonSpec, Job, prepare_jobs
from zpyro.analysis.comparison.summary import Summary, summarize
from zpyro.datasets.sequences import Dataset
from zpyro.distributed.processes import SINGLE_PROCESS, ProcessGroup
from zpyro.errors import pluralize
from zpyro.training.interruption import Interruption

POLL_SECONDS = 0.2


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
    backend: Executor,
    title: str,
    *,
    process_group: ProcessGroup = SINGLE_PROCESS,
    on_log: Callable[[str], object] | None = None,
) -> ComparisonResult:
    """Train and score the runs that have no result yet, and summarize all results.

    Args:
        spec: the settings.
        load_dataset: loads the data set, which determines the sizes of the models.
        backend: what executes the runs: :class:`LocalExecutor` or :class:`RayExecutor`.
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
    count = pluralize(len(jobs), "run")
    limit = f", {backend.at_once * process_group.world_size} at once" if backend.at_once else ""
    log(f"{count}, {left} to do{limit}; {spec.folder}")
    failed: list[Job] = []

    def on_end(job: Job, status: int) -> None:
        log(job.describe_end(status))
        if status != 0 and status not in STOPPED:
            failed.append(job)

    interrupted = run_jobs(
        spec,
        jobs[process_group.rank :: process_group.world_size],
        backend,
        on_start=lambda job, how: log(f"{job.name}: {how}; its log is {job.folder / LOG}"),
        on_end=on_end,
    )
    all_failed = tuple(job for part in process_group.gather(failed) for job in part)
    results: dict[str, dict[int, Mapping[str, Any]]] = {v.name: {} for v, _ in spec.variants}
    for job in jobs:
        if job.done:
            results[job.variant][job.seed] = job.result()
    summary = summarize(title, spec.scoring.particles, results, spec.unit)
    return ComparisonResult(summary, all_failed, interrupted)


def run_jobs(
    spec: ComparisonSpec,
    jobs: Sequence[Job],
    executor: Executor,
    *,
    on_start: Callable[[Job, str], object],
    on_end: Callable[[Job, int], object],
) -> signal.Signals | None:
    """Run the jobs that are not done.

    ``on_start`` receives each job that is submitted and what the executor did with it, ``on_end``
    each one that ends and its exit status.

    Returns:
        The signal that ended it early, with every run saved; or None.
    """
    pending = [job for job in jobs if not job.done]
    running: set[Job] = set()
    with Interruption() as interruption:
        while running or (pending and not interruption.signal):
            while pending and _has_room(executor, running) and not interruption.signal:
                job = pending.pop(0)
                how = executor.submit(spec, job)
                running.add(job)
                on_start(job, how)
            if interruption.signal:
                executor.cancel()
            for job, status in executor.wait(POLL_SECONDS):
                running.remove(job)
                on_end(job, status)
    return interruption.signal


def _has_room(executor: Executor, running: set[Job]) -> bool:
    return executor.at_once is None or len(running) < executor.at_once
