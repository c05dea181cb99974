"""Index files of datasets: tables whose every row is known by its line, for errors that name it."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BenchError


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), only: bool = False
) -> pd.DataFrame:
    """Read the named columns of a comma-separated table with a header, all as text.

    With `only`, other columns are refused: a misspelt optional one would be passed over in silence.
    The frame's index holds line numbers. Raises BenchError naming file, line and expectation.
    """
    first = _parse(path, sep=",", header=None, nrows=1)
    header = first.iloc[0].fillna("").astype(str).tolist() if len(first) else []
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise BenchError(f"{path} has the column '{twice[0]}' twice; expected each once")
    absent = [column for column in columns if column not in header]
    if absent:
        raise BenchError(
            f"{path} has the columns {', '.join(header)}; expected {', '.join(columns)}"
        )
    unknown = [column for column in header if column not in (*columns, *optional)]
    if only and unknown:
        raise BenchError(
            f"{path} has a column '{unknown[0]}'; expected {', '.join(columns)} and, if need be, "
            f"{', '.join(optional)}"
        )
    wanted = [*columns, *(column for column in optional if column in header)]
    table = _parse(path, sep=",", index_col=False)
    return _complete(table[wanted], path, first_line=2)


def read_words(path: Path, columns: Sequence[str], skip: int = 0) -> pd.DataFrame:
    """Read a table of words between blanks, without its first `skip` lines, all as text.

    The frame's index holds line numbers. Raises BenchError naming file, line and expectation.
    """
    table = _parse(
        path,
        sep=r"\s+",
        header=None,
        names=list(columns),
        skiprows=skip,
        quoting=csv.QUOTE_NONE,
        index_col=False,
    )
    return _complete(table, path, first_line=skip + 1)


def read_lines(path: Path) -> list[str]:
    """Read the names in a list, one a line, which may hold blanks inside.

    Raises BenchError for a file that cannot be read as UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}; expected one name a line") from error
    return [line.strip() for line in lines if line.strip()]


def whole_numbers(table: pd.DataFrame, column: str, path: Path) -> NDArray[np.int64]:
    """Read a column as whole numbers; raises BenchError naming file and line."""
    text = table[column]
    wrong = ~text.str.fullmatch(r"-?\d{1,18}").to_numpy(dtype=bool)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise BenchError(
            f"{path} line {table.index[place]}: {column} is '{text.iloc[place]}'; "
            "expected a whole number"
        )
    return np.asarray(text.to_numpy(), dtype=np.int64)


def _parse(path: Path, **options: Any) -> pd.DataFrame:
    """Parse with blank lines kept, so that the rows can be counted as lines."""
    try:
        with warnings.catch_warnings():
            # pandas only warns of a first row that is too long, and would drop what is over.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
                encoding="utf-8-sig",
                **options,
            )
    except FileNotFoundError as error:
        raise BenchError(f"{path} is not there; expected a table of the data set") from error
    except Exception as error:  # damaged and compressed files fail in ways of their own
        reason = " ".join(str(error).split())
        raise BenchError(f"{path} cannot be read as a table: {reason}") from error


def _complete(table: pd.DataFrame, path: Path, first_line: int) -> pd.DataFrame:
    """Number the rows by line, drop blank lines, and refuse rows that lack a value."""
    table.index = pd.RangeIndex(first_line, first_line + len(table))
    table = table[table.notna().any(axis=1)]
    gaps = table.isna().any(axis=1).to_numpy()
    if gaps.any():
        line = table.index[int(np.argmax(gaps))]
        raise BenchError(f"{path} line {line} lacks a value; expected {', '.join(table.columns)}")
    for column in table.columns:
        padded = (table[column] != table[column].str.strip()).to_numpy()
        if padded.any():
            place = int(np.argmax(padded))
            raise BenchError(
                f"{path} line {table.index[place]}: {column} is '{table[column].iloc[place]}'; "
                "expected no blanks around it, which would be another name"
            )
    if not len(table):
        raise BenchError(f"{path} has no rows; expected {', '.join(table.columns)}")
    return table
