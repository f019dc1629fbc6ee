"""Rows of a stream that go on with the state of the row before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.core.cases import make
from tests.run.small import dataset, model, settings
from zpyro import UserError
from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.prepared import prepare
from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.training import fitting as training
from zpyro.training import runs
from zpyro.training.config import Config

SIZE, ROW = 5, 4


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six streams of 3 to 11 rows of 4 frames; the samples tell stream and frame."""
    folder = tmp_path_factory.mktemp("books")
    for number, rows in enumerate((3, 11, 5, 8, 4, 7)):
        frames = np.arange(SIZE * (ROW * rows + 2)) // SIZE
        samples = (1000 * number + frames).astype("<i2")
        soundfile.write(folder / f"{number}.wav", samples, 16_000, subtype="PCM_16")
    chosen = BlizzardSettings(
        frame_size=SIZE, segment_length=ROW, valid_fraction=0.1, test_fraction=0.1
    )
    return prepare(Blizzard(), folder, folder / "out", chosen).dataset()


def code(sequences: Sequences, frame: torch.Tensor) -> torch.Tensor:
    raw = sequences.normalization.invert(frame.double().numpy())
    return torch.from_numpy(np.rint(raw * 32768)[..., 0])


@pytest.mark.fast
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_rows_go_on_where_the_row_before_ended(books: Dataset, batch_size: int) -> None:
    train = books.train
    before = None
    names: list[str] = []
    going_on = 0
    for batch in train.stream_batches(batch_size, seed=1, epoch=2):
        assert batch.continues is not None
        assert batch.start is not None
        first, last = code(train, batch.start), code(train, batch.x[:, -1])
        if before is None:
            assert not batch.continues.any()
        else:
            # The start frame is the last frame of the row before, if and only if it goes on.
            follows = before[: len(first)] == first
            assert torch.equal(follows, batch.continues)
        going_on += int(batch.continues.sum())
        before = last
        names += batch.names
    assert sorted(names) == sorted(train.names)
    streams = len({name.partition("#")[0] for name in names})
    # Only at the beginning of streams and lanes nothing is carried.
    assert going_on >= len(train) - streams - batch_size
    assert len(list(train.stream_batches(batch_size))) == train.num_batches(batch_size)


@pytest.mark.fast
def test_the_order_of_streams_changes_with_the_pass(books: Dataset) -> None:
    def names(epoch: int) -> list[str]:
        batches = books.train.stream_batches(2, epoch=epoch)
        return [name for batch in batches for name in batch.names]

    assert names(0) == names(0)
    assert names(0) != names(1)


@pytest.mark.fast
@pytest.mark.parametrize("granularity", ["sequence", "step"])
@pytest.mark.parametrize("name", ["gaussian", "layer_norm", "srnn", "vrnn", "rnn"])
def test_two_rows_are_one_long_row(name: str, granularity: str) -> None:
    """The forward half: priors and likelihoods given the latents and the frames."""
    module = make(name, lengths=(6, 6), granularity=granularity).module
    torch.manual_seed(3)
    x, start = torch.randn(2, 6, 3).double(), torch.randn(2, 3).double()
    z = torch.randn(2, 6, module.latent_size).double()
    whole = module.bind(x, None, start).trajectory(z)
    first = module.bind(x[:, :4], None, start).trajectory(z[:, :4])
    # One step at a time gives the state to carry.
    state, frame = module.initial_state(2), start
    for t in range(4):
        inputs = module.embed_inputs(frame)
        state = module.transition(z[:, t], inputs, module.prepare(inputs, state))
        frame = x[:, t]
    with module.with_initial_state(state):
        second = module.bind(x[:, 4:], None, x[:, 3]).trajectory(z[:, 4:])
    for part in ("context", "features"):
        joined = torch.cat([getattr(first, part), getattr(second, part)])
        torch.testing.assert_close(joined, getattr(whole, part), rtol=1e-12, atol=1e-12)


@pytest.mark.fast
def test_the_state_after_a_row_is_told_and_cut_off() -> None:
    case = make("gaussian", lengths=(5, 5))
    module = case.module
    first = tuple(torch.randn(2, 6).double() for _ in range(2))
    with module.with_initial_state(first) as carried:
        z = module.guide(case.x, None, case.start)
        hidden = module.bind(case.x, None, case.start).trajectory(z).features
    assert carried.final is not None
    torch.testing.assert_close(carried.final[0], hidden[-1, 0])
    assert not carried.final[0].requires_grad
    assert module.initial_state_override is None
    assert not torch.equal(z, module.guide(case.x, None, case.start))


def carried_settings(**train: object) -> Config:
    return settings(carry_state=True, batch_size=3, max_steps=20, **train)


def test_training_carries_the_state_and_resumes_bit_for_bit(books: Dataset, tmp_path: Path) -> None:
    config = carried_settings(checkpoint_every=7, validate_every=20)
    whole = model()
    training.fit(whole, books, config, run=runs.create(tmp_path / "whole", config))
    half = replace(config, train=replace(config.train, max_steps=14))
    module = model()
    run = runs.create(tmp_path / "half", config)
    training.fit(module, books, half, run=run)
    torch.manual_seed(99)
    training.fit(module, books, config, run=run, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    without = model()
    training.fit(without, books, settings(batch_size=3, max_steps=20))
    assert not torch.equal(
        without.get_parameter("output.weight"), whole.get_parameter("output.weight")
    )


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_a_last_batch_with_fewer_rows_ends_no_training(books: Dataset, size: int) -> None:
    config = carried_settings()
    config = replace(config, train=replace(config.train, batch_size=size, max_steps=None, epochs=3))
    outcome = training.fit(model(), books, config)
    assert outcome.epoch == 3


@pytest.mark.parametrize("size", [2, 5])
def test_another_batch_size_begins_without_a_state(
    books: Dataset, tmp_path: Path, size: int
) -> None:
    config = carried_settings(checkpoint_every=4, validate_every=20)
    run = runs.create(tmp_path / "run", config)
    half = replace(config, train=replace(config.train, max_steps=4))
    module = model()
    training.fit(module, books, half, run=run)
    other = replace(config, train=replace(config.train, batch_size=size, max_steps=9))
    assert training.fit(module, books, other, run=run, resume=True).step == 9


@pytest.mark.fast
def test_what_cannot_carry_is_told(books: Dataset) -> None:
    with pytest.raises(UserError, match="no rows of longer streams"):
        training.fit(model(), dataset(), carried_settings())
    other = make("vrnn").module.float()
    config = carried_settings()
    config = replace(config, model=replace(config.model, name="vrnn"))
    with pytest.raises(UserError, match="carry_state has no effect on the model vrnn"):
        training.fit(other, books, config)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_states_of_any_shape_are_repeated_for_particles(shape: tuple[int, ...]) -> None:
    module = model()
    state = torch.randn(3, *shape), torch.randn(3, 4)
    with module.with_initial_state(state):
        for part, repeated in zip(state, module.first_state(6), strict=True):
            assert torch.equal(repeated, torch.cat([part, part]))
