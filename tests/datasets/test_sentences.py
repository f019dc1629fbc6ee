"""Sentences and words by rule, and back to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpyro.datasets.sentences import joined, sentences, without_markup, words


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was good. I liked it.", ["It was good.", "I liked it."]),
        ("Mr. Smith left. Dr. No came!", ["Mr. Smith left.", "Dr. No came!"]),
        ("By J. K. Rowling. So do I. Yes.", ["By J. K. Rowling.", "So do I.", "Yes."]),
        ("Made in the U.S. in 1990. Fine.", ["Made in the U.S. in 1990.", "Fine."]),
        ("Guns, cars, etc. and so on. Etc. Then", ["Guns, cars, etc. and so on.", "Etc.", "Then"]),
        ("Well... it was ok... The end.", ["Well... it was ok...", "The end."]),
        ("Well… it was ok… The end.", ["Well… it was ok…", "The end."]),
        ('"What?" he said. "No." Gone.', ['"What?" he said.', '"No."', "Gone."]),
        ("i loved it. it rocks! see it?! yes", ["i loved it.", "it rocks!", "see it?!", "yes"]),
        ("A great film.The end is bad.", ["A great film.", "The end is bad."]),
        ("It got 7.5 of 10. Or 8.", ["It got 7.5 of 10.", "Or 8."]),
        ("(It was bad.) Then it ended.", ["(It was bad.)", "Then it ended."]),
        ("no end", ["no end"]),
        ("first line\n\nsecond line", ["first line", "second line"]),
        ("one\nsentence over lines.", ["one sentence over lines."]),
        ("", []),
    ],
)
def test_sentences_end_where_they_do(text: str, expected: list[str]) -> None:
    assert list(sentences(text)) == expected


@pytest.mark.fast
def test_markup_goes() -> None:
    text = without_markup('<i>Bad</i>.<br /><br />Good &amp; "sad" <br>x < y and \u201cso\u201d')
    assert list(sentences(text)) == ["Bad .", 'Good & "sad"', 'x < y and "so"']


@pytest.mark.fast
@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Don't say well-known.", ["don't", "say", "well-known", "."]),
        ("It\u2019s \u201cfine\u201d", ["it's", '"', "fine", '"']),
        ("the U.S. cost $1,000 or 3.5", ["the", "u.s.", "cost", "$", "1,000", "or", "3.5"]),
        ("so... what?! (yes)", ["so", "...", "what", "?!", "(", "yes", ")"]),
        ("the <unk> of C_2", ["the", "<unk>", "of", "c", "_", "2"]),
        ("Ça été à Köln", ["ça", "été", "à", "köln"]),
        ("日本 映画", ["日本", "映画"]),
        ("  \t ", []),
    ],
)
def test_words_and_marks_are_apart(sentence: str, expected: list[str]) -> None:
    assert words(sentence) == expected


@pytest.mark.fast
def test_case_may_stay() -> None:
    assert words("The U.S. It's", lower_case=False) == ["The", "U.S.", "It's"]


@pytest.mark.fast
@pytest.mark.parametrize(
    "line",
    [
        "it's good, isn't it?",
        'he said "don\'t go" (now) and left...',
        "a well-known film; 3.5 of 10 stars!",
    ],
)
def test_words_come_back_as_the_line(line: str) -> None:
    assert joined(words(line)) == line


@given(st.text(max_size=80))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    """Whatever the text, sentences hold its characters in order and are not empty."""
    found = list(sentences(text))
    assert all(sentence.strip() == sentence != "" for sentence in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert len("".join(words(text, lower_case=False))) == len("".join(text.split()))


@pytest.mark.fast
@pytest.mark.parametrize(
    "text",
    ["a." * 50_000 + " " + "b" * 100_000 + ". c", "." * 300_000 + "x", "<" + " " * 300_000 + "br"],
    ids=["word", "dots", "tag"],
)
def test_endless_rows_of_anything_are_read(text: str) -> None:
    """In time that grows with the text alone: squared, this test would take minutes."""
    plain = without_markup(text)
    found = list(sentences(plain))
    assert "".join("".join(found).split()) == "".join(plain.split())
    assert sum(len(words(sentence)) for sentence in found) > 0
