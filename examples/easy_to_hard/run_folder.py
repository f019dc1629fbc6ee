"""A run's folder: ``settings.json``, ``metrics.jsonl``, ``rule.json`` and the checkpoint ``last``.

A checkpoint holds the weights (safetensors), the averaged weights, and what training needs to go
on as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zpyro.errors import UserError
from zpyro.io import files, tensor_files, torch_files

from .sweep import Rule
from .tasks import Preset

SETTINGS, METRICS, RULE, LAST = "settings.json", "metrics.jsonl", "rule.json", "last"
RENAMED = {"linger": "extra_iterations"}
"""Settings of a preset under the names that runs once recorded."""
WEIGHTS, AVERAGE, STATE = "model.safetensors", "average.safetensors", "state.pt"


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    Attributes:
        task: its name.
        preset_name: name of the preset, for the record.
        preset: every value of it.
        solver: see :data:`zpyro_examples.easy_to_hard.building.SOLVERS`.
        depth: "fixed" or "latent".
        seed: of weights, order and data.
        source: the file or folder that the user named, or None.
    """

    task: str
    preset_name: str
    preset: Preset
    solver: str = "recall"
    depth: str = "fixed"
    seed: int = 0
    source: str | None = None


class RunFolder:
    """Reads and writes the files of a run.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            UserError: if the place is taken or cannot be written.
        """
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"{folder}: is not empty; choose another --out, or --resume it")
        with files.translate_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(settings), indent=2)
        files.replace_file(folder / SETTINGS, text + "\n")
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> RunFolder:
        """The folder of a run that is there.

        Raises:
            UserError: if it is none.
        """
        if not (folder / SETTINGS).is_file():
            raise UserError(
                f"{folder}: is not a run directory ({SETTINGS} is missing); choose another"
            )
        return cls(folder)

    def settings(self) -> Settings:
        """What the run was asked for.

        Raises:
            UserError: if the file was damaged.
        """
        values = self._read_json(SETTINGS)
        try:
            preset = dict(values.pop("preset"))
            for old, new in RENAMED.items():
                if old in preset:
                    preset[new] = preset.pop(old)
            for name in ("milestones", "valid_sizes", "test_sizes"):
                preset[name] = tuple(preset[name])
            return Settings(preset=Preset(**preset), **values)
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / SETTINGS}: is damaged ({error})") from error

    def log(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        with files.translate_os_errors(self.folder), (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_rule(self, rule: Rule) -> None:
        """Keep the rule that validation chose."""
        text = json.dumps(dataclasses.asdict(rule), indent=2)
        files.replace_file(self.folder / RULE, text + "\n")

    def rule(self) -> Rule:
        """The rule that validation chose.

        Raises:
            UserError: if the training has not come so far.
        """
        if not (self.folder / RULE).is_file():
            raise UserError(f"{self.folder}: training did not finish; continue with train --resume")
        values = self._read_json(RULE)
        try:
            return Rule(**values)
        except TypeError as error:
            raise UserError(f"{self.folder / RULE}: is damaged ({error})") from error

    # -- checkpoints ------------------------------------------------------------------------------

    def save(
        self, module: nn.Module, average: dict[str, torch.Tensor], state: dict[str, Any]
    ) -> None:
        """Replace the checkpoint; at every instant a whole one is there."""

        def fill(folder: Path) -> None:
            tensor_files.write(folder / WEIGHTS, dict(module.named_parameters()))
            if average:
                tensor_files.write(folder / AVERAGE, average)
            torch_files.write(folder / STATE, state)

        files.replace_folder(self.folder / LAST, fill, keep_previous=False)

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint."""
        return files.complete_folder(self.folder / LAST).is_dir()

    def load_weights(self, module: nn.Module, *, averaged: bool) -> None:
        """Put the checkpoint's weights into a module, the averaged ones where asked for and there.

        Raises:
            UserError: if there is not a checkpoint, or it was damaged.
        """
        if not self.started:
            raise UserError(f"{self.folder}: has no checkpoint yet; train it first")
        folder = files.complete_folder(self.folder / LAST)
        path = folder / AVERAGE if averaged and (folder / AVERAGE).exists() else folder / WEIGHTS
        found = tensor_files.read(path, dict(module.named_parameters()))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(found[name])

    def load_state(self, module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What :meth:`save` was given besides the weights.

        Raises:
            UserError: if it is missing or damaged.
        """
        folder = files.complete_folder(self.folder / LAST)
        average = {}
        if (folder / AVERAGE).exists():
            average = tensor_files.read(folder / AVERAGE, dict(module.named_parameters()))
        return average, torch_files.read(folder / STATE)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: is damaged ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: is damaged (no table)")
        return values
