"""The trainer on a task of its own: a linear regression, resumed and with averaged weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zpyro.distributed import ProcessGroup
from zpyro.errors import UserError
from zpyro.io import files, manifest, torch_files
from zpyro.training import Run, StepTerms, TrainConfig, Trainer, TrainingTask, TrainState

pytestmark = pytest.mark.fast


class Regression(TrainingTask[nn.Linear]):
    score = "score"
    steps_per_epoch = 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.x = torch.randn(32, 3)
        self.y = self.x.sum(-1, keepdim=True)

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(32, generator=torch.Generator().manual_seed(epoch)).view(4, 8)
        yield from [(self.x[rows], self.y[rows]) for rows in order[first:]]

    def inputs(self, batch: tuple[Tensor, Tensor]) -> tuple[tuple[()], tuple[Tensor, ...]]:
        return (), batch

    def loss(self, key: Any, weights: Tensor, *tensors: Tensor) -> StepTerms:
        del key, weights
        x, y = tensors
        loss = (self.model(x) - y).square().mean()
        size = torch.tensor(len(x))
        return StepTerms(loss, {"loss": loss.detach() * size}, size, size)

    def validate(self, on_batch: Callable[[int, int], None] | None) -> dict[str, Any]:
        del on_batch
        with torch.no_grad():
            return {"score": -float((self.model(self.x) - self.y).square().mean())}

    def save(
        self,
        folder: Path,
        state: TrainState,
        *,
        metrics: Any,
        averaged: bool,
        training_state: dict[str, Any] | None,
    ) -> None:
        del state, metrics, averaged

        def fill(place: Path) -> None:
            torch_files.write(place / "state.pt", dict(training_state or {}))
            sums = {"state.pt": files.checksum(place / "state.pt")}
            meta = manifest.signed({"format": manifest.FORMAT, "sha256": sums})
            (place / manifest.META).write_text(json.dumps(meta))

        files.replace_folder(folder, fill, keep_previous=training_state is not None)


TRAIN = TrainConfig(
    epochs=None, max_steps=40, learning_rate=0.05, validate_every=10, average=0.9, log_every=5
)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_any_task_trains_and_resumes_bit_for_bit(tmp_path: Path, noise: float) -> None:
    settings = replace(TRAIN, weight_noise=noise)
    whole, half = Regression(), Regression()
    torch.manual_seed(1)
    outcome = Trainer(whole, settings, run=Run(made(tmp_path / "whole"))).fit()
    assert outcome.step == 40
    assert outcome.best is not None
    assert outcome.best > -0.5
    run = Run(made(tmp_path / "half"))
    torch.manual_seed(1)
    Trainer(half, replace(settings, max_steps=17), run=run).fit()
    torch.manual_seed(5)
    trainer = Trainer(half, settings, run=run)
    trainer.resume()
    trainer.fit()
    assert torch.equal(whole.model.weight, half.model.weight)
    kinds = [record["kind"] for record in run.records()]
    assert kinds.count("train") == 8
    last = half.model.weight.detach().clone()
    with trainer.averaged_weights() as averaged:
        assert averaged
        assert not torch.equal(half.model.weight, last)
    assert torch.equal(half.model.weight, last)


def test_weight_noise_is_refused_in_several_processes() -> None:
    settings = replace(TRAIN, weight_noise=0.1)
    with pytest.raises(UserError, match=r"train\.weight_noise: .* train in one process"):
        Trainer(Regression(), settings, process_group=ProcessGroup(world_size=2))


def test_a_validation_after_the_last_step_is_saved(tmp_path: Path) -> None:
    run = Run(made(tmp_path / "run"))
    Trainer(Regression(), replace(TRAIN, validate_every=None), run=run).fit()
    for expected in (1, 1):
        trainer = Trainer(Regression(), replace(TRAIN, validate_every=40), run=run)
        trainer.resume()
        trainer.run_pending_validation()
        trainer.save()
        assert [record["kind"] for record in run.records()].count("valid") == expected


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
