"""Tables in CSV and Parquet files, as data frames of pandas."""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpyro.datasets.formats import plain_files, text_files
from zpyro.datasets.formats.folders import files_to_give
from zpyro.errors import UserError
from zpyro.io import files

if TYPE_CHECKING:
    from pandas import DataFrame

INSTALL = 'tables need pandas and pyarrow; pip install "zpyro[table]"'

PARQUET = (".parquet", ".pq")
TABS = (".tsv", ".tab")


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its name; every other one is CSV, perhaps gzipped."""
    return path.suffix.lower() in PARQUET


def pandas_module() -> Any:
    """The module pandas, imported only where tables are read or written.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise UserError(INSTALL) from error


def read_frame(path: Path, *, header: bool = True) -> DataFrame:
    """The table in a CSV or Parquet file.

    A CSV file is UTF-8, separated by commas (tabs in ``.tsv``), and may be gzipped. Empty cells and
    NA, NaN, null are missing.

    Args:
        path: the file.
        header: whether the first line of a CSV file names the columns; else their names are "0",
            "1" and so on.

    Raises:
        UserError: if the file cannot be read as a table, has no rows, or has two columns of a name.
    """
    pandas = pandas_module()
    if path.is_dir():
        tables = files_to_give(path, (".csv", *TABS, *PARQUET))
        advice = f"give one of its tables: {tables}" if tables else "give a CSV or Parquet file"
        raise UserError(f"{path}: is a directory; {advice}")
    if not path.exists():
        raise UserError(f"{path}: does not exist; give a CSV or Parquet file")
    frame = _parquet(path) if is_parquet(path) else _csv(pandas, path, header)
    if not len(frame) or not len(frame.columns):
        raise UserError(f"{path}: has no rows of data; give a table with a line of names and rows")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise UserError(f"{path}: has two columns {twice[0]}; rename one")
    return frame


def check_name(path: Path) -> None:
    """Check that the name of a table to write says what it holds.

    Raises:
        UserError: for the suffix of another format.
    """
    suffix = path.suffix.lower()
    is_device = path.exists() and not path.is_file()
    if not is_device and suffix not in (*PARQUET, *TABS, ".csv", ".txt"):
        raise UserError(f"{path}: tables end in .csv, .tsv or .parquet; rename it")


def write_frame(path: Path, frame: DataFrame) -> None:
    """Write a table to a CSV or Parquet file, whole or not at all.

    Raises:
        UserError: if the file cannot be written, or pyarrow is not installed.
    """
    if not is_parquet(path):
        separator = "\t" if path.suffix.lower() in TABS else ","
        files.replace_file(path, frame.to_csv(index=False, sep=separator, lineterminator="\n"))
        return
    try:
        importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(INSTALL) from error
    files.replace_file(path, lambda place: frame.to_parquet(place, index=False))


def _parquet(path: Path) -> Any:
    content = plain_files.read_bytes(path)
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(INSTALL) from error
    try:
        table = parquet.read_table(io.BytesIO(content))
        # Texts that are no UTF-8 would fail later, far from here.
        table.validate(full=True)
        frame = table.to_pandas()
    except (arrow.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet ({_first_line(error)}); write it again"
        ) from error
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _csv(pandas: Any, path: Path, header: bool) -> Any:
    text = text_files.decoded(plain_files.read_bytes(path), str(path)).lstrip("\n")
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() in TABS else ","
    names = None if not header else _names(path, first, separator)
    try:
        with warnings.catch_warnings():
            # A column of several types is refused later, with its name.
            warnings.simplefilter("ignore", pandas.errors.DtypeWarning)
            frame = pandas.read_csv(
                io.StringIO(text),
                sep=separator,
                header=0 if header else None,
                names=names,
                index_col=False,
                skipinitialspace=True,
            )
    except pandas.errors.ParserWarning as error:
        raise _not_csv(path, error) from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise _not_csv(path, error) from error
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _names(path: Path, line: str, separator: str) -> list[str]:
    """The names in the first line; pandas would rename those that occur twice."""
    import csv

    try:
        names = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise _not_csv(path, error) from error
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise UserError(f"{path}: has two columns {twice[0]!r}; rename one")
    unnamed = [number for number, name in enumerate(names, 1) if not name.strip()]
    if unnamed:
        raise UserError(f"{path}: column {unnamed[0]} has no name in the first line; name it")
    return names


def _not_csv(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: cannot be read as CSV ({_first_line(error)}); give one row a line, as many cells"
        " as the first line has names"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
