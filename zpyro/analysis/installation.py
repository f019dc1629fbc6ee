"""Checks of an installation: what this machine has, and whether every way to compute works on it.

The checks compare one small training step, by each recurrence and in each precision on each device,
with the plain loop in float64 on the CPU.

Example:
    >>> from zpyro.analysis.installation import check_cache
    >>> check_cache().name
    'cache folder'
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor

from zpyro.datasets import from_arrays
from zpyro.errors import UserError
from zpyro.io.cache import ADVICE, cache_folder
from zpyro.likelihoods import Gaussian
from zpyro.models import ZForcing
from zpyro.nn import precision
from zpyro.nn.devices import accelerators, fork_rng, sum_dtype
from zpyro.nn.kernels import compiled
from zpyro.nn.noise import NoiseSource
from zpyro.nn.recurrence import RECURRENCES
from zpyro.objectives import ZForcingELBO
from zpyro.training import Config, SequenceTask, TrainConfig, Trainer

PACKAGES = ("torch", "pyro-ppl", "numpy", "click", "rich", "safetensors", "soundfile", "soxr")
OPTIONAL_PACKAGES = (
    *("matplotlib", "pandas", "arviz", "tensorboard", "wandb", "mlflow-skinny"),
    *("datasets", "zstandard", "mido"),
)

SIZES = 32, 8, 16, 16
"""Of the model that is compared: hidden, latent, embedding and MLP size."""

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1}
"""Largest relative error of the loss and of the gradient."""

LOSS_TOLERANCE = 1e-3
"""Largest relative difference of the loss between steps that are graphs and steps that are not."""

GRAPH_STEPS = 8
COMPILE_SECONDS = 600.0


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: "ok"; "off" for what this machine does not have, or what a setting turned off;
            "failed" for what should work here and does not.
        detail: what was found.
        advice: what to do, empty where nothing is to be done.
    """

    name: str
    state: str
    detail: str
    advice: str = ""


def check_installation() -> Iterator[Check]:
    """Check everything, one :class:`Check` at a time; this takes about ten seconds a device."""
    yield check_cache()
    loops = check_compiled_loops()
    yield loops
    for device in devices():
        for name in RECURRENCES:
            if name == "compiled" and device.type == "cpu" and loops.state != "ok":
                continue
            for chosen in ("float64", *precisions(device)):
                if chosen != "float64" or sum_dtype(device) == torch.float64:
                    yield check_step(device, name, chosen)
        if device.type == "cuda":
            yield check_graphs(device)


def versions() -> dict[str, str]:
    """The version of Python and of every package that zpyro uses; "" for one that is missing."""
    found = {"python": platform.python_version(), "zpyro": _version("zpyro")}
    found |= {name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    # Its own name for the build tells the version of CUDA as well.
    return {**found, "torch": torch.__version__}


def machine() -> dict[str, str | int]:
    """The operating system, the processor and every device that torch finds."""
    found: dict[str, str | int] = {
        "system": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
    }
    for device in devices():
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            memory = properties.total_memory / 2**30
            found[str(device)] = f"{properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
        elif device.type != "cpu":
            found[str(device)] = device.type
    return found


def devices() -> list[torch.device]:
    """The CPU, then every accelerator that torch finds."""
    return [torch.device("cpu"), *accelerators()]


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions of ``train.precision`` that mean something else than float32 there, and it."""
    if device.type == "cuda":
        return "float32", "tf32", "bfloat16"
    return ("float32", "bfloat16") if device.type == "cpu" else ("float32",)


def check_cache() -> Check:
    """Whether the cache folder can be written."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except UserError as error:
        what, _, advice = str(error).rpartition("; ")
        return Check("cache folder", "failed", what, advice)
    except OSError as error:
        found = ": ".join(filter(None, (error.filename, error.strerror)))
        return Check("cache folder", "failed", found, ADVICE)
    return Check("cache folder", "ok", str(folder))


def check_compiled_loops() -> Check:
    """Whether the C++ loops are built and compute what the torch loops compute.

    A new process looks first: a library that makes a process crash is found as well.
    """
    name = "C++ loops"
    before = _library_file()
    found = _status()
    if "was removed" in found:
        # By the process that found the library to be wrong; the next one builds it.
        found = _status()
    if found == "ready":
        is_rebuilt = before not in (None, _library_file())
        note = "; built again, the cached one was damaged" if is_rebuilt else ""
        return Check(name, "ok", f"ready in {compiled.library_path()}{note}")
    if found.startswith("switched off"):
        return Check(name, "off", found, "unset ZPYRO_COMPILE to use them")
    if found.startswith("no C++ compiler"):
        advice = "install g++ or clang++ with OpenMP; until then the slower torch loops run"
        return Check(name, "off", found, advice)
    if ADVICE in found:
        return Check(name, "failed", found.replace(f"; {ADVICE}", ""), ADVICE)
    advice = "repair the compiler, or set CXX to another; until then the slower torch loops run"
    return Check(name, "failed", found, advice)


def check_step(device: torch.device, recurrence: str, chosen: str) -> Check:
    """Compare one training step with the plain loop in float64 on the CPU.

    Args:
        device: where to compute.
        recurrence: one of :data:`zpyro.nn.recurrence.RECURRENCES`.
        chosen: "float64", or a value of ``train.precision``.
    """
    name = f"training step on {device}, recurrence {recurrence}, {chosen}"
    try:
        errors = step_errors(device, recurrence, chosen)
    except RuntimeError as error:
        advice = f"choose another train.device or train.precision than {device} and {chosen}"
        return Check(name, "failed", _first_line(error), advice)
    detail = f"loss within {errors[0]:.1g}, gradient within {errors[1]:.1g} of float64"
    if max(errors) <= TOLERANCES[chosen]:
        return Check(name, "ok", detail)
    advice = "set model.recurrence to plain or train.precision to float32, and report this"
    return Check(name, "failed", f"{detail}, more than {TOLERANCES[chosen]:g}", advice)


def step_errors(
    device: torch.device, recurrence: str, chosen: str, shape: tuple[int, int] = (4, 10)
) -> tuple[float, float]:
    """Relative errors of the loss and the gradient of a training step, against float64.

    Args:
        device: where to compute.
        recurrence: the loop over time.
        chosen: "float64", or a value of ``train.precision``.
        shape: sequences and steps.
    """
    dtype = torch.float64 if chosen == "float64" else torch.float32
    loss, gradient = _step(device, dtype, recurrence, chosen, shape)
    expected_loss, expected = _reference(shape)
    loss_error = abs(loss - expected_loss) / abs(expected_loss)
    error = (gradient - expected).norm() / expected.norm()
    return loss_error, float(error)


def check_graphs(device: torch.device) -> Check:
    """Train a few steps as CUDA graphs and without them, and compare the loss."""
    name = f"CUDA graphs on {device}"
    warnings = _Messages()
    logger = logging.getLogger("zpyro.nn.kernels.cuda_graph")
    logger.addHandler(warnings)
    try:
        losses = [_trained_loss(device, captured) for captured in (False, True)]
    except RuntimeError as error:
        return Check(name, "failed", _first_line(error), "set train.cuda_graph to false")
    finally:
        logger.removeHandler(warnings)
    difference = abs(losses[1] - losses[0]) / abs(losses[0])
    advice = "training continues without them; set train.cuda_graph to false to skip the attempt"
    if warnings.texts:
        return Check(name, "failed", warnings.texts[0], advice)
    if not difference <= LOSS_TOLERANCE:
        return Check(name, "failed", f"the loss differs by {difference:.1g}", advice)
    detail = f"loss within {difference:.1g} of steps without graphs after {GRAPH_STEPS} steps"
    return Check(name, "ok", detail)


class _Messages(logging.Handler):
    """Keeps the texts of log records."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _FixedNoise(NoiseSource):
    """The same numbers on every device and in every dtype."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        del dim
        samples = torch.randn(shape, generator=self._generator, dtype=torch.float64)
        # The dtype first: another device need not have float64.
        return samples.to(like.dtype).to(like.device)


def _step(
    device: torch.device, dtype: torch.dtype, recurrence: str, chosen: str, shape: tuple[int, int]
) -> tuple[float, Tensor]:
    """The loss of one step and its gradient as one vector, float64 on the CPU."""
    random = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ZForcing(Gaussian(3), *SIZES, recurrence=recurrence).to(device, dtype)
    model.set_noise_source(_FixedNoise())
    x = torch.from_numpy(random.standard_normal((*shape, 3))).to(dtype).to(device)
    objective = ZForcingELBO(1.0, 0.5, 0.5)(model.model, model.guide)
    with precision.products(chosen), pyro.validation_enabled(False):
        with precision.autocast(chosen, device):
            loss = objective(x)
        loss.backward()
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in model.parameters()
    ]
    return float(loss.detach()), torch.cat(
        [part.detach().flatten().cpu().double() for part in gradients]
    )


@cache
def _reference(shape: tuple[int, int]) -> tuple[float, Tensor]:
    return _step(torch.device("cpu"), torch.float64, "plain", "float64", shape)


def _trained_loss(device: torch.device, captured: bool) -> float:
    """The sum of the losses of the steps of a short training."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((12, 3)) for _ in range(32)]
    data = from_arrays(arrays, valid_fraction=0.25, test_fraction=0.25)
    train = TrainConfig(max_steps=GRAPH_STEPS, batch_size=8, cuda_graph=captured, log_every=1 << 30)
    config = Config("npz", train=train)
    with fork_rng(device):
        torch.manual_seed(0)
        model = ZForcing(Gaussian(3), *SIZES).to(device)
        trainer = Trainer(SequenceTask(model, data, config), train)
        trainer.fit()
    return trainer.accumulator.read()["loss"]


def _status() -> str:
    """The state of the C++ loops in a new process, or why that process ended."""
    command = [
        sys.executable,
        "-c",
        "from zpyro.nn.kernels import compiled as c; print(c.status())",
    ]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the compiler does not finish within {COMPILE_SECONDS:.0f} seconds"
    lines = result.stdout.split("\n")
    if result.returncode < 0:
        path = compiled.library_path()
        path.unlink(missing_ok=True)
        reason = signal.Signals(-result.returncode).name
        return f"{path} makes a process end by {reason}; it was removed"
    return lines[0] or f"a new process failed ({result.stderr.strip().rpartition(os.linesep)[2]})"


def _library_file() -> tuple[int, int] | None:
    """What tells one file of the library from another; None without a file."""
    try:
        found = os.stat(compiled.library_path())
    except (OSError, compiled.NotBuiltError):
        return None
    return found.st_ino, found.st_mtime_ns


def processor_name() -> str:
    """The model of the processor, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
