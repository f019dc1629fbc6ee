"""The loops of the fused LSTM recurrence in C++, compiled on the machine that runs them.

The source, recurrence.cpp, is a part of the package; a C++ compiler that knows OpenMP builds it
once a machine, in a few seconds, into the user's cache folder. Whether it can be used is decided
once a process, see :func:`status`; without a compiler the torch loops do the same work.

Environment:
    ZPYRO_COMPILE: 0 never to compile or load anything.
    ZPYRO_CACHE: the cache folder, by default ``zpyro`` in $XDG_CACHE_HOME or ~/.cache.
    CXX: the compiler, by default c++, g++ or clang++, whichever is found first.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from zpyro.io.cache import cache_folder
from zpyro.nn.kernels.fused_blocks import Gradient, PathGradients, running_cell_gradient
from zpyro.nn.kernels.graphed import GraphedLoops
from zpyro.nn.kernels.lstm_loops import LoopGradients, Tape, Weights

SOURCE = Path(__file__).parent / "recurrence.cpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
OPERATIONS_A_THREAD = 1e6
"""Floating-point operations in a step from which on one more thread pays."""

logger = logging.getLogger(__name__)


class CompiledLoops(GraphedLoops):
    """The loops in C++ where they can run; elsewhere CUDA graphs or torch operations.

    C++ runs on a CPU, in float32 and float64, outside of autocast, where :func:`status` is "ready".
    """

    def forward(self, tape: Tape, weights: Weights, product_type: torch.dtype) -> None:
        if not runs_here(tape.z, product_type):
            super().forward(tape, weights, product_type)
            return
        _call("forward", _sizes(tape, weights), _buffers(tape, weights), like=tape.z)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        arriving: PathGradients,
        product_type: torch.dtype,
    ) -> LoopGradients:
        if not runs_here(tape.z, product_type):
            return super().backward(tape, weights, arriving, product_type)
        leaving = LoopGradients(
            activations=torch.empty_like(tape.activations),
            gates=torch.empty_like(tape.gates),
            raw=torch.empty_like(tape.raw),
            hidden=torch.empty_like(tape.hidden[0]),
            cell=running_cell_gradient(arriving, tape.cell).contiguous(),
        )
        dense = PathGradients(*(None if part is None else part.contiguous() for part in arriving))
        gradients = _pointers(_Gradients, (*dense, *leaving))
        sizes, buffers = _sizes(tape, weights), _buffers(tape, weights)
        _call("backward", sizes, buffers, gradients, like=tape.z)
        return leaving


def runs_here(like: Tensor, product_type: torch.dtype) -> bool:
    """Whether the C++ loops take numbers of this kind, with products in this type."""
    known = like.dtype in (torch.float32, torch.float64) and product_type == like.dtype
    return known and like.device.type == "cpu" and status() == "ready"


@cache
def status() -> str:
    """ "ready", or why the C++ loops cannot be used here; found out at the first call."""
    if os.environ.get("ZPYRO_COMPILE") == "0":
        return "switched off by ZPYRO_COMPILE=0"
    try:
        library()
    except _NoCompilerError as error:
        logger.info("recurrence not compiled: %s; torch operations do its work", error)
        return str(error)
    except _NotBuiltError as error:
        logger.warning("recurrence not compiled: %s; torch operations do its work", error)
        return str(error)
    return "ready"


class _NotBuiltError(Exception):
    """The library could not be had; the message says why."""


class _NoCompilerError(_NotBuiltError):
    """There is no compiler: nothing to worry about."""


@cache
def library() -> ctypes.CDLL:
    """The loaded library, built first if need be."""
    path = cache_folder() / f"recurrence-{_fingerprint()}.so"
    if not path.exists():
        _build(path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise _NotBuiltError(f"{path} does not load: {error}") from error
    for loop, arguments in (("forward", 2), ("backward", 3)):
        for kind in ("float", "double"):
            function = getattr(loaded, f"{loop}_{kind}")
            function.argtypes = [ctypes.c_void_p] * arguments
            function.restype = ctypes.c_int
    return loaded


def _compiler() -> str:
    names = (os.environ["CXX"],) if os.environ.get("CXX") else ("c++", "g++", "clang++")
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise _NoCompilerError(f"no C++ compiler found (looked for {', '.join(names)})")


def _fingerprint() -> str:
    """Differs wherever another library is needed: source, flags, processor, torch's OpenMP."""
    parts = [SOURCE.read_text(), *FLAGS, platform.machine(), _processor(), torch.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _openmp() -> list[str]:
    """Linker arguments for the OpenMP library that torch brings, where it brings one.

    With another copy of it in the process, the threads of both would wait in each other's way.
    """
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-Wl,--as-needed", str(found[0])] if found else []


def _processor() -> str:
    """What the processor can do: a cache folder may be shared between machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(wanted)}))


def _build(path: Path) -> None:
    """Compile to a file of its own, then rename: processes may build side by side."""
    compiler = _compiler()
    logger.info("compiling %s into %s, once for this machine", SOURCE.name, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *FLAGS, str(SOURCE), *_openmp(), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            built.replace(path)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[0]
        raise _NotBuiltError(f"{compiler} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NotBuiltError(f"{compiler} could not build in {path.parent}: {error}") from error


_Kind = TypeVar("_Kind", bound=ctypes.Structure)


class _Sizes(ctypes.Structure):
    """``Sizes`` of recurrence.cpp."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in (
            *("steps", "rows", "hidden", "latent", "width", "threads"),
            *("hidden_stride", "output_stride", "gates_stride"),
        )
    ]


class _Buffers(ctypes.Structure):
    """``Buffers`` of recurrence.cpp."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("hidden_weight", "output_weight", "output_bias", "gates_weight"),
            *("activations", "gates", "raw", "z", "noise", "hidden", "cell"),
        )
    ]


class _Gradients(ctypes.Structure):
    """``Gradients`` of recurrence.cpp: those that arrive, then those that leave."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("at_z", "at_hidden", "at_mean", "at_log_variance", "at_cell"),
            *("activations", "gates", "raw", "first_hidden", "first_cell"),
        )
    ]


def _pointers(kind: type[_Kind], tensors: tuple[Gradient, ...]) -> _Kind:
    return kind(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


def _buffers(tape: Tape, weights: Weights) -> _Buffers:
    matrices = (weights.hidden, weights.output, weights.output_bias, weights.gates)
    return _pointers(_Buffers, (*matrices, *tape))


def _sizes(tape: Tape, weights: Weights) -> _Sizes:
    steps, rows, latent = tape.z.shape
    hidden, width = tape.hidden.shape[-1], weights.output.shape[1]
    matrices = (weights.hidden, weights.output, weights.gates)
    operations = 2 * rows * sum(matrix.numel() for matrix in matrices)
    threads = min(torch.get_num_threads(), 1 + int(operations / OPERATIONS_A_THREAD))
    strides = (matrix.stride(0) for matrix in matrices)
    return _Sizes(steps, rows, hidden, latent, width, threads, *strides)


def _call(loop: str, *structures: ctypes.Structure, like: Tensor) -> None:
    kind = "float" if like.dtype == torch.float32 else "double"
    failed = getattr(library(), f"{loop}_{kind}")(*(ctypes.byref(part) for part in structures))
    if failed:
        raise MemoryError(f"no memory for the {loop} recurrence")
