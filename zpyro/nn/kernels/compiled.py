"""The loops of the fused recurrences in C++, compiled on the machine that runs them.

The package contains the source, recurrence.cpp. A C++ compiler with OpenMP builds it once per
machine, in a few seconds, into the user's cache folder. :func:`status` checks once per process
whether the library can be used and computes what the torch loops compute; otherwise these run.

Environment:
    ZPYRO_COMPILE: 0 to compile and load nothing.
    ZPYRO_CACHE: the cache folder, by default ``zpyro`` in $XDG_CACHE_HOME or ~/.cache.
    CXX: the compiler, by default the first of c++, g++ and clang++ that is found.
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
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.io.cache import ADVICE, cache_folder
from zpyro.nn.kernels.chain_loops import (
    ChainInputGradients,
    ChainOutputGradients,
    ChainTape,
    ChainWeights,
    TorchChain,
)
from zpyro.nn.kernels.fused_blocks import Gradient, PathGradients, running_cell_gradient
from zpyro.nn.kernels.lstm_loops import (
    GraphedLoops,
    LoopGradients,
    Tape,
    TorchLoops,
    Weights,
)

SOURCE = Path(__file__).parent / "recurrence.cpp"
FLAGS = ("-std=c++17", "-O2", "-march=native", "-fopenmp", "-shared", "-fPIC")
_LOOPS = (("forward", 2), ("backward", 3), ("chain_forward", 2), ("chain_backward", 3))
"""Functions of the library and the numbers of their arguments."""
OPERATIONS_A_THREAD = 1e6
"""Floating-point operations of a step for which one more thread pays off."""

logger = logging.getLogger(__name__)


class CompiledLoops(GraphedLoops):
    """The loops in C++ where possible, otherwise as CUDA graphs or torch operations.

    The C++ loops run on a CPU, in float32 and float64, outside of autocast, if :func:`status` is
    "ready".
    """

    def forward(self, tape: Tape, weights: Weights, product_dtype: torch.dtype) -> None:
        if not runs_here(tape.z, product_dtype):
            super().forward(tape, weights, product_dtype)
        else:
            _run_forward(tape, weights)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        grad_outputs: PathGradients,
        product_dtype: torch.dtype,
    ) -> LoopGradients:
        if not runs_here(tape.z, product_dtype):
            return super().backward(tape, weights, grad_outputs, product_dtype)
        return _run_backward(tape, weights, grad_outputs)


def _run_forward(tape: Tape, weights: Weights) -> None:
    _call("forward", _sizes(tape, weights), _buffers(tape, weights), like=tape.z)


def _run_backward(tape: Tape, weights: Weights, grad_outputs: PathGradients) -> LoopGradients:
    grad_inputs = LoopGradients(
        activations=torch.empty_like(tape.activations),
        gates=torch.empty_like(tape.gates),
        raw=torch.empty_like(tape.raw),
        hidden=torch.empty_like(tape.hidden[0]),
        cell=running_cell_gradient(grad_outputs, tape.cell).contiguous(),
    )
    dense = PathGradients(*(None if part is None else part.contiguous() for part in grad_outputs))
    gradients = _pointers(_Gradients, (*dense, *grad_inputs))
    sizes, buffers = _sizes(tape, weights), _buffers(tape, weights)
    _call("backward", sizes, buffers, gradients, like=tape.z)
    return grad_inputs


class CompiledChain(TorchChain):
    """The loops of the latent chain in C++ where possible, otherwise as torch operations."""

    def forward(self, tape: ChainTape, weights: ChainWeights, posterior_width: int) -> None:
        if not runs_here(tape.z, tape.z.dtype):
            super().forward(tape, weights, posterior_width)
        else:
            _run_chain_forward(tape, weights, posterior_width)

    def backward(
        self,
        tape: ChainTape,
        weights: ChainWeights,
        posterior_width: int,
        grad_outputs: ChainOutputGradients,
    ) -> ChainInputGradients:
        if not runs_here(tape.z, tape.z.dtype):
            return super().backward(tape, weights, posterior_width, grad_outputs)
        return _run_chain_backward(tape, weights, posterior_width, grad_outputs)


def _run_chain_forward(tape: ChainTape, weights: ChainWeights, posterior_width: int) -> None:
    sizes = _chain_sizes(tape, weights, posterior_width)
    _call("chain_forward", sizes, _pointers(_ChainBuffers, (*weights, *tape)), like=tape.z)


def _run_chain_backward(
    tape: ChainTape,
    weights: ChainWeights,
    posterior_width: int,
    grad_outputs: ChainOutputGradients,
) -> ChainInputGradients:
    grad_inputs = ChainInputGradients(
        activations=torch.empty_like(tape.activations),
        raw=torch.empty_like(tape.raw),
        noise=torch.empty_like(tape.noise),
        first=torch.empty_like(tape.z[0]),
    )
    dense = [None if part is None else part.contiguous() for part in grad_outputs]
    gradients = _pointers(_ChainGradients, (*dense, *grad_inputs))
    sizes = _chain_sizes(tape, weights, posterior_width)
    buffers = _pointers(_ChainBuffers, (*weights, *tape))
    _call("chain_backward", sizes, buffers, gradients, like=tape.z)
    return grad_inputs


def runs_here(like: Tensor, product_dtype: torch.dtype) -> bool:
    """Whether the C++ loops support this tensor's dtype and device, with products in a dtype."""
    supported = like.dtype in (torch.float32, torch.float64) and product_dtype == like.dtype
    return supported and like.device.type == "cpu" and status() == "ready"


@cache
def status() -> str:
    """ "ready", or the reason why the C++ loops cannot be used; cached."""
    if os.environ.get("ZPYRO_COMPILE") == "0":
        return "switched off by ZPYRO_COMPILE=0"
    try:
        library()
        _check_results()
    except _NoCompilerError as error:
        logger.info("recurrence not compiled: %s; using torch operations", error)
        return str(error)
    except NotBuiltError as error:
        logger.warning("recurrence not compiled: %s; using torch operations", error)
        return str(error)
    return "ready"


class NotBuiltError(Exception):
    """The library could not be built or loaded; the message gives the reason."""


class _NoCompilerError(NotBuiltError):
    """There is no compiler, which is logged as information only."""


@cache
def library() -> ctypes.CDLL:
    """The loaded library, built first if necessary, or again if it is damaged."""
    path = library_path()
    if not os.path.exists(path):
        _build(path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        logger.info("%s does not load (%s)", path, error)
        _build(path)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as again:
            raise NotBuiltError(f"{path} does not load: {again}") from again
    for loop, arguments in _LOOPS:
        for dtype in ("float", "double"):
            try:
                function = getattr(loaded, f"{loop}_{dtype}")
            except AttributeError as error:
                raise _removed(path, "is not the library of this version") from error
            function.argtypes = [ctypes.c_void_p] * arguments
            function.restype = ctypes.c_int
    return loaded


def library_path() -> Path:
    """Where the library of this version, processor and torch is cached."""
    try:
        return cache_folder() / f"recurrence-{_fingerprint()}.so"
    except UserError as error:
        raise NotBuiltError(str(error)) from error


def _check_results() -> None:
    """Compare all loops with those in torch on small random numbers."""
    generator = torch.Generator().manual_seed(0)
    steps, rows, hidden, latent, width = 3, 5, 6, 2, 4

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tape = Tape(
        activations=random(steps, rows, width),
        gates=random(steps, rows, 4 * hidden),
        raw=random(steps, rows, 2 * latent),
        z=random(steps, rows, latent),
        noise=random(steps, rows, latent),
        hidden=random(steps + 1, rows, hidden),
        cell=random(steps + 1, rows, hidden),
    )
    weights = Weights(
        hidden=random(width, hidden),
        future=random(width, hidden),
        hidden_bias=random(width),
        output=random(2 * latent, width),
        output_bias=random(2 * latent),
        gates=random(4 * hidden, hidden + latent),
        embedded=random(4 * hidden, 1),
        gate_bias=random(4 * hidden),
    )
    chain_tape = ChainTape(
        activations=random(steps, rows, 2 * width),
        raw=random(steps, rows, 3 * latent),
        z=random(steps + 1, rows, latent),
        noise=random(steps, rows, latent),
        mean=random(steps, rows, latent),
        log_variance=random(steps, rows, latent),
    )
    chain_weights = ChainWeights(
        from_latent=random(2 * width, latent),
        to_raw=torch.block_diag(random(2 * latent, width), random(latent, width)),
        bias=random(3 * latent),
    )
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        cast = Weights(*(part.to(dtype) for part in weights))
        ours, theirs = (Tape(*(part.to(dtype, copy=True) for part in tape)) for _ in range(2))
        ones = torch.ones_like(ours.z), torch.ones_like(ours.hidden[1:])
        gradients = PathGradients(*ones, None, None, None)
        with torch.no_grad():
            _run_forward(ours, cast)
            TorchLoops().forward(theirs, cast, dtype)
            found = *ours, *_run_backward(ours, cast, gradients)
            expected = *theirs, *TorchLoops().backward(theirs, cast, gradients, dtype)
            _compare(found, expected, tolerance)
            cast = ChainWeights(*(part.to(dtype) for part in chain_weights))
            ours, theirs = (
                ChainTape(*(part.to(dtype, copy=True) for part in chain_tape)) for _ in range(2)
            )
            gradients = ChainOutputGradients(torch.ones_like(ours.noise), None, None)
            _run_chain_forward(ours, cast, width)
            TorchChain().forward(theirs, cast, width)
            found = *ours, *_run_chain_backward(ours, cast, width, gradients)
            expected = *theirs, *TorchChain().backward(theirs, cast, width, gradients)
            _compare(found, expected, tolerance)


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Remove the library, and raise, where its results are not those of the torch loops."""
    pairs = zip(found, expected, strict=True)
    if not all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs):
        raise _removed(library_path(), f"computes wrong results in {found[0].dtype}")


def _removed(path: Path, problem: str) -> NotBuiltError:
    """The error for a library of the cache that must be built again by the next process."""
    path.unlink(missing_ok=True)
    return NotBuiltError(f"{path} {problem}; it was removed, the next command builds it again")


def _compiler() -> str:
    names = (os.environ["CXX"],) if os.environ.get("CXX") else ("c++", "g++", "clang++")
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise _NoCompilerError(f"no C++ compiler found (looked for {', '.join(names)})")


def _fingerprint() -> str:
    """Hash of everything that the library depends on: source, flags, processor, torch."""
    parts = [SOURCE.read_text(), *FLAGS, platform.machine(), _processor(), torch.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _openmp() -> list[str]:
    """Linker arguments for the OpenMP library that torch contains, if any.

    With two copies in one process, the thread pools of both would compete for the cores.
    """
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ["-Wl,--as-needed", str(found[0])] if found else []


def _processor() -> str:
    """Model and features of the processor; a cache folder may be shared between machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(wanted)}))


def _build(path: Path) -> None:
    """Compile to a temporary file, then rename it, so that processes may build concurrently."""
    compiler = _compiler()
    logger.info("compiling %s into %s, once per machine", SOURCE.name, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *FLAGS, str(SOURCE), *_openmp(), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            built.replace(path)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[0]
        raise NotBuiltError(f"{compiler} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(
            f"{compiler} could not build in {path.parent} ({error}; {ADVICE})"
        ) from error


def _structure(name: str, fields: str, ctype: type = ctypes.c_void_p) -> type[ctypes.Structure]:
    """A structure of recurrence.cpp, whose fields all have one type."""
    return type(name, (ctypes.Structure,), {"_fields_": [(f, ctype) for f in fields.split()]})


_SIZES = "steps rows hidden latent width threads hidden_stride output_stride gates_stride"
_Sizes = _structure("Sizes", _SIZES, ctypes.c_long)
_Buffers = _structure(
    "Buffers",
    "hidden_weight output_weight output_bias gates_weight "
    "activations gates raw z noise hidden cell",
)
_Gradients = _structure(
    "Gradients",
    "grad_z grad_hidden grad_mean grad_log_variance grad_cell "
    "activations gates raw first_hidden first_cell",
)

_CHAIN_SIZES = "steps rows latent width posterior_width threads latent_stride raw_stride"
_ChainSizes = _structure("ChainSizes", _CHAIN_SIZES, ctypes.c_long)
_ChainBuffers = _structure(
    "ChainBuffers", "from_latent to_raw bias activations raw z noise mean log_variance"
)
_ChainGradients = _structure(
    "ChainGradients", "grad_z grad_mean grad_log_variance activations raw noise first"
)


def _pointers(cls: type[ctypes.Structure], tensors: tuple[Gradient, ...]) -> ctypes.Structure:
    return cls(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


def _buffers(tape: Tape, weights: Weights) -> ctypes.Structure:
    matrices = (weights.hidden, weights.output, weights.output_bias, weights.gates)
    return _pointers(_Buffers, (*matrices, *tape))


def _sizes(tape: Tape, weights: Weights) -> ctypes.Structure:
    steps, rows, latent = tape.z.shape
    hidden, width = tape.hidden.shape[-1], weights.output.shape[1]
    matrices = (weights.hidden, weights.output, weights.gates)
    threads = _threads(rows, *matrices)
    strides = (matrix.stride(0) for matrix in matrices)
    return _Sizes(steps, rows, hidden, latent, width, threads, *strides)


def _chain_sizes(tape: ChainTape, weights: ChainWeights, posterior_width: int) -> ctypes.Structure:
    steps, rows, latent = tape.noise.shape
    matrices = weights.from_latent, weights.to_raw
    strides = (matrix.stride(0) for matrix in matrices)
    width = len(weights.from_latent)
    threads = _threads(rows, *matrices)
    return _ChainSizes(steps, rows, latent, width, posterior_width, threads, *strides)


def _threads(rows: int, *matrices: Tensor) -> int:
    """How many threads pay off for the products of one step."""
    operations = 2 * rows * sum(matrix.numel() for matrix in matrices)
    return min(torch.get_num_threads(), 1 + int(operations / OPERATIONS_A_THREAD))


def _call(loop: str, *structures: ctypes.Structure, like: Tensor) -> None:
    dtype = "float" if like.dtype == torch.float32 else "double"
    failed = getattr(library(), f"{loop}_{dtype}")(*(ctypes.byref(part) for part in structures))
    if failed:
        raise MemoryError(f"no memory for the {loop} recurrence; use smaller batches")
