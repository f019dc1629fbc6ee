"""Running text to sentences, sentences to words, and words back to text; small rules, no model.

Where a sentence ends is decided at every run of ``.``, ``!``, ``?`` or ``…`` (with the quotes and
brackets that close after it) that stands before a space, and at every paragraph break:

- a single full stop after a title (mr., dr., ...) or an initial (J. K. Rowling) never ends one,
- after another abbreviation (etc., e.g., u.s., jr., ...) it does so before a capital letter only,
- an ellipsis (two dots or more) does so before a capital letter only,
- a mark within closing quotes does so unless a small letter follows (``"what?" he said``),
- anything else does, before small letters too: reviews are often written without capitals,
- a missing space is mended where a small word and a capitalized one meet (``film.The``).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

_TITLES = "mr mrs ms mme dr prof rev fr st sgt lt col gen capt cmdr gov sen rep hon"
_ABBREVIATIONS = """
    etc vs jr sr inc ltd co corp dept no nos vol pt ed eds al approx est min max ie eg cf
    i.e e.g a.k.a aka u.s u.k u.s.a l.a n.y d.c a.m p.m b.c a.d ph.d m.d b.a m.a
    jan feb mar apr jun jul aug sept oct nov dec
"""
TITLES = frozenset(_TITLES.split())
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())

LONGEST_ABBREVIATION = 40

_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BREAK = re.compile(r"<\s?/?\s?(?:br|p|hr)\s?/?\s?>", re.IGNORECASE)
_PARAGRAPH = re.compile(r"\n\s*\n|\x1e")
_GLUED = re.compile(r"(?<=[a-z]{2})([.!?])(?=[A-Z][a-z])")
# A mark begins where no other stands before it: else a long row of dots is tried from each of them.
_MARK = re.compile(r"(?<![.!?…])(?P<mark>[.!?…]+)(?P<closing>[\"')\]]*)\s+(?=(?P<next>\S{1,9}))")
_LAST_WORD = re.compile(r"[\w.]*\w$")
_OPENING = "\"'([{"

# Curly and slanted quotes, low ones too, by their plain forms.
_QUOTES = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e", '"') | dict.fromkeys("\u2018\u2019\u00b4`", "'")
)

_WORD = re.compile(
    r"<\w+>"  # a placeholder such as <unk>, as some corpora have them
    r"|\d+(?:[.,:]\d+)+"  # 3.5 and 1,000
    r"|(?:[a-z]\.){2,}"  # u.s.
    r"|[^\W_]+(?:['\-][^\W_]+)*"  # don't and well-known
    r"|\.{2,}|[!?]{2,}"  # marks that are repeated
    r"|[^\w\s]|_",
    re.IGNORECASE,
)

_CLOSING_WORDS = frozenset([*".,!?;:)]}%…", "...", "..", "?!", "!!"])
_OPENING_WORDS = frozenset("([{$#")


def without_markup(text: str) -> str:
    """Text without HTML: line breaks become paragraph breaks, other tags and entities go."""
    text = _BREAK.sub("\x1e", text)
    return html.unescape(_TAG.sub(" ", text)).translate(_QUOTES)


def sentences(text: str) -> Iterator[str]:
    """The sentences of running text without markup, white space at their ends taken off."""
    for paragraph in _PARAGRAPH.split(text):
        mended = _GLUED.sub(r"\1 ", " ".join(paragraph.split()))
        first = 0
        for found in _MARK.finditer(mended):
            if _ends(mended[first : found.start()], found):
                yield mended[first : found.end("closing")]
                first = found.end()
        if rest := mended[first:].strip():
            yield rest


def words(sentence: str, *, lower_case: bool = True) -> list[str]:
    """The words and marks of a sentence.

    Apostrophes and hyphens stay within words ("don't", "well-known"), repeated marks stay together
    ("...", "?!"), every other mark is a word of its own.
    """
    plain = sentence.translate(_QUOTES)
    return _WORD.findall(plain.lower() if lower_case else plain)


def joined(words: Iterable[str]) -> str:
    """Words and marks as a line to read: no space before closing marks or after opening ones."""
    parts: list[str] = []
    quoted = False
    glue = True
    for word in words:
        closes = word in _CLOSING_WORDS or (word == '"' and quoted)
        parts.append(word if glue or closes else f" {word}")
        glue = word in _OPENING_WORDS or (word == '"' and not quoted)
        quoted ^= word == '"'
    return "".join(parts)


def _ends(before: str, found: re.Match[str]) -> bool:
    mark, closing = found["mark"], found["closing"]
    first = found["next"].lstrip(_OPENING)[:1]
    capital = not first.islower()
    if closing and not capital:
        return False
    if mark == "." and not closing:
        word = _LAST_WORD.search(before[-LONGEST_ABBREVIATION:])
        return word is None or _stops(word[0], capital)
    return capital or not set(mark) <= {".", "…"} or mark == "."


def _stops(word: str, capital: bool) -> bool:
    """Whether a full stop after this word ends the sentence."""
    small = word.lower()
    if small in TITLES:
        return False
    # "I" is a word, any other single capital an initial.
    if len(word) == 1 and word.isupper() and word != "I":
        return False
    return capital or small not in ABBREVIATIONS
