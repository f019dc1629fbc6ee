"""The report in a real browser: complete, quiet, readable on a telephone and on a desk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.inspection import browser
from tests.inspection.browser import Browser
from zpyro.analysis import Report, write_report

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason="no Chromium here; apt-get install chromium"
)

WINDOWS = [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")]

PICTURES = """[...document.images].map(each => (
    {alt: each.alt, there: each.complete && each.naturalWidth > 0, width: each.clientWidth}))"""

SOUNDS = """Promise.all([...document.querySelectorAll('audio')].map(each => new Promise(done => {
    const tell = () => done({label: each.ariaLabel, seconds: each.duration,
                             error: each.error && each.error.message});
    if (each.readyState >= 3 || each.error) tell();
    each.addEventListener('canplay', tell);
    each.addEventListener('error', tell);
})))"""

LETTERS = """(() => {
    const sizes = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
        if (walker.currentNode.data.trim())
            sizes.push(parseFloat(getComputedStyle(walker.currentNode.parentElement).fontSize));
    return Math.min(...sizes);
})()"""

CONTRASTS = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const light = color => {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(each => {
            each /= 255;
            return each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratios = {};
    for (const name of ['body', 'caption', 'a', 'footer', 'figcaption', '.note']) {
        const element = document.querySelector(name);
        if (!element) continue;
        let ground = element;
        while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
            ground = ground.parentElement;
        const [a, b] = [light(getComputedStyle(element).color),
                        light(getComputedStyle(ground).backgroundColor)].sort((x, y) => y - x);
        ratios[name] = (a + 0.05) / (b + 0.05);
    }
    return ratios;
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser."""
    with browser.running(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tone_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a run on sound."""
    out = tmp_path_factory.mktemp("report")
    return write_report(tone_run, out=out, sequences=("0", "1"), particles=2)


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_the_page_is_complete_and_readable(
    page: Browser, report: Report, width: int, scheme: str
) -> None:
    page.show(report.page.as_uri(), width, scheme=scheme)

    pictures: list[dict[str, Any]] = page.evaluate(PICTURES)
    assert len(pictures) == len(list(report.folder.glob("*.png"))) == 17
    assert all(each["there"] and each["alt"] for each in pictures)

    sounds: list[dict[str, Any]] = page.evaluate(SOUNDS)
    assert [each["error"] for each in sounds] == [None] * 10
    assert all(each["label"] for each in sounds)
    seconds = sorted(each["seconds"] for each in sounds)
    files = sorted(soundfile.info(each).duration for each in report.folder.glob("*.wav"))
    assert seconds == pytest.approx(files, abs=1e-3)

    wide, visible = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= visible <= width
    assert page.evaluate(LETTERS) >= 14
    # The smallest letters in a picture: 9 points, a 72nd of an inch each, in 4.5 inches.
    assert min(each["width"] for each in pictures) / 4.5 * 9 / 72 >= 9
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts.keys() >= {"body", "caption", "a", "footer", "figcaption"}
    assert min(contrasts.values()) >= 4.5

    assert page.errors() == []
    asked = {address.partition(":")[0] for address in page.addresses()}
    assert asked == {"file", "data"}
    assert [each for each in page.addresses() if each.startswith("file")] == [report.page.as_uri()]


def test_dark_is_dark(page: Browser, report: Report) -> None:
    grounds: list[str] = []
    for scheme in ("light", "dark"):
        page.show(report.page.as_uri(), 1400, scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


def test_headings_and_links_lead_somewhere(page: Browser, report: Report) -> None:
    page.show(report.page.as_uri(), 1400)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    dead = "[...document.links].filter(each => !document.querySelector(each.hash)).length"
    assert page.evaluate(dead) == 0
    assert page.evaluate("document.links.length") == 5


def test_the_browser_would_complain_of_a_page_that_asks_for_more(
    page: Browser, report: Report, tmp_path: Path
) -> None:
    text = report.page.read_text(encoding="utf-8")
    worse = tmp_path / "worse.html"
    picture = (report.folder / "sample-1.png").as_uri()
    worse.write_text(
        text.replace("<main>", f'<main><img src="{picture}" alt="">'), encoding="utf-8"
    )
    page.show(worse.as_uri(), 1400)
    assert "Content Security Policy" in str(page.errors())
    assert not all(each["there"] for each in page.evaluate(PICTURES))
