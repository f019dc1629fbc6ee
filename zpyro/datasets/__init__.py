"""Data sets: files to sequences, and sequences to padded batches.

In reading order: ``batching`` and ``sequences`` (what models are trained on), ``splitting``,
``arrays``, ``dataframes`` and ``torch_datasets`` (data from memory), ``entry`` and ``registry``
(data sets by name), one file for each data set, ``formats`` (readers of files), ``prepared``
(memory-mapped corpora).
"""

from zpyro.datasets.arrays import from_arrays
from zpyro.datasets.batching import Batch, Sample, SeriesSample, collate
from zpyro.datasets.dataframes import from_dataframe
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.linear_prediction import LinearPrediction
from zpyro.datasets.prepared.corpus import Corpus
from zpyro.datasets.registry import (
    DATASETS,
    describe,
    entry,
    load,
    load_all,
    names,
    register,
)
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.torch_datasets import from_dataset
from zpyro.datasets.vocabulary import Vocabulary

__all__ = [
    "DATASETS",
    "Batch",
    "Corpus",
    "Dataset",
    "DatasetEntry",
    "LinearPrediction",
    "Normalization",
    "Sample",
    "Sequences",
    "SeriesSample",
    "Vocabulary",
    "collate",
    "describe",
    "entry",
    "from_arrays",
    "from_dataframe",
    "from_dataset",
    "load",
    "load_all",
    "names",
    "register",
]
