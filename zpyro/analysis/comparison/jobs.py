"""The runs of a comparison: their settings, directories and results."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zpyro.analysis.comparison.variants import (
    Variant,
    count_parameters,
    match_parameters,
    variant_config,
    with_likelihood,
)
from zpyro.datasets.sequences import Dataset
from zpyro.errors import UserError, pluralize
from zpyro.settings import plain
from zpyro.training import config, plugins, runs
from zpyro.training.config import Config
from zpyro.training.interruption import SIGNALS

LOG, RESULT = "log.txt", "result.json"
STOPPED = tuple(status for number in SIGNALS for status in (128 + number, -number))
"""Exit statuses of a run that a signal stopped, before or after it installed its handlers."""


@dataclass(frozen=True)
class Scoring:
    """How the best weights of a run are scored.

    Attributes:
        split: of the data.
        particles: of the bounds with several particles.
        bounds: which ones are computed beside the ELBO, "iwae" and "smc".
    """

    split: str = "test"
    particles: int = 25
    bounds: tuple[str, ...] = ("iwae",)


@dataclass(frozen=True)
class ComparisonSpec:
    """The settings of a comparison.

    Attributes:
        folder: of the comparison; runs are in FOLDER/VARIANT/seed-N.
        variants: each with the settings it starts from.
        seeds: one run per seed and variant.
        match_parameters: give all variants the number of parameters of the largest.
        scoring: how each run is scored.
        unit: of the table's bounds, "sequence" or "frame".
        plugins: files that every process imports.
    """

    folder: Path
    variants: tuple[tuple[Variant, Config], ...]
    seeds: tuple[int, ...]
    match_parameters: bool = True
    scoring: Scoring = Scoring()
    unit: str = "sequence"
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        variant: its name.
        seed: of the training.
        folder: the run directory.
        scoring: how the run is scored.
    """

    variant: str
    seed: int
    folder: Path
    scoring: Scoring = Scoring()

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant} seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether it was trained, and scored in this way."""
        if not (self.folder / RESULT).exists():
            return False
        return self.result().get("scoring") == plain(self.scoring)

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
                plugins.keep(folder, plugins.read(spec.plugins))
            elif config.write_config(runs.open_run(folder).config()) != config.write_config(wanted):
                raise UserError(
                    f"{folder}: was started with other settings; choose another --out, or use the "
                    "same settings to continue"
                )
            jobs.append(Job(variant.name, seed, folder, spec.scoring))
    return jobs
