"""Terms of a model with a custom guide, which may have any sites."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.models.base import SequenceModel
from zpyro.models.guides import latents_in, model_inputs
from zpyro.models.sites import replay_directly, sample_sites
from zpyro.nn.devices import fork_rng


@torch.no_grad()
def sample_trace(
    module: SequenceModel, batch: Batch, seed: int, draw: int
) -> tuple[Trace, tuple[Any, ...]]:
    """One call of a model's custom guide, whose samples depend only on the seed and the names.

    Args:
        module: a model with a custom guide.
        batch: on any device.
        seed: of the samples, together with the names in the batch.
        draw: number of the sample.

    Returns:
        The guide's trace, and its arguments on the module's device.
    """
    guide, device = module.custom_guide, next(module.parameters()).device
    assert guide is not None
    arguments = model_inputs(module, batch)
    with fork_rng(device):
        torch.manual_seed(zlib.crc32("\n".join([str(seed), str(draw), *batch.names]).encode()))
        return poutine.trace(guide).get_trace(*arguments), arguments


@torch.no_grad()
def path_log_probs(module: SequenceModel, batch: Batch, seed: int, draw: int) -> tuple[Tensor, ...]:
    """One path of a model's custom guide and its log-densities.

    Returns:
        log p(x | z), log p(z), log q(z), each (B,) nats, and z (B, T, Z).
    """
    guide_trace, arguments = sample_trace(module, batch, seed, draw)
    shape = torch.Size((*batch.x.shape[:2], module.latent_size))
    z = latents_in(sample_sites(guide_trace), shape)
    replayed = replay_directly(module.model, guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*arguments)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    zero = next(module.parameters()).new_zeros(len(batch))
    parts = [zero, zero, zero]
    for site in sample_sites(model_trace).values():
        index = 0 if site["is_observed"] else 1
        parts[index] = parts[index] + site["log_prob"]
    for site in sample_sites(guide_trace).values():
        parts[2] = parts[2] + site["log_prob"]
    return (*parts, z)
