"""A sequence model and its batches as a task of the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from zpyro import settings
from zpyro.datasets.batching import BatchOrder, stream_batches
from zpyro.datasets.sequences import Dataset
from zpyro.datasets.splitting import SPLITS
from zpyro.distributed.processes import SINGLE_PROCESS, BatchShard, ProcessGroup
from zpyro.errors import UserError
from zpyro.evaluation import evaluate, smc
from zpyro.models import SequenceModel
from zpyro.models.conditions import cast_floats
from zpyro.nn.devices import to_device
from zpyro.nn.layers import State
from zpyro.nn.noise import CounterNoise, NoiseSource
from zpyro.nn.precision import resolve_precision
from zpyro.objectives.elbo import ZForcingELBO
from zpyro.objectives.fivo import FIVO
from zpyro.training import checkpoint
from zpyro.training.accumulator import means
from zpyro.training.building import build_objective
from zpyro.training.callbacks import duration, shown_number
from zpyro.training.checkpoint import Checkpoint, data_spec, some_start_frames
from zpyro.training.config import Config, recorded_settings
from zpyro.training.task import Numbers, StepTerms, Tensors, TrainingTask, TrainState

VALIDATION_SEED = 1
"""Of the noise in every validation, whatever the training's seed, so that curves compare."""
MAX_LENGTHS = 16
"""Lengths that batches are padded to where steps are captured, each with a graph of its own."""

Key = tuple[tuple[bool, ...], tuple[bool, ...]]
"""Which terms have a weight that is not 0 (the others cost nothing); and whether x_0, a mask of
missing values and covariates are given."""


class SequenceTask(TrainingTask[SequenceModel]):
    """A sequence model with the objective of a configuration on the batches of a data set.

    The best weights are those of the highest held-out ELBO, or with :class:`~zpyro.objectives.FIVO`
    of the highest particle-filter bound, which is recorded as ``smc`` beside it.

    Args:
        model: the model, on the device to train on.
        dataset: for batches and validation.
        config: the objective, batch size, seed and precision.
        process_group: this process among those that train together.
        objective: what to maximize in place of the configuration's objective.

    Raises:
        UserError: if a split is empty, or ``train.carry_state`` cannot be followed.
    """

    max_graphs = 2 * MAX_LENGTHS

    def __init__(
        self,
        model: SequenceModel,
        dataset: Dataset,
        config: Config,
        process_group: ProcessGroup = SINGLE_PROCESS,
        objective: ZForcingELBO | None = None,
    ) -> None:
        if len(dataset.valid) == 0 or len(dataset.train) == 0:
            raise UserError(
                f"data set {dataset.name}: training and validation both need sequences; "
                "give more data or set other fractions"
            )
        if config.train.carry_state and not model.carries_state:
            raise UserError(
                f"train.carry_state has no effect on the model {config.model.name}; leave it out"
            )
        # Data without streams are refused before anything is written.
        self._streams = dataset.train.streams if config.train.carry_state else None
        self.model, self.dataset, self.config = model, dataset, config
        model.skip_gradient = config.objective.skip_gradient
        self.steps_per_epoch = dataset.train.num_batches(config.train.batch_size)
        self.elbo = objective or build_objective(config.objective, self.steps_per_epoch)
        # What a training by a particle filter gains, the ELBO need not show.
        self.score = "smc" if isinstance(self.elbo, FIVO) else "elbo"
        self.term_names = tuple(term.name for term in self.elbo.components)
        self.process_group = process_group
        self._objective = self.elbo(model.model, model.active_guide)
        process_group.synchronize(self._objective)
        self._like = next(self._objective.parameters())
        chosen = resolve_precision(config.train.precision, self._like.device)
        self.can_capture = chosen != "bfloat16" or model.captures_bfloat16
        captures = config.train.cuda_graph and self._like.is_cuda and self.can_capture
        self._padded_lengths = length_edges(dataset.train.lengths) if captures else None
        # The state after the newest batch, where the rows of streams continue from it.
        self._carried: State = ()
        self._places = range(0)
        self._restores_state = True
        self._weights = self.elbo.weights()
        self._noise = CounterNoise(config.train.seed)
        self._step = 0
        self._is_first_step = True

    # -- the batches and the loss -----------------------------------------------------------------

    def batches(self, epoch: int, first: int) -> Iterator[BatchShard]:
        train, sequences, group = self.config.train, self.dataset.train, self.process_group
        size, seed = train.batch_size, train.seed
        if self._streams is not None:
            rows = stream_batches(self._streams, size, seed=seed, epoch=epoch, first=first)
            for indices, continues in rows:
                places = group.stream_part(len(indices))
                # A process without a row computes one that does not count.
                own = slice(places.start, None, places.step) if places else slice(1)
                batch = sequences.stream_batch(indices[own], continues[own])
                yield BatchShard(batch, places, len(indices))
            return
        order = BatchOrder(
            len(sequences),
            size,
            sequences.lengths_of,
            shuffle=True,
            seed=seed,
            epoch=epoch,
            bucketed=train.bucketed,
        )
        for indices, places, total in order.batches(first, group.part):
            own = sequences[indices if places else slice(1)]
            yield BatchShard(own.training_batch(seed=seed, epoch=epoch), places, total)

    def before_step(self, state: TrainState, fraction: float) -> None:
        del fraction
        self._step = self.elbo.step = state.step
        self._weights = self.elbo.weights()

    def weights(self) -> dict[str, float]:
        return self._weights

    def inputs(self, batch: BatchShard) -> tuple[Key, Tensors]:
        """The key; then counts (3 + B,), x, lengths, and what else there is: x_0, the mask of
        missing values, covariates, and the state.

        The counts are the rows that count here and in the whole batch, the step, and the places of
        the rows in the whole batch.
        """
        whole, like = batch.batch, self._like
        self._places = batch.places
        places = batch.places or [0]
        counts = torch.tensor([len(batch.places), batch.total, self._step, *places])
        tensors = [counts, cast_floats(self._padded(whole.x), like), whole.lengths]
        masks, covariates = whole.observed, whole.covariates
        optional = (
            whole.start,
            None if masks is None else self._padded(masks),
            None if covariates is None else self._padded(covariates),
        )
        tensors += [cast_floats(part, like) for part in optional if part is not None]
        on_device = [to_device(part, like.device) for part in tensors]
        given = tuple(part is not None for part in optional)
        key = tuple(map(bool, self._weights.values())), given
        if whole.continues is None:
            return key, tuple(on_device)
        state = self.model.initial_state(len(whole))
        # Only the first batch of a pass has more rows than the one before; none of them continue.
        if self._carried and len(self._carried[0]) >= len(whole):
            continues = to_device(whole.continues, like.device).unsqueeze(-1)
            # Only the last batches are smaller: what is left of the state are its first rows.
            state = tuple(
                before[: len(whole)].where(continues, start)
                for before, start in zip(self._carried, state, strict=True)
            )
        return key, (*on_device, *state)

    def loss(self, key: Key, weights: Tensor, *tensors: Tensor) -> StepTerms:
        _, given = key
        counts, x, lengths, *rest = tensors
        own, total, step = counts[:3].unbind()
        self._noise.start_step(step, counts[3:])
        start, *extra = [rest.pop(0) if present else None for present in given]
        arguments = (x, lengths, start, *(extra if any(given[1:]) else ()))
        state = tuple(rest)
        continued = self.model.with_initial_state(state) if state else nullcontext(None)
        with self.elbo.weighted(weights.to(self._like.dtype)), continued as carried:
            loss = self._objective(*arguments)
            is_counted = (own > 0).to(loss.dtype)
            # One normalizer for all processes, whose gradients are summed afterwards.
            loss = loss * is_counted / total.to(loss.dtype)
        terms, frames = self._objective.terms, lengths.sum()
        assert terms is not None
        values = {"loss": terms.loss, **terms.values}
        if self.process_group.world_size > 1:
            values = {name: value * is_counted for name, value in values.items()}
            frames = frames * is_counted
        final = () if carried is None or carried.final is None else carried.final
        return StepTerms(loss, values, total, frames, final)

    @contextlib.contextmanager
    def step_context(self, batch: BatchShard) -> Generator[None, None, None]:
        """Noise of this process' rows, and Pyro's own (slow) checks in the first step."""
        del batch
        self.model.set_noise_source(self._noise)
        try:
            with pyro.validation_enabled(self._is_first_step):
                yield
        finally:
            self.model.set_noise_source(NoiseSource())
        self._is_first_step = False

    def after_step(self, is_finite: Tensor, outputs: Tensors) -> None:
        del is_finite
        self._carried = outputs

    def batch_names(self, batch: BatchShard) -> Sequence[str]:
        return batch.batch.names

    def _padded(self, x: Tensor) -> Tensor:
        """x with zeros up to the next captured length; padding changes no term."""
        if self._padded_lengths is None:
            return x
        steps = x.shape[1]
        length = int(self._padded_lengths[np.searchsorted(self._padded_lengths, steps)])
        return torch.cat([x, x.new_zeros(x.shape[0], length - steps, *x.shape[2:])], dim=1)

    # -- records and validation -------------------------------------------------------------------

    def summarize(self, sums: dict[str, float], seconds: float) -> dict[str, float | None]:
        return summarize(sums, seconds)

    def validate(self, on_batch: Callable[[int, int], None] | None) -> dict[str, Any]:
        result = evaluate(
            self.model,
            self.dataset.valid,
            batch_size=self.config.train.batch_size,
            seed=VALIDATION_SEED,
            on_batch=on_batch,
            process_group=self.process_group,
        )
        numbers = {n: value for n, value in vars(result).items() if isinstance(value, int | float)}
        if isinstance(self.elbo, FIVO):
            filtered = smc(
                self.model,
                self.dataset.valid,
                particles=self.elbo.num_particles,
                runs=1,
                threshold=self.elbo.threshold,
                batch_size=self.config.train.batch_size,
                seed=VALIDATION_SEED,
            )
            numbers |= {"smc": filtered.smc, "smc_stderr": filtered.stderr}
        return {name: value if np.isfinite(value) else None for name, value in numbers.items()}

    def describe_record(self, record: Mapping[str, Any]) -> dict[str, str]:
        # Terms that the model does not have are zero.
        terms = {
            term.label: shown_number(record[term.name])
            for term in self.elbo.components
            if record[term.name] != 0.0
        }
        bad = (
            f" ({record['bad_term']} at step {record['bad_step']})" if "bad_step" in record else ""
        )
        skipped = {"skipped": f"{record['skipped']}{bad}"} if record["skipped"] else {}
        return {
            "bound": shown_number(record["bound"]),
            **terms,
            "KL weight": f"{record['kl_weight']:.2f}",
            "gradient norm": shown_number(record["gradient_norm"]),
            "frames/s": shown_number(record["frames_per_second"]),
            **skipped,
        }

    def describe_validation(self, record: Mapping[str, Any]) -> str:
        name = "smc" if "smc" in record else "elbo"
        bound, stderr = shown_number(record[name]), record[f"{name}_stderr"]
        error = "" if stderr is None else f" +- {shown_number(stderr)}"
        return (
            f"step {record['step']}  epoch {record['epoch']:.1f}  {duration(record['seconds'])}  "
            f"held-out bound {bound}{error} nats/sequence  KL {shown_number(record['kl'])}"
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        state: TrainState,
        *,
        metrics: Numbers,
        averaged: bool,
        training_state: dict[str, Any] | None,
    ) -> None:
        held = Checkpoint(
            model=self.model,
            config=self.config.model,
            data=data_spec(self.dataset),
            start=some_start_frames(self.dataset.train, self.config.train.seed),
            step=state.step,
            epoch=state.epoch,
            metrics=metrics,  # pyright: ignore[reportArgumentType]
            averaged=averaged,
            vocabulary=self.dataset.vocabulary,
            settings=recorded_settings(self.config),
            fingerprint=self._fingerprint,
        )
        checkpoint.save(folder, held, training_state, keep_previous=training_state is not None)

    def metadata(self, state: TrainState, best_step: int | None) -> dict[str, Any]:
        """What :meth:`zpyro.models.SequenceModel.save` records of the training; plain values.

        Args:
            state: where the training ended.
            best_step: the step of the best bound, whose weights the model holds.
        """
        return {
            "data": settings.plain(data_spec(self.dataset)),
            "fingerprint": self._fingerprint,
            "sequences": {name: len(self.dataset.split(name)) for name in SPLITS},
            "training": {
                "steps": state.step,
                "epochs": state.epoch,
                "seconds": round(state.seconds, 1),
                "best_elbo": state.best,
                "best_step": best_step,
                **settings.plain(self.config.train, "train"),
            },
        }

    @cached_property
    def _fingerprint(self) -> str:
        return checkpoint.fingerprint(self.dataset)

    def check_resumable(self, folder: Path) -> None:
        last = checkpoint.load(folder)
        check_same_data(folder.parent, last, self.dataset, self._fingerprint)
        # Rows of streams continue each other only in batches of the size that they had.
        self._restores_state = last.settings.get("train.batch_size") in (
            None,
            self.config.train.batch_size,
        )

    def state_dict(self) -> list[Tensor]:
        """The state of the recurrence after the newest batch, in the order of its rows."""
        group = self.process_group
        if group.world_size == 1 or not self._carried:
            return list(self._carried)
        own = [part[: len(self._places)].cpu() for part in self._carried]
        parts = group.gather((list(self._places), own))
        order = torch.tensor([place for places, _ in parts for place in places]).argsort()
        return [torch.cat(each)[order] for each in zip(*(own for _, own in parts), strict=True)]

    def load_state_dict(self, state: list[Tensor]) -> None:
        if not (self._restores_state and state):
            return
        places = self.process_group.stream_part(len(state[0])) or [0]
        self._carried = tuple(part[list(places)].to(self._like.device) for part in state)


def check_same_data(
    folder: Path, last: Checkpoint, dataset: Dataset, fingerprint: str | None = None
) -> None:
    """Check that a data set is the one that a run was trained on.

    Args:
        folder: of the run, for the message.
        last: its newest checkpoint.
        dataset: the data set.
        fingerprint: of the data set if it is known, see :func:`checkpoint.fingerprint`.

    Raises:
        UserError: if it is another one, or has changed.
    """
    same = (last.data, last.vocabulary) == (data_spec(dataset), dataset.vocabulary)
    if same and last.fingerprint is not None:
        same = last.fingerprint == (fingerprint or checkpoint.fingerprint(dataset))
    if not same:
        raise UserError(
            f"{folder}: the data are not those it was trained on; "
            "point --data at those, unchanged, or start a new training"
        )


def summarize(sums: Mapping[str, float], seconds: float) -> dict[str, float | None]:
    """The means over steps of an interval, with the bound, log-likelihood minus KL."""
    return means({**sums, "bound": sums["log_likelihood"] - sums["kl"]}, seconds)


def length_edges(lengths: np.ndarray) -> np.ndarray:
    """At most :data:`MAX_LENGTHS` lengths to pad to, equally often used; the last is the longest.

    Args:
        lengths: of all sequences, (N,).
    """
    shares = np.linspace(0.0, 1.0, MAX_LENGTHS + 1)[1:]
    return np.unique(np.quantile(lengths, shares, method="higher"))
