"""What the commands on single sequences share: their options, finding them, writing results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import load_data, log
from .guides import use_guide
from .options import model_options

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.sequences import Sequences
    from zpyro.training.checkpoint import Checkpoint
    from zpyro.training.runs import Run

OPTIONS = (
    click.option(
        "--split",
        default="test",
        show_default=True,
        type=click.Choice(["train", "valid", "test", "all"]),
        help="Where the sequences are looked for.",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Where the data are now.  [default: where they were at training]",
    ),
)


def sequence_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--split and --data, and those of every command on a model."""
    command = model_options(command)
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class LoadedRun:
    """A run's model with the split that is asked for.

    Attributes:
        run: the run directory.
        checkpoint: its model.
        split: name of the split.
        data: where the data are now, or None.
    """

    run: Run
    checkpoint: Checkpoint
    split: str
    data: Path | None

    def sequences(self) -> Sequences:
        """The split, on the scale of the model.

        Raises:
            UserError: if it is empty, or of other data than the model's.
        """
        from zpyro.analysis import selection as choosing
        from zpyro.errors import UserError

        config = self.run.config()
        if self.data is not None:
            config = replace(config, data_folder=str(self.data.absolute()))
        loaded = load_data(config, self.checkpoint.vocabulary)
        split = loaded.split(self.split)
        if len(split) == 0:
            raise UserError(f"the {self.split} split is empty; choose another")
        return choosing.renormalize_like(self.checkpoint, split)


def opened(
    run: Path,
    which: str,
    device: str,
    split: str,
    data: Path | None,
    guide: str | None,
    run_guide: bool,
) -> LoadedRun:
    """A run whose model has latents.

    Raises:
        UserError: if it has no checkpoint yet, its model no latents, or its guide may not be run.
    """
    from zpyro.analysis.decoding import check_has_latents
    from zpyro.training import runs
    from zpyro.training.building import choose_device

    found = runs.open_run(run)
    use_guide(run, guide, run_guide)
    checkpoint = found.load(which, choose_device(device))
    check_has_latents(checkpoint.module)
    return LoadedRun(found, checkpoint, split, data)


def make_folder(out: Path) -> Path:
    """The folder for results, made if it is not there."""
    from zpyro.io import files

    with files.translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return out


def write_sound(path: Path, frames: np.ndarray, checkpoint: Checkpoint) -> None:
    """Raw frames as a wav file."""
    from zpyro.datasets.formats import audio
    from zpyro.io import files

    assert checkpoint.data.sample_rate is not None
    with files.translate_os_errors(path):
        path.touch()
    audio.write_wav(path, frames.reshape(-1), checkpoint.data.sample_rate)


def write_picture(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path, checkpoint: Checkpoint
) -> None:
    """Titled raw sequences in rows; says so where matplotlib is missing."""
    import importlib.util

    from zpyro.analysis import plots

    if importlib.util.find_spec("matplotlib") is None:
        log('no picture without matplotlib; pip install "zpyro[plots]"')
        return
    data = checkpoint.data
    whole = 0 if data.image_shape is None else data.image_shape[0] * data.image_shape[1]
    images = whole > 0 and all(values.size == whole for row in rows for _, values in row)

    def shown(values: np.ndarray) -> np.ndarray:
        if data.sample_rate is not None:
            return values.reshape(-1)
        return values.reshape(data.image_shape) if images and data.image_shape else values

    titled = [[(title, shown(values)) for title, values in row] for row in rows]
    plots.plot_side_by_side(titled, path, data.sample_rate, images=images)
    click.echo(f"picture in {path}")
