"""``imdb``: sentences of movie reviews, in the layouts of aclImdb and of Polarity v2.0."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zpyro.datasets import sentences, text_loading
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats import archives, text_files
from zpyro.datasets.formats.folders import check_folder, files_to_give, relative_name
from zpyro.datasets.prepared import SourceFile
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS, hold_out, split_by_name
from zpyro.datasets.tokenized import TextCorpus, TokenSettings
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError, pluralize

TREE = (
    "aclImdb/{train,test}/{pos,neg}/*.txt (and train/unsup/*.txt), from the archive"
    " aclImdb_v1.tar.gz (ai.stanford.edu/~amaas/data/sentiment), or {pos,neg}/cv*.txt, from"
    " review_polarity.tar.gz, Polarity v2.0 (www.cs.cornell.edu/people/pabo/movie-review-data)"
)
LAYOUT = f"it must be laid out as {TREE}"

MISSING = (
    "the reviews are free to download but not part of zpyro, and nothing is downloaded: unpack one"
    f" of the two archives and point --data at its folder (or at the archive), laid out as {TREE}"
)

_ROOTS = (".", "aclImdb", "txt_sentoken", "movie_reviews")
_TOKENIZED = re.compile(r"(.*/)?cv\d+_\d+\.txt", re.IGNORECASE)


@dataclass(frozen=True)
class ImdbSettings(TokenSettings):
    """How reviews become sequences: a sentence each.

    Attributes:
        unlabeled: train on the reviews of aclImdb's train/unsup too.
        valid_files: pattern of the validation reviews' names (such as ``cv8*``), in place of the
            fraction; Polarity only.
        test_files: pattern of the test reviews' names (such as ``cv9*``), likewise.
    """

    unlabeled: bool = False
    valid_files: str = ""
    test_files: str = ""


class Imdb(TextCorpus):
    """Reviews, a sentence a sequence; all sentences of a review are in one split.

    Of aclImdb test is the test. A folder valid (or validation, val, dev) beside train and test is
    validation; without one the reviews of train with the smallest hashes of (seed, path) are. The
    names of these folders may be in upper or lower case. Polarity v2.0 has no splits: test and
    validation are chosen by that hash, or by patterns of file names.

    Args:
        archive: an archive whose files are read instead of the disk's, all of them now.

    Raises:
        UserError: if the archive is damaged, or has members that lead out of it.
    """

    name = "imdb"

    def __init__(self, archive: Path | None = None) -> None:
        self._path = archive
        self._archive = None if archive is None else archives.members(archive, ".txt")

    def items(self, source: Path, settings: ImdbSettings) -> list[SourceFile]:
        if self._archive is not None:
            return _with_splits(_archived(source, self._archive, settings), settings)
        if archives.is_archive(source):
            raise UserError(f"{source}: unpack it first; only --data takes an archive as it is")
        check_folder(source, "an archive of reviews, or the folder where it is unpacked", MISSING)
        for root in (source / name for name in _ROOTS):
            places = _places(_folders(root), settings)
            if places:
                return _with_splits(_listed(root, places), settings)
        packed = files_to_give(source, archives.ENDINGS)
        advice = f"give one of its archives: {packed}" if packed else LAYOUT
        raise UserError(f"{source} holds no reviews; {advice}")

    def file_notes(self, source: Path, settings: ImdbSettings) -> tuple[str, ...]:
        if settings.unlabeled:
            return ()
        if self._archive is None:
            paths = text_files.find(source)
        else:
            paths = [Path(name) for name in self._archive]
        count = sum(path.parent.name == "unsup" for path in paths)
        if not count:
            return ()
        return (
            f"left out: unsup/ ({pluralize(count, 'file')}); data.unlabeled=true trains on them",
        )

    def lines(self, item: SourceFile, splitter: Vocabulary) -> Iterator[list[str]]:
        if self._archive is None:
            text = text_files.read_text(item.path)
        else:
            name = item.path.as_posix()
            text = text_files.decoded(self._archive[name], f"{self._path}: {name}")
        return _sentences(text, splitter, tokenized=_TOKENIZED.fullmatch(item.key) is not None)


def load(
    folder: Path, settings: ImdbSettings, vocabulary: Vocabulary | None = None, workers: int = 1
) -> Dataset:
    """Read reviews from where an archive was unpacked, from a prepared folder, or from the archive
    itself (in memory), see :class:`Imdb`.

    Raises:
        UserError: if the layout or a file cannot be used, or a split is empty.
    """
    if archives.is_archive(folder):
        return text_loading.read(Imdb(folder), folder, settings, vocabulary)
    return text_loading.load(Imdb(), folder, settings, vocabulary, workers)


def load_all(
    folder: Path,
    settings: ImdbSettings,
    normalization: Normalization,
    vocabulary: Vocabulary,
    workers: int = 1,
) -> Sequences:
    """Every sentence as one split, in the words of a trained model.

    Raises:
        UserError: if the layout or a file cannot be used.
    """
    corpus = Imdb(folder if archives.is_archive(folder) else None)
    return text_loading.load_all(corpus, folder, settings, normalization, vocabulary, workers)


def _sentences(text: str, splitter: Vocabulary, *, tokenized: bool) -> Iterator[list[str]]:
    """The words of every sentence; where the text is tokenized a line is one, spaces between."""
    if not tokenized:
        for sentence in sentences.sentences(sentences.without_markup(text)):
            yield splitter.split(sentence)
        return
    for line in text.split("\n"):
        words = line.split()
        if splitter.unit == "word" and not splitter.lower_case:
            yield words
        elif splitter.unit == "word":
            yield [word.lower() for word in words]
        else:
            yield splitter.split(" ".join(words))


def _folders(root: Path) -> set[str]:
    """Relative paths of the folders below one, two levels deep."""
    if not root.is_dir():
        return set()
    found = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_dir()]
    return {path.relative_to(root).as_posix() for path in found}


def _places(folders: Collection[str], settings: ImdbSettings) -> list[tuple[str, str]]:
    """(split, folder) of every folder that holds reviews in a layout; none in no known layout."""
    roots = sorted({folder.partition("/")[0] for folder in folders})
    named = [
        (SPLIT_NAMES[root.lower()], root)
        for root in roots
        if root.lower() in SPLIT_NAMES and {f"{root}/pos", f"{root}/neg"} & set(folders)
    ]
    if "train" not in dict(named):
        return [("", "pos"), ("", "neg")] if {"pos", "neg"} <= set(folders) else []
    if "test" not in dict(named):
        named.append(("test", "test"))
    places = [(split, f"{root}/{label}") for split, root in named for label in ("pos", "neg")]
    if settings.unlabeled:
        places += [(split, f"{root}/unsup") for split, root in named if split == "train"]
    return sorted(places, key=lambda place: SPLITS.index(place[0]))


def _archived(path: Path, found: Mapping[str, bytes], settings: ImdbSettings) -> list[SourceFile]:
    for root in _ROOTS:
        prefix = "" if root == "." else f"{root}/"
        inside = [name.removeprefix(prefix) for name in sorted(found) if name.startswith(prefix)]
        folders = {name.rpartition("/")[0] for name in inside}
        places = _places(folders, settings)
        absent = [place for _, place in places if place not in folders]
        if absent:
            raise UserError(f"{path}: {prefix}{absent[0]} is missing in it; download it again")
        if places:
            return [
                SourceFile(name, Path(prefix + name), group)
                for group, place in places
                for name in inside
                if name.rpartition("/")[0] == place
            ]
    raise UserError(f"{path} holds no reviews; {LAYOUT}")


def _listed(root: Path, places: Sequence[tuple[str, str]]) -> list[SourceFile]:
    found: list[SourceFile] = []
    for group, place in places:
        folder = root / place
        if not folder.is_dir():
            raise UserError(f"{folder} is missing; the reviews must be laid out as {TREE}")
        paths = text_files.find(folder)
        if not paths:
            raise UserError(f"{folder} holds no reviews (*.txt); unpack the archive again")
        found += [SourceFile(relative_name(path, root), path, group) for path in paths]
    return found


def _with_splits(found: Sequence[SourceFile], settings: ImdbSettings) -> list[SourceFile]:
    """The same reviews, the split of each as its group."""
    keys = [item.key for item in found]
    if not any(item.group for item in found):
        parts = split_by_name(
            keys,
            settings.valid_fraction,
            settings.test_fraction,
            valid_files=settings.valid_files,
            test_files=settings.test_files,
            seed=settings.seed,
        )
        names = {i: name for name, part in zip(SPLITS, parts, strict=True) for i in part}
        return [SourceFile(item.key, item.path, names[i]) for i, item in enumerate(found)]
    if settings.valid_files or settings.test_files:
        raise UserError(
            "data.valid_files and data.test_files are for reviews without splits; aclImdb brings"
            " its own, leave them out"
        )
    train = [key for key, item in zip(keys, found, strict=True) if item.group == "train"]
    named = any(item.group == "valid" for item in found)
    chosen = [] if named else hold_out(train, settings.valid_fraction, seed=settings.seed)
    valid = {train[i] for i in chosen}
    return [SourceFile(i.key, i.path, "valid" if i.key in valid else i.group) for i in found]


ENTRY = DatasetEntry(
    "imdb",
    "sentences of movie reviews: aclImdb, or Polarity v2.0; words or characters",
    ImdbSettings,
    load,
    load_all,
    MISSING,
    has_words=True,
    corpus=Imdb(),
    has_workers=True,
)
