"""Training, its checkpoints, sweeps and the stopping rule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import building, solvers, sweep, tasks, train
from zpyro_examples.easy_to_hard.run_folder import RunFolder, Settings
from zpyro_examples.easy_to_hard.solvers import Answer, Solver
from zpyro_examples.easy_to_hard.sweep import Rule, Sweep
from zpyro_examples.easy_to_hard.tasks import Examples, Preset
from zpyro_examples.easy_to_hard.train import Trainer

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


class NullLogger:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.losses: list[float] = []

    def step(self, fraction: float, loss: float, epoch: float) -> None:
        self.losses.append(loss)

    def line(self, text: str) -> None:
        self.lines.append(text)


def trainer(
    folder: Path, solver: str = "recall", depth: str = "fixed", seed: int = 0, **changes: object
) -> Trainer:
    preset = dataclasses.replace(PRESET, **changes)  # pyright: ignore[reportArgumentType]
    settings = Settings("prefix-sums", "small", preset, solver, depth, seed)
    torch.manual_seed(seed)
    built = building.build(TASK, preset, solver, depth)
    if (folder / "settings.json").exists():
        run = RunFolder.open(folder)
    else:
        run = RunFolder.create(folder, settings)
    return Trainer(TASK, settings, built, run, NullLogger())


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
    trained = trainer(tmp_path / "run", solver, depth)
    before = [weight.detach().clone() for weight in trained.solver.parameters()]
    assert trained.fit()
    assert trained.progress.step == 9
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


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = trainer(tmp_path / "whole")
    assert whole.fit()
    parted = trainer(tmp_path / "parted")
    steps = parted._step

    def step_and_stop(batch: Examples, epoch: int) -> float:
        loss = steps(batch, epoch)
        if parted.progress.step == stop:
            torch.manual_seed(99)
            raise KeyboardInterrupt
        return loss

    parted._step = step_and_stop
    # A kill in the middle: what was saved last counts. Saved after every step here.
    parted.save()
    original = parted._step

    def save_each(batch: Examples, epoch: int) -> float:
        parted.save()
        return original(batch, epoch)

    parted._step = save_each
    with pytest.raises(KeyboardInterrupt):
        parted.fit()
    again = trainer(tmp_path / "parted")
    again.restore()
    assert again.progress.step == stop - 1
    assert again.fit()
    for kept in ("model.safetensors", "average.safetensors"):
        one = (tmp_path / "whole" / "last" / kept).read_bytes()
        assert one == (tmp_path / "parted" / "last" / kept).read_bytes()


def test_the_same_seed_trains_the_same_and_another_another(tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        trained = trainer(tmp_path / str(number), seed=seed)
        trained.fit()
        losses.append(trained.reporter.losses)  # pyright: ignore[reportAttributeAccessIssue]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = trainer(tmp_path / "run", epochs=1)
    before = [weight.detach().clone() for weight in trained.solver.parameters()]
    honest = trained.solver.loss
    poison = next(trained.solver.parameters())

    def poisoned(x: Tensor, y: Tensor) -> Tensor:
        return honest(x, y) + (poison * float("nan")).sum()

    monkeypatch.setattr(trained.solver, "loss", poisoned)
    trained.fit()
    assert trained.progress.skipped == 3
    for old, new in zip(before, trained.solver.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_average_is_the_moving_average(tmp_path: Path) -> None:
    trained = trainer(tmp_path / "run")
    expected = [weight.detach().clone() for weight in trained.solver.parameters()]
    steps = trained._step

    def followed(batch: Examples, epoch: int) -> float:
        loss = steps(batch, epoch)
        decay = min(0.9, trained.progress.step / (trained.progress.step + 10))
        for kept, weight in zip(expected, trained.solver.parameters(), strict=True):
            kept.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        return loss

    trained._step = followed
    trained.fit()
    for kept, average in zip(expected, trained.average, strict=True):
        torch.testing.assert_close(average, kept)


def test_learning_rates() -> None:
    steps = dataclasses.replace(PRESET, schedule="steps", milestones=(60, 100), warmup=5.0)
    factors = [train.rate_factor(steps, epoch, 0.5) for epoch in (0, 59, 60, 100)]
    assert factors == pytest.approx([0.18127, 1.0, 0.1, 0.01], rel=1e-4)
    cosine = [train.rate_factor(PRESET, 0, fraction) for fraction in (0.0, 0.5, 1.0)]
    assert cosine == pytest.approx([1.0, 0.5, 0.0])
    with pytest.raises(UserError, match="choose adam or sgd"):
        train.make_optimizer(torch.nn.Linear(1, 1), dataclasses.replace(PRESET, optimizer="lion"))


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
    monkeypatch.setattr(train, "MASTERED", mastered)
    growing = dataclasses.replace(PRESET, growing=0.5, shortest=4)
    fractions = (0.0, 0.125, 0.25, 0.49, 0.5, 1.0)
    assert [train.grown_length(growing, f, 0, 16) for f in fractions] == [4, 4, 7, 15, 16, 16]
    assert [train.grown_length(growing, f, 5, 16) for f in fractions] == [9, 9, 9, 15, 16, 16]
    assert train.grown_length(growing, 0.0, 50, 16) == 16
    assert train.grown_length(PRESET, 0.0, 0, 16) == 16
    trained = trainer(tmp_path / "run", growing=0.5, shortest=4, extra_iterations=20)
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
    found = sweep.sweep(solver, TASK, Examples(torch.zeros(3, 1, 2), targets), 2, 4)
    assert found.accuracy == pytest.approx((0, 2 / 3, 1, 0))
    # The first is surest at the second answer, which is wrong; the third at the last, likewise.
    assert found.confident == pytest.approx((0, 2 / 3, 2 / 3, 1 / 3))
    assert found.first_best == 3
    assert found.stopped is None


def test_the_rule() -> None:
    easy = Sweep(32, 9, (0.0, 0.5, 1.0, 1.0), ())
    hard = Sweep(64, 9, (0.0, 0.1, 0.1, 0.2, 0.9, 0.8), ())
    rule = sweep.choose(TASK, [easy, hard], None)
    assert rule.rate == pytest.approx(1.5 * max(3 / 32, 5 / 64))
    assert rule.iterations(TASK, 512) == 72
    assert sweep.choose(TASK, [easy, hard], 30).iterations(TASK, 512) == 30
    hopeless = Sweep(64, 9, (0.0, 0.0), ())
    assert sweep.choose(TASK, [easy, hopeless], None).rate == pytest.approx(1.5 * 3 / 32)
    assert Rule(1.5 * 32 / 64, None).iterations(TASK, 128) == 96


def test_throttled_training_slows_only_what_is_iterated() -> None:
    preset = dataclasses.replace(PRESET, throttle=True)
    solver = building.build(tasks.load("prefix-sums"), preset)
    shares: dict[str, float] = {}
    names = {parameter: name for name, parameter in solver.named_parameters()}
    for group in train.make_optimizer(solver, preset).param_groups:
        shares |= {names[parameter]: group["share"] for parameter in group["params"]}
    assert shares.keys() == set(names.values())
    for name, share in shares.items():
        iterated = ".recall." in name or ".block." in name
        assert share == (1 / preset.iterations if iterated else 1.0), name
