"""The commands, each with what it prints and leaves behind."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.cli.conftest import RATE, SMALL, Zpyro, write_tones
from zpyro.datasets import load
from zpyro.datasets.npz import load_plain
from zpyro.evaluation.baselines import continuous as baselines
from zpyro.training import runs

TOKENS = {
    "perplexity",
    "baseline_trigram",
    "baseline_trigram_per_frame",
    "baseline_trigram_perplexity",
}
SAMPLES = {"bits_per_sample"}
BINARY = {
    f"baseline_{name}{ending}"
    for name in ("bernoulli", "markov", "neighbors")
    for ending in ("", "_per_frame")
}
KEYS = {
    "elbo",
    "elbo_stderr",
    "elbo_median",
    "elbo_trimmed",
    "elbo_trimmed_stderr",
    "elbo_per_frame",
    "elbo_per_frame_stderr",
    "kl",
    "log_likelihood",
    "active_units",
    "mutual_information",
    "sequences",
    "frames",
    "baseline_gaussian",
    "baseline_gaussian_per_frame",
    "baseline_linear",
    "baseline_linear_per_frame",
    *TOKENS,
    *BINARY,
    *SAMPLES,
    "worst",
}


ENDINGS = ("", "_stderr", "_per_frame", "_per_frame_stderr")


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("train",),
        ("evaluate",),
        ("sample",),
        ("data",),
        ("data", "list"),
        ("data", "info"),
        ("import-reference",),
    ],
)
def test_help_has_an_example(zpyro: Zpyro, command: tuple[str, ...]) -> None:
    result = zpyro(*command, "--help")
    assert result.exit_code == 0
    assert f"zpyro {' '.join(command)}".strip() in result.output.partition("Example:")[2]


def test_training_leaves_a_run_directory_with_every_setting(array_run: Path, arrays: Path) -> None:
    assert sorted(path.name for path in array_run.iterdir()) == [
        ".lock",
        "baselines.safetensors",
        "best",
        "config.toml",
        "last",
        "metrics.jsonl",
    ]
    config = runs.open_run(array_run).config()
    assert config.data_folder == str(arrays)
    assert config.model.hidden_size == 12
    assert config.model.likelihood == "gaussian"
    assert config.train.max_steps == 12
    assert config.train.epochs is None


def test_training_without_a_terminal_is_quiet(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = zpyro("train", "--dataset=npz", "--data", arrays, "--out", out, "--epochs=2", *SMALL)
    assert result.exit_code == 0
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == f"loading npz from {arrays}"
    assert lines[1].startswith("npz: 32 sequences to train on, 4 held out; zforcing with ")
    assert lines[2].startswith("step 8  epoch 2.0")
    assert "held-out bound" in lines[2]
    assert lines[3].startswith("8 steps in ")
    assert lines[4] == f"next: zpyro evaluate {out}; zpyro sample {out} --out samples"


def test_evaluation_as_json(zpyro: Zpyro, array_run: Path, arrays: Path) -> None:
    result = zpyro("evaluate", array_run, "--split=train", "--json", "--batch-size=3")
    values = json.loads(result.stdout)
    assert set(values) == KEYS
    others = TOKENS | BINARY | SAMPLES
    assert all(math.isfinite(values[key]) for key in KEYS - others - {"worst"})
    assert all(values[key] is None for key in others)
    data = load("npz", arrays)
    assert values["sequences"] == len(data.train)
    assert values["frames"] == data.train.num_frames
    assert values["elbo"] == pytest.approx(values["log_likelihood"] - values["kl"])
    assert values["elbo"] / 6 == pytest.approx(values["elbo_per_frame"])
    for name, fit in (
        ("gaussian", baselines.diagonal_gaussian),
        ("linear", baselines.linear_predictor),
    ):
        expected = fit(data.train).score(data.train).mean()
        assert values[f"baseline_{name}"] == pytest.approx(expected)
        assert values[f"baseline_{name}_per_frame"] == pytest.approx(expected / 6)


def test_evaluation_as_a_table(zpyro: Zpyro, array_run: Path) -> None:
    result = zpyro("evaluate", array_run, "--checkpoint=last")
    for text in ("evidence lower bound", "nats/sequence", "baseline: linear predictor", "last"):
        assert text in result.stdout


@pytest.mark.parametrize("bound", ["iwae", "smc"])
def test_tighter_bounds(zpyro: Zpyro, array_run: Path, token_run: Path, bound: str) -> None:
    more = ("--bound", bound, "--particles", 20)
    values = json.loads(zpyro("evaluate", array_run, "--json", *more).stdout)
    added = {bound, f"{bound}_stderr", "particles", "stderr", "ess", "bound_perplexity"}
    added |= {f"{bound}_per_frame", f"{bound}_per_frame_stderr"}
    assert set(values) == KEYS | added
    assert values["particles"] == 20
    assert 1.0 <= values["ess"] <= 20.0
    assert values["stderr"] > 0
    assert values[bound] > values["elbo"] - 1.0  # of a few sequences, each by chance
    assert values["bound_perplexity"] is None
    table = zpyro("evaluate", array_run, *more).stdout
    name = {"iwae": "importance-weighted bound", "smc": "particle-filter bound"}[bound]
    assert name in table
    assert "effective paths" in table
    words = json.loads(zpyro("evaluate", token_run, "--json", *more).stdout)
    per_token = words[bound] * words["sequences"] / words["frames"]
    assert words["bound_perplexity"] == pytest.approx(math.exp(-per_token))


def test_the_largest_of_three_bounds(zpyro: Zpyro, array_run: Path) -> None:
    more = ("--bound=best", "--particles=6")
    values = json.loads(zpyro("evaluate", array_run, "--json", *more).stdout)
    bounds = {f"{bound}{part}" for bound in ("iwae", "smc") for part in ENDINGS}
    best = {"best_per_frame", "best_per_frame_stderr", "bound_perplexity", "particles"}
    assert set(values) == KEYS | bounds | best
    nats = [values[f"{bound}_per_frame"] for bound in ("elbo", "iwae", "smc")]
    assert values["best_per_frame"] == max(nats)
    assert values["best_per_frame_stderr"] > 0
    assert "largest of the three bounds" in zpyro("evaluate", array_run, *more).stdout


def test_all_is_the_sum_of_the_splits(zpyro: Zpyro, array_run: Path) -> None:
    found = {
        split: json.loads(zpyro("evaluate", array_run, f"--split={split}", "--json").stdout)
        for split in ("train", "valid", "test", "all")
    }
    whole = found.pop("all")
    assert whole["sequences"] == sum(part["sequences"] for part in found.values()) == 40
    total = sum(part["elbo"] * part["sequences"] for part in found.values())
    assert whole["elbo"] == pytest.approx(total / 40, rel=1e-5)


def test_other_data_are_put_on_the_scale_of_the_training(
    zpyro: Zpyro, tone_run: Path, tones: Path, tmp_path: Path
) -> None:
    def elbo(folder: Path, *more: str) -> float:
        result = zpyro("evaluate", tone_run, "--data", folder, "--json", *more)
        return json.loads(result.stdout)["elbo"]

    own = json.loads(zpyro("evaluate", tone_run, "--split=all", "--json").stdout)["elbo"]
    assert elbo(tones) == pytest.approx(own, rel=1e-4)
    assert elbo(tones, "--split=all") == pytest.approx(own, rel=1e-4)
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    for path in tones.iterdir():
        soundfile.write(quiet / path.name, 0.5 * soundfile.read(path)[0], RATE)
    assert elbo(quiet) != pytest.approx(own, rel=1e-2)
    # The splits of another folder are on the scale of the training too, not on their own.
    assert elbo(quiet, "--split=test") != pytest.approx(elbo(tones, "--split=test"), rel=1e-2)


def test_tokens_have_no_baselines_of_frames(zpyro: Zpyro, token_run: Path) -> None:
    values = json.loads(zpyro("evaluate", token_run, "--json").stdout)
    assert values["baseline_gaussian"] is None
    assert values["baseline_linear"] is None
    assert values["elbo_per_frame"] == pytest.approx(-math.log(11), rel=0.2)


def test_sound_is_sampled_as_wav_files_and_a_picture(
    zpyro: Zpyro, tone_run: Path, tmp_path: Path
) -> None:
    def sample(out: str, *more: str) -> list[np.ndarray]:
        result = zpyro(
            "sample", tone_run, "-n", 3, "--seconds", 0.123, "--out", tmp_path / out, *more
        )
        assert result.exit_code == 0
        assert "3 wav files" in result.stdout
        files = [soundfile.read(tmp_path / out / f"sample_{n}.wav") for n in (1, 2, 3)]
        assert all(rate == RATE for _, rate in files)
        return [samples for samples, _ in files]

    first, again, other = sample("a"), sample("b"), sample("c", "--seed=1")
    assert [len(sound) for sound in first] == [492, 492, 492]
    assert (tmp_path / "a" / "samples.png").stat().st_size > 10_000
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], first[1])
    calm = sample("d", "--temperature=0.01")
    assert np.std(calm[0]) < np.std(first[0])


def test_a_recording_is_continued(
    zpyro: Zpyro, tone_run: Path, tones: Path, tmp_path: Path
) -> None:
    source = tones / "tone_3.wav"
    result = zpyro(
        "sample", tone_run, "-n", 2, "--frames", 5, "--prefix", source, "--out", tmp_path
    )
    assert result.exit_code == 0
    original = soundfile.read(source)[0]
    kept = len(original) // 40 * 40
    for number in (1, 2):
        sound = soundfile.read(tmp_path / f"sample_{number}.wav")[0]
        assert len(sound) == kept + 200
        # A continuation beyond full scale is scaled, and what it continues with it.
        told = re.search(rf"sample_{number}\.wav: its peak of (\S+) is", result.stderr)
        gain = float(told[1]) if told else 1.0
        np.testing.assert_allclose(sound[:kept] * gain, original[:kept], atol=4e-3)
    np.save(tmp_path / "samples.npy", original)
    more = ("--frames", 5, "--prefix", tmp_path / "samples.npy", "--out", tmp_path / "array")
    assert zpyro("sample", tone_run, "-n", 2, *more).exit_code == 0
    again = soundfile.read(tmp_path / "array" / "sample_2.wav")[0]
    np.testing.assert_allclose(again, sound, atol=2e-4)


def test_arrays_and_tokens_are_sampled_as_arrays(
    zpyro: Zpyro, array_run: Path, token_run: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "prefix.npy"
    np.save(prefix, np.arange(15.0).reshape(3, 5))
    more = ("--frames", 9, "--out", tmp_path / "arrays", "--prefix", prefix)
    assert zpyro("sample", array_run, "-n", 4, *more).exit_code == 0
    assert load_plain(tmp_path / "arrays" / "samples.npz")["x"].shape == (4, 9, 5)
    assert zpyro("sample", token_run, "-n", 2, "--out", tmp_path / "tokens").exit_code == 0
    words = load_plain(tmp_path / "tokens" / "samples.npz")["x"]
    assert words.shape == (2, 100)
    assert words.min() >= 0
    assert words.max() < 11
    assert (tmp_path / "tokens" / "samples.png").exists()


def test_data_commands(zpyro: Zpyro, tones: Path) -> None:
    listed = zpyro("data", "list").stdout
    assert all(name in listed for name in ("vowels", "wav", "npz", "blizzard"))
    shown = zpyro("data", "info", "wav", "--data", tones, "--set", "data.frame_size=40").stdout
    assert "16 sequences" in shown
    assert "4000 Hz" in shown


def test_a_published_checkpoint_becomes_a_run(
    zpyro: Zpyro, tmp_path: Path, reference: Path
) -> None:
    run = tmp_path / "run"
    result = zpyro("import-reference", reference, run)
    assert result.exit_code == 0, result.output
    data = tmp_path / "frames.npz"
    size = runs.open_run(run).load("best").model.likelihood.size
    np.savez(data, x=np.random.default_rng(0).normal(size=(20, 4, size)))
    values = json.loads(zpyro("evaluate", run, "--data", data, "--json").stdout)
    assert values["sequences"] == 20
    assert values["baseline_gaussian"] is None
    assert (
        runs.open_run(run).load("best").model.get_parameter("output.weight").dtype == torch.float64
    )
    assert zpyro("sample", run, "--frames", 3, "--out", tmp_path / "s").exit_code == 0
    result = zpyro("train", "--resume", run, "--data", data)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        f"error: {run}: holds a model without a training to resume; start a new training",
    )


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A file as the published code saves it."""
    arrays = load_plain(Path(__file__).parents[1] / "data" / "gaussian.npz")
    weights = {
        name.removeprefix("weight/"): torch.from_numpy(arrays[name])
        for name in arrays
        if name.startswith("weight/")
    }
    emb = weights["emb_mod.0.weight"].shape
    state = {
        "inp_dim": emb[1],
        "emb_dim": emb[0],
        "rnn_dim": weights["bwd_mod.weight_hh_l0"].shape[1],
        "z_dim": weights["pri_mod.2.weight"].shape[0] // 2,
        "mlp_dim": weights["pri_mod.0.weight"].shape[0],
        "out_dim": weights["fwd_out_mod.weight"].shape[0],
        "nlayers": 1,
        "cond_ln": False,
        "z_force": False,
        "out_type": "gaussian",
        "state_dict": weights,
    }
    path = tmp_path / "published.pt"
    torch.save(state, path)
    return path


def test_a_preset_names_its_data_set(zpyro: Zpyro, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "digits", 12)
    for number in range(12):
        name = f"{number}_voice_{number}.wav"
        (folder / f"tone_{number}.wav").rename(folder / name)
    more = ("--set=data.sample_rate=none", "--set=data.frame_size=40", "--max-steps=2", *SMALL)
    result = zpyro("train", "--preset=fsdd", "--data", folder, "--out", tmp_path / "run", *more)
    assert result.exit_code == 0, result.output
    assert "wav: 4 sequences to train on, 3 held out" in result.stderr
