"""``zpyro import-reference``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log

if TYPE_CHECKING:
    from zpyro.models import ZForcing


@click.command("import-reference")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--dataset",
    default="npz",
    show_default=True,
    help="The data set it will be used on; npz takes arrays as they are.",
)
@click.option("--mean", default=0.0, show_default=True, help="Frames are (raw - mean) / scale.")
@click.option("--scale", default=1.0, show_default=True, help="See --mean.")
@click.option("--sample-rate", type=click.IntRange(min=1), help="For sound: samples a second.")
def command(
    old: Path, run: Path, dataset: str, mean: float, scale: float, sample_rate: int | None
) -> None:
    """Make a run directory RUN from OLD, a file saved by the published PyTorch code.

    The file does not say what its frames were divided by; --mean and --scale do.

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
    state, module = _converted(old)
    model = _model_config(state, module.likelihood.name)
    tokens = module.likelihood.discrete_tokens
    kind = "tokens" if tokens else "audio" if sample_rate else "frames"
    kept = Checkpoint(module, model, DataSpec(dataset, kind, sample_rate, mean, scale))
    facts = {"data.sample_rate": sample_rate, "data.frame_size": module.likelihood.size}
    known = config.known_fields(entry.settings)
    options = {key: value for key, value in facts.items() if key in known and value is not None}
    settled = replace(config.resolve(dataset, entry.settings, options=options), model=model)
    made = runs.create(run, settled)
    checkpoint.save(made.best, kept)
    checkpoint.save(made.last, kept)
    log(f"{run}: {sum(p.numel() for p in module.parameters()):,} weights imported")


def _converted(path: Path) -> tuple[dict[str, Any], ZForcing]:
    """The dictionary of a file of the published code, and the model that it makes."""
    from zpyro.errors import UserError
    from zpyro.io import torch_files
    from zpyro.models import interop

    state = torch_files.read(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no dictionary, as the published code saves it")
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
