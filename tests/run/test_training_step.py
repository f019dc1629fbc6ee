"""A training step never waits for the device, and padding to recorded lengths changes nothing."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pyro
import pytest
import torch

from tests.recurrence.fake_graphs import use_fake_graphs
from tests.run.small import dataset, model, settings
from zpyro.distributed.processes import full_batch
from zpyro.models.config import model_config
from zpyro.nn import precision
from zpyro.nn.kernels.cuda_graph import GraphedCallable
from zpyro.training import build_model
from zpyro.training import fitting as training
from zpyro.training import trainer as trainer_module
from zpyro.training.accumulator import MetricAccumulator
from zpyro.training.optimizer import Optimizer
from zpyro.training.sequence_task import MAX_LENGTHS, SequenceTask, length_edges
from zpyro.training.trainer import Trainer

pytestmark = pytest.mark.fast


def make(device: str = "cpu", **train: object) -> tuple[Trainer, SequenceTask]:
    config = settings(**train)
    task = SequenceTask(model().to(device), dataset(), config)
    return Trainer(task, config.train), task


def test_nothing_is_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # A tensor on "meta" has no values: reading one, or meeting one of another device, raises.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    elsewhere = Optimizer([(list(model().parameters()), 1.0)], settings().train)
    monkeypatch.setattr(trainer_module, "Optimizer", lambda *_: elsewhere)
    trainer, task = make("meta")
    trainer.accumulator = MetricAccumulator(torch.device("meta"), task.term_names)
    batch = next(iter(dataset().train.batches(8))).to("meta")
    assert batch.start is not None
    controls = torch.zeros(4, dtype=torch.float64, device="meta")
    counts = torch.zeros(3 + len(batch), dtype=torch.int64, device="meta")
    lengths = batch.lengths.to("meta")
    norm = patch.object(Optimizer, "clip_gradients", lambda _: controls[0])
    moves = patch.object(Optimizer, "step")
    key = (True, True, True), (True, False, False)
    with pyro.validation_enabled(False), norm, moves as moved:
        is_finite, loss, *_ = trainer._update(key, controls, counts, batch.x, lengths, batch.start)
    assert loss.device.type == "meta"
    assert is_finite.device.type == moved.call_args.args[1].device.type == "meta"


def test_a_tensor_without_values_cannot_be_read() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones((), device="meta").item()


@pytest.mark.parametrize("count", [1, 3, 200])
def test_lengths_to_pad_to(count: int) -> None:
    lengths = np.random.default_rng(count).integers(5, 90, size=count)
    edges = length_edges(lengths)
    assert 1 <= len(edges) <= MAX_LENGTHS
    assert edges[-1] == lengths.max()
    assert set(edges.tolist()) <= set(lengths.tolist())


def test_sequences_of_one_length_are_not_padded() -> None:
    assert length_edges(np.full(50, 784)).tolist() == [784]


def test_padded_batches_have_the_same_terms() -> None:
    sums = []
    for padded in (False, True):
        trainer, task = make()
        if padded:
            task._padded_lengths = np.array([4, 20])
        trainer.step(full_batch(next(iter(dataset().train.batches(8)))))
        sums.append(trainer.accumulator.read())
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_terms_without_weight_have_a_graph_of_their_own() -> None:
    config = settings(max_steps=2)
    moving = replace(
        config.objective, auxiliary_weight_final=0.0, auxiliary_weight_rate=0.01, kl_weight=1.0
    )
    finite_step = torch.tensor(True), torch.zeros(()), torch.zeros(())
    with patch.object(
        GraphedCallable, "__call__", autospec=True, side_effect=lambda *_: finite_step
    ) as called:
        training.fit(model(), dataset(), replace(config, objective=moving))
    first, second = (call.args[0] for call in called.call_args_list)
    assert first is not second


def tf32() -> tuple[bool, bool]:
    """Whether products and convolutions on CUDA are rounded."""
    return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("chosen", precision.PRECISIONS)
def test_every_precision_trains_and_leaves_the_switches_alone(chosen: str) -> None:
    before = tf32()
    trainer, _ = make(precision=chosen)
    exact, _ = make()
    for each in (trainer, exact):
        torch.manual_seed(0)
        each.step(full_batch(next(iter(dataset().train.batches(8)))))
    assert trainer.accumulator.skipped() == (0, 0)
    expected = exact.accumulator.read()
    assert trainer.accumulator.read() == pytest.approx(expected, rel=0.05)
    assert tf32() == before


def test_bfloat16_is_not_float32() -> None:
    sums = []
    for chosen in ("float32", "bfloat16"):
        trainer, _ = make(precision=chosen)
        torch.manual_seed(0)
        trainer.step(full_batch(next(iter(dataset().train.batches(8)))))
        sums.append(trainer.accumulator.read()["loss"])
    assert sums[0] != sums[1]


def test_tf32_is_on_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with precision.products("tf32"):
        assert tf32() == (True, True)
    with precision.products("float32"):
        assert tf32() == (False, False)
    assert not torch.backends.cudnn.allow_tf32


def test_checking_a_graph_takes_its_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps whose first replay is compared with a direct call leave what direct steps leave."""
    ends = []
    for captured in (False, True):
        torch.manual_seed(0)
        with monkeypatch.context() as patched:
            graphs = use_fake_graphs(patched) if captured else []
            trainer, task = make("cpu", max_steps=12, average=0.9, batch_size=4)
            trainer._captures = captured
            trainer.fit()
        assert bool(graphs) == captured
        ends.append((task.model.state_dict(), trainer.optimizer.tensors(), trainer.accumulator))
    (weights, state, sums), (captured_weights, captured_state, captured_sums) = ends
    for name, value in weights.items():
        assert torch.equal(captured_weights[name], value), name
    assert all(torch.equal(a, b) for a, b in zip(captured_state, state, strict=True))
    assert captured_sums.state_dict() == sums.state_dict()


@pytest.mark.parametrize(
    ("name", "chosen", "captures"),
    [("dmm", "bfloat16", False), ("dmm", "float32", True), ("zforcing", "bfloat16", True)],
)
def test_what_is_not_captured(name: str, chosen: str, captures: bool) -> None:
    config = settings(precision=chosen)
    built = build_model(model_config(name, hidden_size=4), model().likelihood)
    assert SequenceTask(built, dataset(), config).can_capture == captures


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("chosen", precision.PRECISIONS)
def test_recorded_steps_train_like_launched_ones(chosen: str) -> None:
    ends = []
    for recorded in (False, True):
        config = settings(max_steps=40, precision=chosen, cuda_graph=recorded)
        module = model().to("cuda")
        outcome = training.fit(module, dataset(), config)
        assert outcome.skipped == 0
        ends.append(outcome.best)
    assert ends[0] == pytest.approx(ends[1], rel=0.05)
