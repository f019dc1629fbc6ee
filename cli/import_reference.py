"""``zpyro import-reference``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log
from .paths import PATH

if TYPE_CHECKING:
    from zpyro.models import ZForcing


@click.command("import-reference")
@click.argument("old", type=PATH)
@click.argument("run", type=PATH)
@click.option(
    "--dataset",
    default="npz",
    show_default=True,
    help="The data set to use it on; npz takes arrays as they are.",
)
@click.option("--mean", default=0.0, show_default=True, help="Frames are (raw - mean) / scale.")
@click.option("--scale", default=1.0, show_default=True, help="See --mean.")
@click.option("--sample-rate", type=click.IntRange(min=1), help="For sound: samples per second.")
def command(
    old: Path, run: Path, dataset: str, mean: float, scale: float, sample_rate: int | None
) -> None:
    """Make a run directory RUN from OLD, a file saved by the published PyTorch code.

    The file does not hold the normalization of its frames; give it with --mean and --scale.

    \b
    Example:
      zpyro import-reference model_best.pt runs/published --dataset wav --sample-rate 16000
    """
    from zpyro import datasets
    from zpyro.errors import UserError
    from zpyro.training import checkpoint, config, runs
    from zpyro.training.checkpoint import Checkpoint, DataSpec

    if not scale > 0:
        raise UserError(f"--scale is {scale}; give a number above 0")
    entry = datasets.entry(dataset)
    runs.check_free(run)
    state, module = _convert(old)
    model = _model_config(state, module.likelihood.name)
    tokens = module.likelihood.discrete_tokens
    data_type = "tokens" if tokens else "audio" if sample_rate else "frames"
    kept = Checkpoint(module, model, DataSpec(dataset, data_type, sample_rate, mean, scale))
    known = config.known_fields(entry.settings)
    found = {"data.sample_rate": sample_rate, "data.frame_size": module.likelihood.size}
    options = {key: value for key, value in found.items() if key in known and value is not None}
    settled = replace(config.resolve(dataset, entry.settings, options=options), model=model)
    made = runs.create(run, settled)
    checkpoint.save(made.best, kept)
    checkpoint.save(made.last, kept)
    log(f"{run}: {sum(p.numel() for p in module.parameters()):,} weights imported")


def _convert(path: Path) -> tuple[dict[str, Any], ZForcing]:
    """The dictionary in a file of the published code, and the model made from it."""
    from zpyro.errors import UserError
    from zpyro.io import torch_files
    from zpyro.models import interop

    state = torch_files.read(path)
    if not isinstance(state, dict):
        raise UserError(
            f"{path}: does not hold a dictionary, as the published code saves it; choose another "
            "file"
        )
    try:
        return state, interop.from_reference(state).eval()
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('reference checkpoint: ')}") from error


def _model_config(state: dict[str, Any], likelihood: str) -> Any:
    from zpyro.models import model_config
    from zpyro.models.interop import reference_settings

    return model_config(
        likelihood=likelihood,
        hidden_size=state["rnn_dim"],
        latent_size=state["z_dim"],
        embedding_size=state["emb_dim"],
        mlp_size=state["mlp_dim"],
        backward_layers=state["nlayers"],
        log_variance_bounds=None,
        **reference_settings(state),
    )
