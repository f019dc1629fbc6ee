"""HTML of a page that needs no other file, no script and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

NUMBER = ' class="number"'
MIME = {".png": "image/png", ".svg": "image/svg+xml"}

# Browsers fetch nothing, even if names and texts on the page contain links.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="$policy">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
</header>
<nav aria-label="Contents"><ul>
$contents
</ul></nav>
<main>
$sections
</main>
<footer><p>$foot</p></footer>
</body>
</html>
""")

STYLE = """\
:root { --paper: #ffffff; --ink: #1c2126; --soft: #5a6570; --line: #d4dae0; --wash: #f3f5f7;
  --link: #0b57a4; --differs: #a3300a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e4e8ec; --soft: #a3adb8; --line: #39414a; --wash: #1e2328;
    --link: #86bdf5; --differs: #ffab8a; }
  figure img { filter: brightness(0.9); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; border-bottom: 1px solid var(--line); margin: 2.2rem 0 1rem;
  padding-bottom: 0.2rem; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 0.6rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; list-style: none; margin: 1rem 0;
  padding: 0; }
.grid { display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; min-width: 0; background: var(--wash); border: 1px solid var(--line);
  border-radius: 0.4rem; padding: 0.6rem; }
figure img { display: block; width: 100%; height: auto; max-width: 44rem; margin: 0 auto;
  background: #ffffff; border-radius: 0.2rem; }
figcaption { font-size: 0.95rem; margin-top: 0.5rem; }
.sound { display: block; margin-top: 0.5rem; }
audio { display: block; width: 100%; margin-top: 0.3rem; }
table { border-collapse: collapse; width: 100%; max-width: 46rem; margin: 0.5rem 0 1rem; }
caption { text-align: left; color: var(--soft); font-size: 0.95rem; padding-bottom: 0.3rem; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem 0.3rem 0;
  border-bottom: 1px solid var(--line); }
th[scope=row] { font-weight: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { margin: 0.6rem 0; }
summary { cursor: pointer; font-weight: 600; }
mark { background: none; color: var(--differs); font-weight: 600; text-decoration: underline; }
@media (max-width: 40rem) {
  body { padding: 0.6rem; }
  figure { padding: 0.35rem; }
}
.note, footer { color: var(--soft); font-size: 0.95rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with its own heading.

    Attributes:
        name: target of links; letters and dashes.
        title: the heading.
        parts: HTML in order.
    """

    name: str
    title: str
    parts: tuple[str, ...]

    @property
    def html(self) -> str:
        """The section as HTML."""
        return (
            f'<section id="{self.name}" aria-labelledby="{self.name}-title">\n'
            f'<h2 id="{self.name}-title">{html.escape(self.title)}</h2>\n'
            + "\n".join(self.parts)
            + "\n</section>"
        )


def page(title: str, lead: Sequence[str], sections: Sequence[Section], foot: str) -> str:
    """The whole page; ``lead`` is HTML below the title, ``foot`` plain text at the end."""
    return PAGE.substitute(
        policy=html.escape(POLICY),
        title=html.escape(title),
        style=STYLE,
        lead="\n".join(lead),
        contents="\n".join(
            f'<li><a href="#{each.name}">{html.escape(each.title)}</a></li>' for each in sections
        ),
        sections="\n".join(each.html for each in sections),
        foot=html.escape(foot),
    )


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{html.escape(text)}</h3>"


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph of plain text."""
    attribute = ' class="note"' if note else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def figure(picture: Path, alternative: str, caption: str, players: Sequence[str] = ()) -> str:
    """A picture, which is embedded in the page, with its caption.

    Args:
        picture: its file.
        alternative: a description for readers who cannot see it.
        caption: the text below it.
        players: HTML of :func:`player`, below the caption.
    """
    return (
        f'<figure><img src="{_data_uri(picture)}" alt="{html.escape(alternative)}">'
        f"<figcaption>{html.escape(caption)}{''.join(players)}</figcaption></figure>"
    )


def player(sound: bytes, mime: str, label: str) -> str:
    """A player of a sound, the content of a file of that media type, embedded in the page."""
    text = html.escape(label)
    return (
        f'<span class="sound">{text}<audio controls preload="auto" aria-label="{text}" '
        f'src="{_encoded(sound, mime)}"></audio></span>'
    )


def grid(items: Iterable[str]) -> str:
    """HTML parts side by side where the window is wide enough."""
    return '<div class="grid">\n' + "\n".join(items) + "\n</div>"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; its first column names the rows.

    A column whose name ends in ``#`` holds numbers.
    """
    styles = [NUMBER if name.endswith("#") else "" for name in header]
    heads = "".join(
        f'<th scope="col"{style}>{html.escape(name.rstrip("#"))}</th>'
        for name, style in zip(header, styles, strict=True)
    )
    lines: list[str] = []
    for cells in rows:
        first, *others = map(html.escape, cells)
        rest = zip(others, styles[1:], strict=True)
        tail = "".join(f"<td{style}>{cell}</td>" for cell, style in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{tail}</tr>')
    body = "\n".join(lines)
    return (
        f"<table><caption>{html.escape(caption)}</caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    )


def folded(title: str, content: str) -> str:
    """HTML that is shown on a click."""
    return f"<details><summary>{html.escape(title)}</summary>\n{content}\n</details>"


def items(lines: Iterable[str]) -> str:
    """A numbered list of HTML."""
    return "<ol>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ol>"


def _data_uri(file: Path) -> str:
    return _encoded(file.read_bytes(), MIME[file.suffix])


def _encoded(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
