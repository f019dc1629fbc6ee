"""Time and memory of the bounds of a large test set: ``python -m benchmarks.bounds``.

The data simulate TIMIT's test set (1,680 utterances of 20 to 320 frames of 200 samples), the model
is small. Memory is the peak resident set of this process, before and after.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

import zpyro
from benchmarks.measure import machine
from zpyro import evaluation
from zpyro.datasets.sequences import Sequences
from zpyro.training.allocation import keep_freed_memory


def main() -> None:
    """Print one line per bound."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    random = np.random.default_rng(0)
    lengths = random.integers(20, 321, options.utterances)
    values = tuple(random.standard_normal((length, 200), dtype=np.float32) for length in lengths)
    data = Sequences(values, tuple(f"utterance{index}" for index in range(len(values))))
    module = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(200),
        hidden_size=options.units,
        latent_size=8,
        embedding_size=options.units,
        mlp_size=options.units,
    )
    print(f"{machine()}; {len(data)} utterances, {data.num_frames} frames, {options.units} units")
    for name in options.bound:
        for particles in options.particles:
            before = _peak_mib()
            started = time.perf_counter()
            _bound(name, module, data, particles)
            minutes = (time.perf_counter() - started) / 60
            print(
                f"{name:>5}, K = {particles:>4}: {minutes:6.1f} min, "
                f"peak {before:,.0f} MiB before, {_peak_mib():,.0f} MiB after",
                flush=True,
            )


def _bound(name: str, module: zpyro.ZForcing, data: Sequences, particles: int) -> None:
    if name == "iwae":
        evaluation.iwae(module, data, particles=particles)
    else:
        evaluation.smc(module, data, particles=particles, runs=1)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=1680)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--bound", nargs="+", default=["iwae", "smc"], choices=["iwae", "smc"])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
