"""The contenders: functions that take one training step of the same model.

A step is forward, all terms of the objective, backward, gradient clipping at 100, and Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

import zpyro
from benchmarks.plain_srnn import PlainSRNN
from benchmarks.published import Floor, PublishedZForcing, Terms
from benchmarks.sizes import Size
from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.distributed.processes import SINGLE_PROCESS, BatchShard, ProcessGroup
from zpyro.models import SRNN
from zpyro.nn.kernels.cuda_graph import GraphedCallable
from zpyro.nn.layers import gaussian_kl
from zpyro.nn.precision import autocast, products
from zpyro.training.config import Config, ObjectiveConfig, TrainConfig
from zpyro.training.sequence_task import SequenceTask
from zpyro.training.trainer import Trainer

Step = Callable[[], object]

KL_WEIGHT, AUXILIARY_WEIGHT, REVERSE_WEIGHT = 0.5, 0.005, 0.005
CLIP_NORM = 100.0
ADAM: dict[str, Any] = {"lr": 1e-3, "eps": 1e-5, "fused": True}


def make(
    name: str, size: Size, device: str = "cpu", seed: int = 0, precision: str = "float32"
) -> Step:
    """A function that takes one training step of a contender on fixed data.

    Args:
        name: one of :data:`MAKERS`.
        size: of the model and the batch.
        device: of the model and the data.
        seed: of the weights and the data.
        precision: "float32", "tf32" or "bfloat16", as ``train.precision``.
    """
    torch.manual_seed(seed)
    frames = torch.randn(size.steps + 1, size.sequences, size.frame, device=device)
    if name == "training":
        # The step of zpyro train has the setting itself.
        return _training(size, frames, precision=precision)
    step = MAKERS[name](size, frames)

    def step_in_precision() -> object:
        with products(precision), autocast(precision, frames.device):
            return step()

    return step_in_precision


def _plain_torch(module: Callable[..., nn.Module], size: Size, frames: Tensor) -> Step:
    model = module(size.frame, size.hidden, size.latent, size.embedding, size.mlp)
    model = model.to(frames.device)
    optimizer = torch.optim.Adam(model.parameters(), **ADAM)
    noise_shape = size.steps, size.sequences, size.latent

    def step() -> Tensor:
        noise = torch.randn(noise_shape, device=frames.device)
        return _update(model, optimizer, model(frames[:-1], frames[1:], noise))

    return step


def zforcing(size: Size, like: Tensor, **settings: Any) -> zpyro.ZForcing:
    """zpyro's model of this size."""
    likelihood = zpyro.likelihoods.Gaussian(size.frame)
    sizes = size.hidden, size.latent, size.embedding, size.mlp
    return zpyro.ZForcing(likelihood, *sizes, **settings).to(like.device)


def _plain_srnn(size: Size, frames: Tensor, **settings: Any) -> Step:
    return _plain_torch(partial(PlainSRNN, **settings), size, frames)


def _srnn(size: Size, frames: Tensor, **settings: Any) -> Step:
    """zpyro's SRNN with the plain bound, as a torch module."""
    sizes = size.hidden, size.latent, size.embedding, size.mlp
    model = SRNN(zpyro.likelihoods.Gaussian(size.frame), *sizes, **settings).to(frames.device)
    loss = zpyro.ZForcingELBO(KL_WEIGHT)(model.model, model.guide)
    optimizer = torch.optim.Adam(model.parameters(), **ADAM)
    x, start = frames[1:].transpose(0, 1).contiguous(), frames[0]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(x, None, start) / len(x)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        return value.detach()

    return step


def _fast(size: Size, frames: Tensor, *, captured: bool = False, **settings: Any) -> Step:
    """The terms without Pyro; ``captured`` records the step as one CUDA graph where possible."""
    model = zforcing(size, frames, **settings)
    capturable = captured and frames.is_cuda
    optimizer = torch.optim.Adam(model.parameters(), **ADAM, capturable=capturable)
    x, start = frames[1:].transpose(0, 1).contiguous(), frames[0]

    def update(x: Tensor, start: Tensor) -> tuple[Tensor]:
        return (_update(model, optimizer, bare_terms(model, x, start)),)

    def changed() -> list[Tensor]:
        states = [part for state in optimizer.state.values() for part in state.values()]
        return [*model.parameters(), *states]

    step = GraphedCallable(update, state=changed, enabled=captured)
    return lambda: step(x, start)[0]


def bare_terms(model: zpyro.ZForcing, x: Tensor, start: Tensor, particles: int = 1) -> Terms:
    """The terms computed without Pyro, (particles, B) or (B,)."""
    process = model.bind(x, None, start)
    count, steps = x.shape[:2]
    noise = model.noise(particles * count, steps)
    z = process.sample_posterior(noise.unflatten(0, (particles, count)))
    path, backward = process.trajectory(z), process.backward_states
    kl = gaussian_kl(*process.posterior(path), *process.prior(path)).sum(-1)
    log_auxiliary = process.auxiliary(backward, path)
    terms = (process.log_likelihood(path, x), kl, log_auxiliary, process.reverse(backward, x))
    return Terms(*(term.sum(0).squeeze(0) for term in terms))


def _svi(
    size: Size, frames: Tensor, optim: type[PyroOptim] = zpyro.training.JointOptim, **settings: Any
) -> Step:
    pyro.clear_param_store()
    model = zforcing(size, frames, **settings)
    x, start = frames[1:].transpose(0, 1).contiguous(), frames[0]
    objective = zpyro.ZForcingELBO(KL_WEIGHT, AUXILIARY_WEIGHT, REVERSE_WEIGHT)
    optimizer = optim(torch.optim.Adam, ADAM, {"clip_norm": CLIP_NORM})
    svi = SVI(model.model, model.guide, optimizer, loss=objective)
    return partial(svi.step, x, None, start)


def training_step(size: Size, device: torch.device, process_group: ProcessGroup) -> Step:
    """The step of ``zpyro train`` in one of several processes, on fixed data.

    Args:
        size: of the model and of the whole batch.
        device: of the model and the data.
        process_group: the processes that take the step together.
    """
    torch.manual_seed(0)
    frames = torch.randn(size.steps + 1, size.sequences, size.frame, device=device)
    return _training(size, frames, process_group)


def _training(
    size: Size,
    frames: Tensor,
    process_group: ProcessGroup = SINGLE_PROCESS,
    precision: str = "float32",
) -> Step:
    """The step of ``zpyro train``; on CUDA it is one recorded graph."""
    model = zforcing(size, frames)
    objective = ObjectiveConfig(
        kl_weight=KL_WEIGHT,
        kl_weight_final=KL_WEIGHT,
        auxiliary_weight=AUXILIARY_WEIGHT,
        reverse_weight=REVERSE_WEIGHT,
    )
    # Records read values from the device: none within the measured steps.
    train = TrainConfig(
        clip_norm=CLIP_NORM,
        batch_size=size.sequences,
        log_every=1 << 30,
        precision=precision,
    )
    names = tuple(map(str, range(size.sequences)))
    start, *others = frames.cpu().numpy()
    sequences = Sequences(tuple(np.stack(others, axis=1)), names, start)
    dataset = Dataset("fixed", sequences, sequences, sequences, "gaussian", size.frame)
    config = Config("npz", None, None, objective=objective, train=train)
    task = SequenceTask(model, dataset, config, process_group)
    trainer = Trainer(task, train, process_group=process_group)
    places = process_group.part(size.sequences)
    share = BatchShard(sequences[places].batch(), places, size.sequences)
    return partial(trainer.step, share)


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, terms: Terms) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    loss = KL_WEIGHT * terms.kl - terms.log_likelihood
    loss = loss - AUXILIARY_WEIGHT * terms.log_auxiliary - REVERSE_WEIGHT * terms.log_reverse
    loss.mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.detach()


MAKERS: dict[str, Callable[[Size, Tensor], Step]] = {
    "published": partial(_plain_torch, PublishedZForcing),
    "floor": partial(_plain_torch, Floor),
    "fast": _fast,
    "captured": partial(_fast, captured=True),
    "svi": _svi,
    "svi_stock": partial(_svi, optim=PyroOptim),
    "step_sites": partial(_svi, granularity="step"),
    "training": _training,
    "plain": partial(_fast, recurrence="plain"),
    "fused": partial(_fast, recurrence="fused"),
    "plain_srnn": _plain_srnn,
    "plain_srnn_mlp": partial(_plain_srnn, smoothing_input="mlp"),
    "srnn": _srnn,
    "srnn_fused": partial(_srnn, recurrence="fused"),
}
"""The contenders (a) to (f) of docs/performance.md, and the other recurrences."""
