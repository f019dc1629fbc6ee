"""The run directory of an easy-to-hard training::

settings.json    task, preset with every value, solver, depth, seed and data
metrics.jsonl    one record a line: {"kind": "train", ...}, then {"kind": "valid", ...}, and
                 {"kind": "failures", ...} if the preset has most_epochs
rule.json        the number of iterations that validation chose
last/            the checkpoint: model.safetensors, average.safetensors, state.pt, meta.json
last.previous/   the checkpoint before it
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from zpyro import settings as typed
from zpyro.errors import UserError
from zpyro.io import files, manifest, tensor_files
from zpyro.io.locking import LOCK, locked
from zpyro.training.checkpoint import MODEL
from zpyro.training.runs import EXAMPLE_SETTINGS as SETTINGS
from zpyro.training.runs import Run, check_run

from .sweep import Rule
from .tasks import Preset, Request

FIXED = (
    *("task", "solver", "depth", "seed"),
    *("width", "blocks", "iterations", "state_bound"),
    *("train_size", "train_count", "optimizer", "options"),
)
"""Settings that a resumed training cannot change."""
RULE = "rule.json"
AVERAGE = "average.safetensors"
RENAMED = {"linger": "extra_iterations"}
"""Settings of a preset under the names in older runs."""
OLD_PREFIX, PREFIX = "thinker.", "recurrent."
"""The first part of a parameter's name in older runs, and now."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        task: its name.
        preset_name: name of the preset, for the record.
        preset: all its values.
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

    def request(self, split: str, size: int, count: int) -> Request:
        """The request for problems of this run."""
        source = None if self.source is None else Path(self.source)
        return Request(split, size, count, self.seed, source, self.preset.options)

    def with_epochs(self, epochs: int, *, at_most: bool = False) -> Settings:
        """These settings with another number of passes; ``at_most`` lets failures add none."""
        preset = replace(self.preset, epochs=epochs)
        if at_most and preset.most_epochs is not None:
            preset = replace(preset, most_epochs=epochs)
        return replace(self, preset=preset)

    def with_data(self, data: Path | None, skip_bad: bool) -> Settings:
        """These settings with other data, and bad rows of the data left out if asked for."""
        preset, source = self.preset, self.source if data is None else str(data)
        if skip_bad:
            preset = replace(preset, options={**preset.options, "skip_bad": True})
        return replace(self, preset=preset, source=source)


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


class RunFolder:
    """The files of a run.

    Args:
        folder: the run directory.

    Example::

        run = RunFolder.open(Path("runs/mazes"))
        run.load_weights(solver, averaged=True)
        iterations = run.rule().iterations(task, 59)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder)

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            UserError: if the folder is not empty or cannot be written.
        """
        with files.translate_os_errors(folder):
            if folder.is_file():
                raise UserError(f"{folder}: is not a directory; choose another --out")
            folder.mkdir(parents=True, exist_ok=True)
            if any(path.name != LOCK for path in folder.iterdir()):
                raise UserError(f"{folder}: is not empty; choose another --out, or --resume it")
        created = cls(folder)
        with locked(folder):
            created.write_settings(settings)
        return created

    @classmethod
    def open(cls, folder: Path) -> RunFolder:
        """The folder of an existing run.

        Raises:
            UserError: if it is not a run directory.
        """
        check_run(folder, SETTINGS)
        return cls(folder)

    @property
    def resume_command(self) -> str:
        """The command that continues the training."""
        quoted = shlex.quote(str(self.folder))
        return f"zpyro example {self.settings().task} train --resume {quoted}"

    def settings(self) -> Settings:
        """The settings of the run.

        Raises:
            UserError: if the file is damaged.
        """
        values, source = self._read_json(SETTINGS), str(self.folder / SETTINGS)
        try:
            preset = dict(values.pop("preset"))
            for old, new in RENAMED.items():
                if old in preset:
                    preset[new] = preset.pop(old)
            options = dict(preset.pop("options", {}))
            built = dataclasses.replace(typed.build(Preset, preset, source), options=options)
            known = typed.fields_of(Settings, "")
            checked = {name: known[name].convert(value, source) for name, value in values.items()}
            return Settings(preset=built, **checked)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{source}: is damaged ({error})") from error

    def write_settings(self, settings: Settings) -> None:
        """Write the settings of the run."""
        text = json.dumps(dataclasses.asdict(settings), indent=2)
        files.replace_file(self.folder / SETTINGS, text + "\n")

    def check_resumable(self, settings: Settings) -> None:
        """Compare the settings that the weights depend on with those of the last checkpoint.

        Raises:
            UserError: naming the first that was changed since.
        """
        meta = manifest.read(self._checkpoint())
        if "settings" not in meta:
            return  # an earlier version wrote it
        recorded, now = meta["settings"], plain(settings)
        for name in FIXED:
            part = "preset" if name in recorded["preset"] else None
            before, after = (each[part][name] if part else each[name] for each in (recorded, now))
            if before != after:
                raise UserError(
                    f"{self.folder / SETTINGS}: {name} is {typed.shown(after)}, but the checkpoint "
                    f"was trained with {typed.shown(before)}; set it back, or start a new training"
                )

    def write_rule(self, rule: Rule) -> None:
        """Write the rule that validation chose."""
        text = json.dumps(dataclasses.asdict(rule), indent=2)
        files.replace_file(self.folder / RULE, text + "\n")

    def remove_rule(self) -> None:
        """Remove the rule, as that of other weights; without one the training is not finished."""
        (self.folder / RULE).unlink(missing_ok=True)

    def rule(self) -> Rule:
        """The rule that validation chose.

        Raises:
            UserError: if the training has not finished.
        """
        if not (self.folder / RULE).is_file():
            raise UserError(
                f"{self.folder}: training did not finish; continue with {self.resume_command}"
            )
        values = self._read_json(RULE)
        try:
            return Rule(**values)
        except TypeError as error:
            raise UserError(f"{self.folder / RULE}: is damaged ({error})") from error

    def recover(self) -> str | None:
        """Prepare the newest undamaged checkpoint for resuming.

        Returns:
            A line that names a damaged file, or None.

        Raises:
            UserError: if there is no such checkpoint, or an earlier version wrote it.
        """
        last = self._checkpoint()
        previous = self.run.last.with_name(self.run.last.name + files.PREVIOUS)
        if not (last / manifest.META).is_file() and not previous.exists():
            raise UserError(
                f"{last}: has no {manifest.META}, an earlier version wrote it or it is damaged; "
                "start a new training (test and show can still read it)"
            )
        return self.run.recover()

    def load_weights(self, module: nn.Module, *, averaged: bool) -> None:
        """Copy the checkpoint's weights into a module.

        Args:
            module: the solver.
            averaged: take the averaged weights if the checkpoint has them.

        Raises:
            UserError: if there is no checkpoint, or it is damaged.
        """
        folder = self._checkpoint()
        path = folder / AVERAGE if averaged and (folder / AVERAGE).exists() else folder / MODEL
        expected = dict(module.named_parameters())
        names = {name: name for name in expected}
        if (folder / manifest.META).exists():
            manifest.check(path, manifest.read(folder))
        elif _has_old_names(path):
            names = {name: name.replace(PREFIX, OLD_PREFIX, 1) for name in expected}
        found = tensor_files.read(path, {names[name]: value for name, value in expected.items()})
        with torch.no_grad():
            for name, parameter in expected.items():
                parameter.copy_(found[names[name]])

    def _checkpoint(self) -> Path:
        if not self.run.has("last"):
            raise UserError(
                f"{self.folder}: has no checkpoint yet; train on with {self.resume_command}"
            )
        return files.complete_folder(self.run.last)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: is damaged ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: is damaged (it holds no table)")
        return values


def _has_old_names(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return any(name.startswith(OLD_PREFIX) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # reading the tensors reports the error
