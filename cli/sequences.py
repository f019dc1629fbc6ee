"""What the commands on a trained run share: opening it, their options, and writing results."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log, status
from .options import model_options
from .paths import PATH
from .user_code import load_user_code

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from zpyro.analysis.loading import LoadedRun
    from zpyro.analysis.table_forecasts import TableRun
    from zpyro.datasets.sequences import Sequences
    from zpyro.datasets.table_series import Table
    from zpyro.training.checkpoint import Checkpoint, DataSpec

OPTIONS = (
    click.option(
        "--split",
        default="test",
        show_default=True,
        type=click.Choice(["train", "valid", "test", "all"]),
        help="The split that holds the sequences.",
    ),
    click.option(
        "--data",
        type=PATH,
        help="Where the data are now.  [default: where they were at training]",
    ),
)


table_option = click.option(
    "--data",
    type=PATH,
    help="A CSV or Parquet file with the columns of the training.  [default: that of the training]",
)
"""The option of the commands on tables."""


def sequence_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --split and --data, and the options of every command on a model."""
    command = model_options(command)
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def read_table(tables: TableRun, data: Path | None) -> tuple[str, DataFrame, Table]:
    """As :meth:`zpyro.analysis.table_forecasts.TableRun.read`, with the notes of the table."""
    with status(f"reading {data or 'the table of the training'}"):
        label, frame, table = tables.read(data)
    for note in table.notes:
        log(f"note: {note}")
    return label, frame, table


def open_run(
    run: Path, *, which: str, device: str, guide_needed: bool = True, **code: Any
) -> LoadedRun:
    """Open a run as the options of :func:`~zpyro_cli.options.model_options` say.

    Raises:
        UserError: if it is not a run, has no such checkpoint, or its code may not be executed.
    """
    from zpyro.analysis.loading import load_run

    found = load_user_code(run, guide_needed=guide_needed, **code)
    return load_run(run, which, device, found.guide)


def load_split(loaded: LoadedRun, split: str, data: Path | None) -> Sequences:
    """Load a split of a run's data and report it."""
    from zpyro.distributed.processes import available_cores

    config = loaded.config
    folder = data or config.data_folder
    with status(f"loading {config.dataset}" + ("" if folder is None else f" from {folder}")):
        return loaded.split(split, data, workers=available_cores())


def make_folder(out: Path) -> Path:
    """Make the folder for results; logs what is there already, which stays but for equal names."""
    from zpyro.errors import pluralize
    from zpyro.io import files

    with files.translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        before = sum(1 for _ in out.iterdir())
    if before:
        log(f"note: {out} has {pluralize(before, 'file')} already; equal names are replaced")
    return out


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to an .npz file."""
    import numpy as np

    from zpyro.io import files

    with files.translate_os_errors(path):
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def sound_files(data: DataSpec, count: int, unit: str = "") -> str:
    """The sound files of sequences in words; logs how to install mido where it is missing.

    Args:
        data: what the sequences are.
        count: how many there are.
        unit: of files, "pair" or "" for single ones.
    """
    from zpyro.datasets.formats import midi
    from zpyro.errors import pluralize

    wav = f"{pluralize(count, unit)} of wav files" if unit else pluralize(count, "wav file")
    if data.steps_per_quarter is None:
        return wav
    if midi.is_installed():
        return f"{wav}, each with a MIDI file,"
    log('no MIDI files without mido; pip install "zpyro[music]"')
    return wav


def write_plot(
    plot: Callable[[Path], object], path: Path, tell: Callable[[str], object] = click.echo
) -> None:
    """Write a picture, or log how to install matplotlib; results do not depend on it."""
    if importlib.util.find_spec("matplotlib") is None:
        log('no picture without matplotlib; pip install "zpyro[plots]"')
        return
    plot(path)
    tell(f"picture in {path}")


def plot_rows(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path, checkpoint: Checkpoint
) -> None:
    """Plot rows of titled raw sequences."""
    from zpyro.analysis import plots

    data = checkpoint.data
    pixels = 0 if data.image_shape is None else data.image_shape[0] * data.image_shape[1]
    images = pixels > 0 and all(values.size == pixels for row in rows for _, values in row)

    def shaped(values: np.ndarray) -> np.ndarray:
        if data.sample_rate is not None:
            return values.reshape(-1)
        return values.reshape(data.image_shape) if images and data.image_shape else values

    titled = [[(title, shaped(values)) for title, values in row] for row in rows]
    write_plot(
        lambda to: plots.plot_side_by_side(
            titled, to, data.sample_rate, images=images, rolls=data.steps_per_quarter is not None
        ),
        path,
    )
