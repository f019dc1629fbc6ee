"""Prepared data sets: a corpus read once in its original files, then served from memory maps.

``corpus.py`` says what a data set must tell of its files, ``shards.py`` reads some of them into one
shard, ``engine.py`` does so for all, several at once, resumed where it stopped, and ``store.py``
reads the result.
"""

from zpyro.datasets.prepared.corpus import (
    Corpus,
    FileSpan,
    Layout,
    ParsedFile,
    Reader,
    SourceFile,
    Split,
)
from zpyro.datasets.prepared.engine import (
    BadFiles,
    Progress,
    prepare,
    prepare_part,
    prepared_folder,
)
from zpyro.datasets.prepared.store import INDEX, Store, is_prepared

__all__ = [
    "INDEX",
    "BadFiles",
    "Corpus",
    "FileSpan",
    "Layout",
    "ParsedFile",
    "Progress",
    "Reader",
    "SourceFile",
    "Split",
    "Store",
    "is_prepared",
    "prepare",
    "prepare_part",
    "prepared_folder",
]
