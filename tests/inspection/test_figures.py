"""Pictures of a sequence: axes and their units, and that they show what was computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.testing import assert_allclose

from tests.inspection import runs
from zpyro.analysis import plots
from zpyro.analysis.report.figures import (
    plot_input,
    plot_latents,
    plot_prior_posterior,
    plot_reconstruction,
    top_latents_by_kl,
)
from zpyro.analysis.report.views import view_sequence


def labels(axes: list[Axes]) -> list[tuple[str, str]]:
    return [(each.get_xlabel(), each.get_ylabel()) for each in axes]


def image(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def stairs(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    data = axes.patches[0].get_data()  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(data.values), np.asarray(data.edges)


@pytest.mark.fast
def test_sound_over_kl_over_surprise() -> None:
    found = view_sequence(*runs.audio(), 0)
    axes = plot_input(found).axes
    assert labels(axes) == [
        ("", "amplitude"),
        ("", "KL,\nnats/frame"),
        ("time, s", "surprise,\nnats/frame"),
    ]
    seconds, samples = axes[0].lines[0].get_data()
    assert_allclose(seconds, np.arange(120) / runs.RATE)
    assert_allclose(samples, found.frames.reshape(-1))
    for panel, expected in zip(axes[1:], (found.kl, -found.log_likelihood), strict=True):
        values, edges = stairs(panel)
        assert_allclose(values, expected)
        assert_allclose(edges, np.arange(7) * 20 / runs.RATE)
    assert axes[0].get_xlim() == (0.0, 0.12)


@pytest.mark.fast
def test_frames_over_their_terms() -> None:
    found = view_sequence(*runs.frames(), 3)
    axes = plot_input(found).axes
    assert labels(axes)[0] == ("", "dimension")
    assert labels(axes)[2] == ("frame", "surprise,\nnats/frame")
    assert_allclose(image(axes[0]), found.frames.T)
    assert len(stairs(axes[1])[0]) == found.steps


@pytest.mark.fast
def test_rows_of_a_picture_have_bars() -> None:
    found = view_sequence(*runs.images(False), 0)
    picture, kl, surprise = plot_input(found).axes
    assert labels([picture, kl, surprise]) == [
        ("column", "row"),
        ("KL, nats/row", ""),
        ("surprise, nats/row", ""),
    ]
    assert_allclose(image(picture), found.frames)
    assert_allclose([bar.get_width() for bar in kl.patches], found.kl)  # pyright: ignore[reportAttributeAccessIssue]
    assert_allclose([bar.get_width() for bar in surprise.patches], -found.log_likelihood)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.fast
def test_pixels_of_a_picture_have_maps() -> None:
    found = view_sequence(*runs.images(True), 0)
    axes = plot_input(found).axes
    assert_allclose(image(axes[0]), found.frames.reshape(4, 6))
    assert_allclose(image(axes[1]), found.kl.reshape(4, 6))
    assert_allclose(image(axes[2]), -found.log_likelihood.reshape(4, 6))
    assert {each.get_xlabel() for each in axes[3:]} == {"KL, nats/pixel", "surprise, nats/pixel"}


@pytest.mark.fast
def test_every_word_has_its_bars() -> None:
    found = view_sequence(*runs.text(), 0)
    lines = plot_input(found).axes
    assert [len(axes.get_xticks()) for axes in lines] == [10, 10, 10]
    assert found.vocabulary is not None
    shown = [tick.get_text() for axes in lines for tick in axes.get_xticklabels()]
    assert shown == list(found.words(found.frames))
    heights = [[bar.get_height() for bar in axes.patches] for axes in lines]  # pyright: ignore[reportAttributeAccessIssue]
    assert_allclose(np.concatenate([line[: len(line) // 2] for line in heights]), found.kl)
    assert_allclose(
        np.concatenate([line[len(line) // 2 :] for line in heights]), -found.log_likelihood
    )
    assert {axes.get_ylabel() for axes in lines} == {"nats/word"}
    assert lines[-1].get_xlabel() == "words in their order"


@pytest.mark.parametrize("unit", ["word", "character"])
def test_words_that_matplotlib_cannot_write(unit: str, tmp_path: Path) -> None:
    words = (*runs.WORDS.words[:3], "$x_", "$", "^", "\u4f60", *"\\ \t{}")
    found = view_sequence(*runs.text(words=runs.Vocabulary(words, unit)), 0)
    figure = plot_input(found)
    plots.save_figure(figure, tmp_path / "words.png")
    assert len(figure.axes) == (3 if unit == "word" else 1)
    assert figure.axes[-1].get_xlabel() == f"{unit}s in their order"


@pytest.mark.parametrize("make", [runs.frames, runs.audio, runs.text])
@pytest.mark.parametrize("model", ["zforcing", "rnn"])
def test_a_single_step(make: object, model: str) -> None:
    assert callable(make)
    checkpoint, sequences = make(model)
    short = replace(sequences, values=tuple(value[:1] for value in sequences.values))
    found = view_sequence(checkpoint, short, 0)
    figures = [plot_input(found)]
    if found.data_type != "tokens":
        figures.append(plot_reconstruction(found))
    if found.has_latents:
        figures += [plot_prior_posterior(found), plot_latents(found)]
    for figure in figures:
        figure.canvas.draw()
        assert any(axes.has_data() for axes in figure.axes)


@pytest.mark.fast
@pytest.mark.parametrize("make", [runs.frames, runs.audio, runs.text])
def test_prior_against_posterior(make: object) -> None:
    assert callable(make)
    found = view_sequence(*make(), 0, num_samples=4)
    figure = plot_prior_posterior(found)
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    chosen = top_latents_by_kl(found)
    assert [axes.get_ylabel() for axes in figure.axes] == [f"latent {i}" for i in chosen]
    assert figure.axes[-1].get_xlabel() == found.time_label
    for axes, latent in zip(figure.axes, chosen, strict=True):
        prior, posterior, *draws = axes.lines
        assert_allclose(prior.get_data(), (middles, found.prior_loc[0, :, latent]))
        assert_allclose(posterior.get_ydata(), found.posterior_loc[0, :, latent])
        assert_allclose([line.get_ydata() for line in draws], found.z[:3, :, latent])
        band = axes.collections[1].get_paths()[0].vertices[:, 1]
        highest = (found.posterior_loc + found.posterior_scale)[0, :, latent].max()
        assert band.max() == pytest.approx(highest)
        nats = found.kl_by_latent.sum(0)[latent]
        assert axes.get_title(loc="right") == f"KL {nats:,.2f} nats/sequence"


@pytest.mark.fast
def test_latents_that_say_nothing_have_no_panel() -> None:
    found = view_sequence(*runs.frames(), 0)
    silent = found.prior_loc.copy(), found.prior_scale.copy()
    for array, of_posterior in zip(
        silent, (found.posterior_loc, found.posterior_scale), strict=True
    ):
        array[..., [0, 2]] = of_posterior[..., [0, 2]]
    assert top_latents_by_kl(replace(found, prior_loc=silent[0], prior_scale=silent[1])) == [1]
    same = replace(found, prior_loc=found.posterior_loc, prior_scale=found.posterior_scale)
    assert len(top_latents_by_kl(same)) >= 1


@pytest.mark.fast
def test_all_latents_over_time() -> None:
    found = view_sequence(*runs.audio(), 0)
    figure = plot_latents(found)
    means, kl, *bars = figure.axes
    assert labels([means, kl]) == [("", "latents, by KL"), ("time, s", "latents, by KL")]
    assert [bar.get_ylabel() for bar in bars] == ["posterior mean", "KL, nats/frame"]
    assert_allclose(image(means), found.posterior_loc[0][:, found.order].T)
    assert_allclose(image(kl), found.kl_by_latent[:, found.order].T)


@pytest.mark.fast
def test_reconstruction_beside_input() -> None:
    titles = ["input", "reconstruction", "latents alone"]
    found = view_sequence(*runs.audio(), 0)
    waves, spectrograms = (plot_reconstruction(found).axes[first::2] for first in (0, 1))
    shown = [found.frames, *(frames for _, frames in found.outputs)]
    assert [axes.get_title() for axes in waves] == titles
    for axes, frames in zip(waves, shown, strict=True):
        assert_allclose(axes.lines[0].get_ydata(), frames.reshape(-1))
    assert {axes.get_ylabel() for axes in waves} == {"amplitude"}
    assert {axes.get_ylabel() for axes in spectrograms} == {"kHz"}
    assert spectrograms[-1].get_xlabel() == "time, s"
    for make in (lambda: runs.images(False), lambda: runs.images(True)):
        found = view_sequence(*make(), 0)
        panels = plot_reconstruction(found).axes
        shown = [found.frames, *(frames for _, frames in found.outputs)]
        assert [axes.get_title() for axes in panels] == titles
        for axes, frames in zip(panels, shown, strict=True):
            assert_allclose(image(axes), frames.reshape(4, 6))
    found = view_sequence(*runs.frames(), 0)
    panels = [axes for axes in plot_reconstruction(found).axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == titles
    assert_allclose(image(panels[2]), found.outputs[1][1].T)
    assert panels[2].get_xlabel() == "frame"


@pytest.mark.fast
@pytest.mark.parametrize("make", [runs.frames, runs.audio, runs.text])
def test_without_latents_only_surprise(make: object) -> None:
    assert callable(make)
    found = view_sequence(*make("rnn"), 0)
    figure = plot_input(found)
    texts = "".join(axes.get_ylabel() for axes in figure.axes)
    assert "KL" not in texts
    if found.data_type == "tokens":
        lines = figure.axes
        shown = np.concatenate([[bar.get_height() for bar in axes.patches] for axes in lines])  # pyright: ignore[reportAttributeAccessIssue]
    else:
        shown = stairs(figure.axes[1])[0]
    assert_allclose(shown, -found.log_likelihood)


@pytest.mark.fast
def test_silence_has_a_spectrogram_too() -> None:
    found = view_sequence(*runs.audio(), 0)
    figure = plot_reconstruction(found)
    plots.plot_spectrogram(figure.axes[0], np.zeros(5), 10)
    figure.canvas.draw()
