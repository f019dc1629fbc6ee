"""``imdb``: sentences of movie reviews, in the layouts of aclImdb and of Polarity v2.0."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zpyro.datasets import archives, sentences, text_files
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import hold_out, split_by_name
from zpyro.datasets.tokenized import Tokenizer, TokenSettings, assemble, whole
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError

TREE = (
    "aclImdb/{train,test}/{pos,neg}/*.txt (and train/unsup/*.txt), from the archive"
    " aclImdb_v1.tar.gz (ai.stanford.edu/~amaas/data/sentiment), or {pos,neg}/cv*.txt, from"
    " review_polarity.tar.gz, Polarity v2.0 (www.cs.cornell.edu/people/pabo/movie-review-data)"
)

MISSING = (
    "the reviews are free to download but not part of zpyro, and nothing is downloaded: unpack one"
    f" of the two archives and point --data at its folder (or at the archive), laid out as {TREE}"
)

_ROOTS = (".", "aclImdb", "txt_sentoken", "movie_reviews")
_TOKENISED = re.compile(r"cv\d+_\d+\.txt$")


@dataclass(frozen=True)
class ImdbSettings(TokenSettings):
    """How reviews become sequences: a sentence each.

    Attributes:
        unlabelled: train on the reviews of aclImdb's train/unsup too.
        valid_files: pattern of the validation reviews' names (such as ``cv8*``), in place of the
            fraction; Polarity only.
        test_files: pattern of the test reviews' names (such as ``cv9*``), likewise.
    """

    unlabelled: bool = False
    valid_files: str = ""
    test_files: str = ""


@dataclass(frozen=True)
class Review:
    """One file.

    Attributes:
        key: its path below the data set's folder.
        path: where it is, or the archive that it is in.
        group: "train" or "test" where the layout says so, else "".
        content: its bytes where it comes from an archive, else None.
    """

    key: str
    path: Path
    group: str
    content: bytes | None = field(default=None, repr=False)

    @property
    def tokenised(self) -> bool:
        """Whether a line is a sentence with spaces between its words, as in Polarity v2.0."""
        return _TOKENISED.search(self.key) is not None

    def text(self) -> str:
        """Its text.

        Raises:
            UserError: if the file cannot be read or is no UTF-8.
        """
        if self.content is None:
            return text_files.read_text(self.path)
        return text_files.decoded(self.content, f"{self.path}: {self.key}")


def load(folder: Path, settings: ImdbSettings, vocabulary: Vocabulary | None = None) -> Dataset:
    """Read reviews, a sentence a sequence; all sentences of a review are in one split.

    Of aclImdb test is the test, and the reviews of train with the smallest hashes of (seed, path)
    are validation. Polarity v2.0 has no splits: test and validation are chosen by that hash, or by
    patterns of file names.

    Args:
        folder: where the archive was unpacked, or the archive itself (read in memory).
        settings: how.
        vocabulary: the one to use, such as a trained model's; by default that of train.

    Raises:
        UserError: if the folder has another layout, a file cannot be used, or a split is empty.
    """
    found = reviews(folder, settings)
    tokenizer, owner = _read(found, settings)
    split = np.array(_splits(found, settings), dtype=np.int64)[owner]
    return assemble(
        "imdb", tokenizer, [split == number for number in range(3)], settings, vocabulary
    )


def load_all(
    folder: Path, settings: ImdbSettings, _normalization: Normalization, vocabulary: Vocabulary
) -> Sequences:
    """Every sentence of a folder as one split, in the tokens of a trained model.

    Raises:
        UserError: if the folder has another layout or a file cannot be used.
    """
    return whole(_read(reviews(folder, settings), settings)[0], vocabulary)


def reviews(folder: Path, settings: ImdbSettings) -> list[Review]:
    """The reviews below a folder or in an archive, in the order of folders and of names in them.

    Raises:
        UserError: if there is no such folder, it has another layout, or the archive is damaged or
            has members that lead out of it.
    """
    if archives.is_archive(folder):
        return _archived(folder, settings)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; {MISSING}")
    for root in (folder / name for name in _ROOTS):
        places = _places(lambda place, root=root: (root / place).is_dir(), settings)
        if places:
            return _listed(root, places)
    raise UserError(f"{folder} holds no reviews; it must be laid out as {TREE}")


def sentences_of(review: Review, splitter: Vocabulary) -> Iterator[list[str]]:
    """The words of every sentence of a review.

    Raises:
        UserError: if the file cannot be read or is no UTF-8.
    """
    text = review.text()
    if review.tokenised:
        for line in text.split("\n"):
            words = line.split()
            yield splitter.split(" ".join(words)) if splitter.unit == "character" else words
    else:
        for sentence in sentences.sentences(sentences.without_markup(text)):
            yield splitter.split(sentence)


def _places(there: Callable[[str], bool], settings: ImdbSettings) -> list[tuple[str, str]]:
    """(split, folder) of every folder that holds reviews in a layout; none in no known layout."""
    if there("train/pos"):
        kinds = ("pos", "neg", "unsup") if settings.unlabelled else ("pos", "neg")
        places = [("train", f"train/{kind}") for kind in kinds]
        return [*places, ("test", "test/pos"), ("test", "test/neg")]
    return [("", "pos"), ("", "neg")] if there("pos") and there("neg") else []


def _archived(path: Path, settings: ImdbSettings) -> list[Review]:
    found = archives.members(path, ".txt")
    for root in _ROOTS:
        prefix = "" if root == "." else f"{root}/"
        inside = {
            name.removeprefix(prefix): content
            for name, content in sorted(found.items())
            if name.startswith(prefix)
        }
        folders = {name.rpartition("/")[0] for name in inside}
        places = _places(folders.__contains__, settings)
        absent = [place for _, place in places if place not in folders]
        if absent:
            raise UserError(f"{path}: {prefix}{absent[0]} is missing in it; download it again")
        if places:
            return [
                Review(name, path, group, content)
                for group, place in places
                for name, content in inside.items()
                if name.rpartition("/")[0] == place
            ]
    raise UserError(f"{path} holds no reviews; it must be laid out as {TREE}")


def _listed(root: Path, places: list[tuple[str, str]]) -> list[Review]:
    found: list[Review] = []
    for group, place in places:
        folder = root / place
        if not folder.is_dir():
            raise UserError(f"{folder} is missing; the reviews must be laid out as {TREE}")
        paths = text_files.find(folder, lambda name: name.endswith(".txt"))
        if not paths:
            raise UserError(f"{folder} holds no reviews (*.txt); unpack the archive again")
        found += [Review(path.relative_to(root).as_posix(), path, group) for path in paths]
    return found


def _read(found: list[Review], settings: ImdbSettings) -> tuple[Tokenizer, list[int]]:
    """All sentences, and the review that each belongs to."""
    tokenizer, splitter = Tokenizer(settings), settings.splitter()
    owner: list[int] = []
    problems: list[UserError] = []
    for number, review in enumerate(found):
        try:
            for position, words in enumerate(sentences_of(review, splitter), start=1):
                tokenizer.add(f"{review.key}:{position}", words)
        except UserError as problem:
            problems.append(problem)
        owner += [number] * (len(tokenizer.names) - len(owner))
    if problems:
        raise text_files.first_of(problems)
    return tokenizer, owner


def _splits(found: list[Review], settings: ImdbSettings) -> list[int]:
    """0, 1 or 2 (train, valid, test) for each review."""
    keys = [review.key for review in found]
    if not any(review.group for review in found):
        train, valid, test = split_by_name(
            keys,
            settings.valid_fraction,
            settings.test_fraction,
            valid_files=settings.valid_files,
            test_files=settings.test_files,
            seed=settings.seed,
        )
        numbers = dict.fromkeys(train, 0) | dict.fromkeys(valid, 1) | dict.fromkeys(test, 2)
        return [numbers[i] for i in range(len(found))]
    if settings.valid_files or settings.test_files:
        raise UserError(
            "data.valid_files and data.test_files are for reviews without splits; aclImdb brings"
            " its own, leave them out"
        )
    in_train = [i for i, review in enumerate(found) if review.group == "train"]
    chosen = hold_out([keys[i] for i in in_train], settings.valid_fraction, seed=settings.seed)
    valid = {in_train[i] for i in chosen}
    return [2 if review.group == "test" else int(i in valid) for i, review in enumerate(found)]
