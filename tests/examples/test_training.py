"""Training, its checkpoints, sweeps and the stopping rule."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.io import manifest, tensor_files, torch_files
from zpyro.training import Callback, Trainer
from zpyro.training.optimizer import Optimizer
from zpyro_examples.easy_to_hard import building, running, solvers, sweep, tasks, training_task
from zpyro_examples.easy_to_hard.run_folder import RunFolder, Settings
from zpyro_examples.easy_to_hard.solvers import Answer, Solver
from zpyro_examples.easy_to_hard.sweep import Rule, Sweep
from zpyro_examples.easy_to_hard.tasks import Examples, Preset
from zpyro_examples.easy_to_hard.training_task import SolverTask, train_config

TASK = tasks.load("prefix-sums")
PRESET = Preset(
    width=8,
    iterations=4,
    progressive_weight=0.5,
    train_size=16,
    train_count=60,
    epochs=3,
    batch_size=20,
    average=0.9,
    valid_sizes=(16, 20),
    valid_count=10,
)


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_record(self, record: Mapping[str, float]) -> None:
        self.losses.append(record["loss"])


class Training:
    """A trainer with its solver, run and losses; it records every step."""

    def __init__(
        self,
        path: Path,
        solver: str = "recall",
        depth: str = "fixed",
        seed: int = 0,
        **changes: object,
    ) -> None:
        preset = dataclasses.replace(PRESET, **changes)  # pyright: ignore[reportArgumentType]
        self.settings = Settings("prefix-sums", "small", preset, solver, depth, seed)
        torch.manual_seed(seed)
        self.solver = building.build(TASK, preset, solver, depth)
        exists = (path / "settings.json").exists()
        self.folder = RunFolder.open(path) if exists else RunFolder.create(path, self.settings)
        self.task = SolverTask(TASK, self.settings, self.solver)
        config = train_config(self.settings, self.task.steps_per_epoch)
        config = dataclasses.replace(config, log_every=1)
        self.record = Losses()
        self.trainer = Trainer(self.task, config, run=self.folder.run, callbacks=[self.record])

    def fit(self) -> bool:
        """Train and choose the rule; False after an interruption."""
        if self.trainer.fit().interrupted:
            return False
        running.choose_rule(self.trainer, self.folder)
        return True


@pytest.mark.parametrize(
    ("solver", "depth"),
    [
        ("recall", "fixed"),
        ("recurrent", "fixed"),
        ("feed-forward", "fixed"),
        ("recall", "latent"),
        ("zforcing", "fixed"),
    ],
)
def test_every_solver_trains_and_is_found_again(tmp_path: Path, solver: str, depth: str) -> None:
    trained = Training(tmp_path / "run", solver, depth)
    before = [weight.detach().clone() for weight in trained.solver.parameters()]
    assert trained.fit()
    assert trained.trainer.state.step == 9
    moved = [(a - b).abs().max() for a, b in zip(before, trained.solver.parameters(), strict=True)]
    assert max(moved) > 0
    run = RunFolder.open(tmp_path / "run")
    assert run.settings() == trained.settings
    fresh = building.build(TASK, PRESET, solver, depth)
    run.load_weights(fresh, averaged=False)
    x = torch.rand(2, 1, 16)
    if solver != "zforcing":
        pairs = zip(fresh.answers(x, 4), trained.solver.answers(x, 4), strict=True)
        assert all(torch.equal(a.logits, b.logits) for a, b in pairs)
    assert run.rule().iterations(TASK, 64) >= 1


@pytest.mark.parametrize("growing", [0.0, 0.5])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, stop: int, growing: float) -> None:
    whole = Training(tmp_path / "whole", growing=growing)
    assert whole.fit()
    parted = Training(tmp_path / "parted", growing=growing)
    step = parted.trainer.step
    # A kill in the middle: the newest checkpoint counts. Saved before every step here.

    def save_and_step(batch: Examples) -> None:
        parted.trainer.save()
        step(batch)
        if parted.trainer.state.step == stop:
            torch.manual_seed(99)
            raise KeyboardInterrupt

    parted.trainer.step = save_and_step
    with pytest.raises(KeyboardInterrupt):
        parted.fit()
    again = Training(tmp_path / "parted", growing=growing)
    assert again.folder.recover() is None
    again.folder.load_weights(again.solver, averaged=False)
    again.trainer.resume()
    assert again.trainer.state.step == stop - 1
    assert again.fit()
    for kept in ("model.safetensors", "average.safetensors"):
        one = (tmp_path / "whole" / "last" / kept).read_bytes()
        assert one == (tmp_path / "parted" / "last" / kept).read_bytes()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    trained = Training(tmp_path / "run")
    trained.trainer.save()
    assert trained.fit()
    path = tmp_path / "run" / "last" / "average.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="does not match its checksum"):
        trained.folder.load_weights(trained.solver, averaged=True)
    again = Training(tmp_path / "run")
    assert "training continues from" in str(again.folder.recover())
    again.folder.load_weights(again.solver, averaged=False)
    again.trainer.resume()
    assert again.trainer.state.step == 0


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "run"
    solver = Training(path, extra_iterations=7).solver
    text = json.loads((path / "settings.json").read_text())
    text["preset"]["linger"] = text["preset"].pop("extra_iterations")
    (path / "settings.json").write_text(json.dumps(text))
    (path / "last").mkdir()
    weights = {
        name.replace("recurrent.", "thinker.", 1): value.detach()
        for name, value in solver.named_parameters()
    }
    tensor_files.write(path / "last" / "model.safetensors", weights)
    average = {name: value + 1 for name, value in weights.items()}
    tensor_files.write(path / "last" / "average.safetensors", average)
    torch_files.write(path / "last" / "state.pt", {"progress": {"step": 3}})
    run = RunFolder.open(path)
    assert run.settings().preset.extra_iterations == 7
    fresh = building.build(TASK, PRESET)
    for averaged in (False, True):
        run.load_weights(fresh, averaged=averaged)
        for new, old in zip(fresh.parameters(), solver.parameters(), strict=True):
            assert torch.equal(new, old + 1 if averaged else old)
    with pytest.raises(UserError, match="earlier version"):
        run.recover()
    (path / "last" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is corrupt"):
        run.load_weights(fresh, averaged=False)


def test_the_same_seed_trains_the_same_and_another_another(tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        trained = Training(tmp_path / str(number), seed=seed)
        trained.fit()
        losses.append(trained.record.losses)
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Training(tmp_path / "run", epochs=1)
    before = [weight.detach().clone() for weight in trained.solver.parameters()]
    honest = trained.solver.loss
    poison = next(trained.solver.parameters())

    def poisoned(x: Tensor, y: Tensor) -> Tensor:
        return honest(x, y) + (poison * float("nan")).sum()

    monkeypatch.setattr(trained.solver, "loss", poisoned)
    trained.fit()
    assert trained.trainer.accumulator.skipped()[0] == 3
    for old, new in zip(before, trained.solver.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_average_is_the_moving_average(tmp_path: Path) -> None:
    trained = Training(tmp_path / "run", throttle=True)
    expected = {name: w.detach().clone() for name, w in trained.solver.named_parameters()}
    step = trained.trainer.step

    def followed(batch: Examples) -> None:
        updates = trained.trainer.state.step
        step(batch)
        decay = min(0.9, (1 + updates) / (10 + updates))
        for name, weight in trained.solver.named_parameters():
            expected[name].mul_(decay).add_(weight.detach(), alpha=1 - decay)

    trained.trainer.step = followed
    trained.fit()
    fresh = building.build(TASK, PRESET)
    RunFolder.open(tmp_path / "run").load_weights(fresh, averaged=True)
    for name, average in fresh.named_parameters():
        torch.testing.assert_close(average.detach(), expected[name])


def test_checkpoints_declare_what_they_hold(tmp_path: Path) -> None:
    Training(tmp_path / "run").fit()
    meta = manifest.read(tmp_path / "run" / "last")
    assert (meta["step"], meta["epoch"], meta["averaged"]) == (9, 3, False)
    assert set(meta["sha256"]) == {"average.safetensors", "model.safetensors", "state.pt"}


def test_learning_rates() -> None:
    def factors(preset: Preset, epochs: tuple[int, ...], fractions: tuple[float, ...]):
        config = train_config(Settings("prefix-sums", "small", preset), 3)
        optimizer = Optimizer([([torch.nn.Parameter(torch.zeros(1))], 1.0)], config)
        pairs = zip(epochs, fractions, strict=True)
        return [optimizer.learning_rate(f, epoch) / preset.learning_rate for epoch, f in pairs]

    steps = dataclasses.replace(PRESET, schedule="steps", milestones=(60, 100), warmup=5.0)
    warm = factors(steps, (0, 59, 60, 100), (0.5,) * 4)
    assert warm == pytest.approx([0.18127, 1.0, 0.1, 0.01], rel=1e-4)
    assert factors(PRESET, (0, 0, 0), (0.0, 0.5, 1.0)) == pytest.approx([1.0, 0.5, 0.0])
    for change, message in (
        ({"optimizer": "lion"}, "choose adam or sgd"),
        ({"schedule": "linear"}, "choose cosine or steps"),
    ):
        preset = dataclasses.replace(PRESET, **change)
        with pytest.raises(UserError, match=message):
            train_config(Settings("prefix-sums", "small", preset), 3)
    unclipped = dataclasses.replace(PRESET, clip_norm=None)
    assert train_config(Settings("prefix-sums", "small", unclipped), 3).clip_norm == math.inf


def test_each_network_has_the_loss_it_was_published_with() -> None:
    extra = dataclasses.replace(PRESET, extra_iterations=20)
    for name, depth, weight, extra_iterations in (
        ("recall", "fixed", 0.5, 20),
        ("recall", "latent", 0.5, 20),
        ("recurrent", "fixed", 0.0, 0),
        ("feed-forward", "fixed", 0.0, 0),
    ):
        solver = building.build(TASK, extra, name, depth)
        assert isinstance(solver, solvers.FixedDepthSolver)
        assert solver.recurrent.extra_iterations == extra_iterations
        assert solver.recurrent.progressive_weight == weight


@pytest.mark.parametrize(
    ("mastered", "lengths"),
    [(0.0, (4, 4, 6, 9, 13, 16, 16, 16, 16)), (100.0, (4, 5, 6, 9, 13, 16, 16, 16, 16))],
)
def test_sequences_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mastered: float, lengths: tuple[int, ...]
) -> None:
    monkeypatch.setattr(training_task, "MASTERED", mastered)
    growing = dataclasses.replace(PRESET, growing=0.5, shortest=4)
    fractions = (0.0, 0.125, 0.25, 0.49, 0.5, 1.0)
    assert [training_task.grown_length(growing, f, 0, 16) for f in fractions] == [
        4,
        4,
        7,
        15,
        16,
        16,
    ]
    assert [training_task.grown_length(growing, f, 5, 16) for f in fractions] == [
        9,
        9,
        9,
        15,
        16,
        16,
    ]
    assert training_task.grown_length(growing, 0.0, 50, 16) == 16
    assert training_task.grown_length(PRESET, 0.0, 0, 16) == 16
    trained = Training(tmp_path / "run", growing=0.5, shortest=4, extra_iterations=20)
    seen: list[tuple[int, int]] = []
    honest = trained.solver.loss

    def noted(x: Tensor, y: Tensor) -> Tensor:
        seen.append((x.shape[-1], y.shape[-1]))
        # There is no extra over problems that are not whole yet.
        assert isinstance(trained.solver, solvers.FixedDepthSolver)
        assert trained.solver.recurrent.extra_iterations == (20 if x.shape[-1] == 16 else 0)
        # What is left is a problem of its own.
        assert torch.equal(x[:, 0].cumsum(1) % 2, y.float())
        return honest(x, y)

    monkeypatch.setattr(trained.solver, "loss", noted)
    trained.fit()
    assert seen == [(n, n) for n in lengths]


# -- sweeps and the rule --------------------------------------------------------------------------


class Table(Solver):
    """Gives answers from a table (iterations, B, cells), with confidences of its own."""

    def __init__(self, answers: Tensor, confidence: Tensor) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(()))
        self.table, self.confidence = answers, confidence

    def answers(self, inputs: Tensor, iterations: int):
        for answer, confidence in zip(self.table, self.confidence, strict=True):
            one = (2 * answer - 1) * torch.logit(confidence).unsqueeze(-1)
            yield Answer(torch.stack([torch.zeros_like(one), one], 1))


def test_a_sweep_counts_what_is_wholly_right() -> None:
    targets = torch.tensor([[0, 1], [1, 1], [0, 0]])
    right, wrong = targets.double(), 1 - targets.double()
    answers = torch.stack([wrong, right, right, wrong])
    answers[1, 0, 0] = 1.0
    confidence = torch.tensor([[0.6] * 3, [0.9, 0.8, 0.7], [0.8, 0.9, 0.6], [0.7, 0.7, 0.9]])
    solver = Table(answers, confidence.double())
    told: list[tuple[int, int]] = []
    found = sweep.sweep(
        *(solver, TASK, Examples(torch.zeros(3, 1, 2), targets), 2, 4),
        on_batch=lambda done, count: told.append((done, count)),
    )
    assert told == [(0, 3), (0, 3), (1, 3), (2, 3), (3, 3)]
    assert found.accuracy == pytest.approx((0, 2 / 3, 1, 0))
    # The first is surest at the second answer, which is wrong; the third at the last, likewise.
    assert found.confident == pytest.approx((0, 2 / 3, 2 / 3, 1 / 3))
    assert found.first_best == 3
    assert found.stopped is None


def test_the_rule() -> None:
    easy = Sweep(32, 9, (0.0, 0.5, 1.0, 1.0), ())
    hard = Sweep(64, 9, (0.0, 0.1, 0.1, 0.2, 0.9, 0.8), ())
    rule = sweep.choose(TASK, [easy, hard], None, PRESET)
    assert rule.rate == pytest.approx(1.5 * max(3 / 32, 5 / 64))
    assert rule.iterations(TASK, 512) == 72
    assert sweep.choose(TASK, [easy, hard], 30, PRESET).iterations(TASK, 512) == 30
    hopeless = Sweep(64, 9, (0.0, 0.0), ())
    assert sweep.choose(TASK, [easy, hopeless], None, PRESET).rate == pytest.approx(1.5 * 3 / 32)
    fallback = sweep.choose(TASK, [hopeless], None, PRESET)
    assert [fallback.iterations(TASK, size) for size in (16, 32, 8)] == [4, 8, 2]
    assert sweep.choose(TASK, [hopeless], 3, PRESET).iterations(TASK, 32) == 3
    assert Rule(1.5 * 32 / 64, None).iterations(TASK, 128) == 96


def test_throttled_training_slows_only_what_is_iterated(tmp_path: Path) -> None:
    trained = Training(tmp_path / "run", throttle=True)
    names = {parameter: name for name, parameter in trained.solver.named_parameters()}
    shares: dict[str, float] = {}
    for group, share in trained.task.parameter_groups():
        shares |= {names[parameter]: share for parameter in group}
    assert shares.keys() == set(names.values())
    for name, share in shares.items():
        iterated = ".recall." in name or ".block." in name
        assert share == (1 / PRESET.iterations if iterated else 1.0), name
