"""Models on the Hugging Face Hub (``pip install "zpyro[huggingface]"``), and their cards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zpyro.errors import UserError
from zpyro.io.manifest import META
from zpyro.io.paths import user_path
from zpyro.models.saving import CARD, MODEL
from zpyro.models.steps import StepwiseModel
from zpyro.version import __version__

FILES = (MODEL, META, CARD)
INSTALL = 'models of the Hugging Face Hub need huggingface_hub; pip install "zpyro[huggingface]"'
_BOUNDS = (("elbo", "ELBO"), ("iwae", "IWAE"), ("smc", "particle filter"))
"""Attributes of evaluations that hold a bound, and what a card calls them."""


def local_folder(name_or_folder: str | Path, revision: str | None, local_files_only: bool) -> Path:
    """A folder as it is, or that of a repository after a download.

    Raises:
        UserError: if it is neither, or huggingface_hub is not installed.
    """
    folder = user_path(name_or_folder)
    if folder.is_dir():
        return folder
    name = str(name_or_folder)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: is not a directory; give a saved model, or USER/MODEL")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(INSTALL) from error
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(FILES),
            local_files_only=local_files_only,
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UserError(
            f"{name}: is no directory here, and cannot be downloaded "
            f"({_first_line(error)}); check the name and the network"
        ) from error
    return Path(found)


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder to a repository, which is made if it is not there; returns the address.

    Raises:
        UserError: if that fails, or huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(INSTALL) from error
    try:
        huggingface_hub.create_repo(name, private=private, exist_ok=True)
        return str(huggingface_hub.upload_folder(repo_id=name, folder_path=folder))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UserError(
            f"{name}: cannot be uploaded ({_first_line(error)}); check the name, log in with "
            "hf auth login, and check the network"
        ) from error


def model_card(model: StepwiseModel, evaluations: Iterable[Any]) -> str:
    """The text of README.md: only numbers that are known.

    Args:
        model: its class, sizes and metadata.
        evaluations: results of :mod:`zpyro.evaluation`.
    """
    cls, metadata = type(model), model.metadata
    data = metadata.get("data", {})
    lines = [
        "---",
        "library_name: zpyro",
        "tags: [zpyro, pyro, time-series, variational-inference]",
        "---",
        "",
        f"# {cls.__name__}" + (f" of {data['name']}" if data.get("name") else ""),
        "",
        f"A sequence model of zpyro {__version__} with a latent variable at every time step.",
        "",
        "```python",
        "import zpyro",
        "",
        'model = zpyro.SequenceModel.from_pretrained("FOLDER_OR_REPOSITORY")',
        "```",
        "",
        *_table("Model", _model_rows(model)),
        *_table("Data", _data_rows(metadata)),
        *_table("Training", _plain_rows(metadata.get("training", {}))),
        *_table("Evaluation", _evaluation_rows(evaluations)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    found = list(rows)
    if found:
        yield from (f"## {title}", "", "| | |", "|---|---|")
        yield from (f"| {name} | {value} |" for name, value in found)
        yield ""


def _model_rows(model: StepwiseModel) -> Iterator[tuple[str, str]]:
    yield "class", f"`{type(model).__module__}.{type(model).__qualname__}`"
    yield "weights", f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    yield from _plain_rows(model.constructor_arguments | {"likelihood": f"`{model.likelihood}`"})


def _data_rows(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _plain_rows(metadata.get("data", {}))
    for split, count in metadata.get("sequences", {}).items():
        yield f"sequences, {split}", f"{count:,}"
    if metadata.get("fingerprint"):
        yield "sha256 of training and validation data", f"`{metadata['fingerprint']}`"


def _evaluation_rows(evaluations: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for found in evaluations:
        for attribute, label in _BOUNDS:
            if not hasattr(found, attribute):
                continue
            error = getattr(found, "elbo_stderr" if attribute == "elbo" else "stderr")
            with_error = "" if math.isnan(error) else f" ± {error:.2f}"
            particles = getattr(found, "particles", None)
            label += f" with {particles} particles" if particles else ""
            yield f"{label}, nats per sequence", f"{getattr(found, attribute):.2f}{with_error}"
        if hasattr(found, "kl"):
            yield "KL, nats per sequence", f"{found.kl:.2f}"
        yield "sequences evaluated", f"{len(found.names):,}"


def _plain_rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value not in (None, "none", "", [], ()):
            yield name, str(value).replace("|", "\\|")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
