"""Embeddings, relevance and orders from files that people bring along; pickles are never loaded.

| file | holds | ids |
|---|---|---|
| `.npy` | one table [N, D] | one per line in `NAME.ids.txt` beside `NAME.npy`, if that exists |
| `.npz` | one table [N, D], under any name but `ids` | array `ids` of strings |
| `.parquet` | a column `embedding` of lists, or one numeric column per dimension | column `id` |
| `.safetensors` | one table [N, D], under any name | JSON list under `ids` in the metadata |
| relevance `.csv` | columns `query,item[,relevance]` | |
| relevance, other | TREC qrels: `query iteration item relevance` between blanks | |

Queries and items are named by id where their embeddings have ids, else by row number from 0.
Relevance above 0 is relevant, 0 is not, −1 is junk.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.index_files import read_csv, read_words, whole_numbers
from bench.relevance import Relevance
from bench.retrieval import check_rows

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Vectors:
    """Embeddings [N, D] of one file, with one id each where the file has any."""

    path: Path
    rows: NDArray[Any]
    ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    def name(self, row: int) -> str:
        """Id of a row, or its number where there are no ids."""
        return self.ids[row] if self.ids is not None else str(row)

    def numbers(self) -> dict[str, int]:
        """Row of each id or number."""
        return {self.name(row): row for row in range(len(self))}


def read_vectors(path: Path) -> Vectors:
    """Read embeddings by the file's suffix; `.npy` tables stay on disk.

    Raises BenchError for a missing or unreadable file, anything but a numeric table, ids that
    repeat or are not one per row, and rows that hold NaN, infinity or only zeros.
    """
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".parquet": _read_parquet,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise BenchError(f"{path}: expected a file that ends in {', '.join(readers)}")
    if not path.is_file():
        raise BenchError(f"{path} does not exist; expected a file of embeddings")
    try:
        rows, ids = readers[path.suffix](path)
    except (ValueError, OSError, BadZipFile, pa.ArrowException) as error:
        raise BenchError(
            f"{path} cannot be read as a table of numbers ({error}); pickled and object arrays "
            "are never loaded: save one row of floating-point numbers per item"
        ) from error
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.size:
        raise BenchError(
            f"{path} holds {rows.dtype} of shape {rows.shape}; expected a table of numbers, one "
            "row per item"
        )
    if ids is not None and not len(ids) == len(set(ids)) == len(rows):
        repeated = next((f", '{name}' among those that repeat" for name in _repeated(ids)), "")
        raise BenchError(
            f"{path} has {len(rows)} rows and {len(ids)} ids, {len(set(ids))} of them different"
            f"{repeated}; expected one id of its own for each row"
        )
    check_rows(rows, str(path))
    return Vectors(path, rows, ids)


def _repeated(ids: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(ids).items() if count > 1]


def _read_npy(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    names = path.with_suffix(".ids.txt")
    ids = tuple(names.read_text(encoding="utf-8").splitlines()) if names.exists() else None
    return np.load(path, mmap_mode="r", allow_pickle=False), ids


def _read_npz(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in file.files if name != "ids"]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} arrays beside ids, expected one")
        ids = tuple(map(str, file["ids"].tolist())) if "ids" in file.files else None
        return file[names[0]], ids


def _read_parquet(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    table = pq.read_table(path)
    ids = None
    if "id" in table.column_names:
        ids = tuple(str(value) for value in table.column("id").to_pylist())
        table = table.drop_columns(["id"])
    if "embedding" not in table.column_names:
        return table.to_pandas().to_numpy(), ids
    lists = table.column("embedding").combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if lists.null_count or not len(lists) or len(flat) % len(lists):
        raise ValueError("column 'embedding' has rows of different lengths")
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        raise ValueError("column 'embedding' has rows of different lengths")
    return flat.reshape(len(lists), -1), ids


def _read_safetensors(path: Path) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise ValueError(f"it holds {len(names)} tensors, expected one")
            tensor = file.get_tensor(names[0])
            written = (file.metadata() or {}).get("ids")
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    ids = tuple(str(value) for value in json.loads(written)) if written else None
    # bfloat16 is unknown to numpy.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy(), ids


def aligned(new: Vectors, old: Vectors, what: str) -> Vectors:
    """Return `new` with its rows in the order of `old`.

    Raises BenchError, naming both files, where they do not hold the same `what`.
    """
    if len(new) != len(old):
        raise BenchError(
            f"{new.path} has {len(new)} rows but {old.path} has {len(old)}; expected the same "
            f"{what} in both"
        )
    if new.ids is None or old.ids is None or new.ids == old.ids:
        return new
    rows = new.numbers()
    missing = [name for name in old.ids if name not in rows]
    if missing:
        raise BenchError(
            f"{len(missing)} ids of {old.path} are not in {new.path}, such as '{missing[0]}'; "
            f"expected the same {what} in both"
        )
    return Vectors(new.path, new.rows[[rows[name] for name in old.ids]], old.ids)


def read_relevance(path: Path, queries: Vectors, gallery: Vectors) -> Relevance:
    """Read which items answer which query, from TREC qrels or CSV.

    Raises BenchError naming file and line for queries, items and relevances that are not there or
    not understood.
    """
    if not path.is_file():
        raise BenchError(f"{path} does not exist; expected TREC qrels or a CSV query,item")
    if path.suffix == ".csv":
        table = read_csv(path, ["query", "item"], optional=["relevance"])
    else:
        table = read_words(path, ["query", "iteration", "item", "relevance"])
    query = _located(table, "query", queries, path)
    item = _located(table, "item", gallery, path)
    levels = np.ones(len(table), dtype=np.int64)
    if "relevance" in table:
        levels = whole_numbers(table, "relevance", path)
    relevant: dict[int, list[int]] = defaultdict(list)
    junk: dict[int, list[int]] = defaultdict(list)
    for row, answer, level in zip(query.tolist(), item.tolist(), levels.tolist(), strict=True):
        if level:
            (relevant if level > 0 else junk)[row].append(answer)
    if not relevant:
        raise BenchError(f"{path} lists no relevant item; expected a relevance above 0 somewhere")
    try:
        return Relevance.from_lists(
            [relevant[row] for row in range(len(queries))],
            [junk[row] for row in range(len(queries))],
            len(gallery),
        )
    except ValueError as error:
        raise BenchError(f"{path}: {error}; list each item once per query") from error


def _located(table: pd.DataFrame, column: str, vectors: Vectors, path: Path) -> Rows:
    rows = table[column].map(vectors.numbers())
    unknown = rows.isna().to_numpy()
    if unknown.any():
        place = int(np.argmax(unknown))
        kind = "ids" if vectors.ids is not None else f"row numbers 0..{len(vectors) - 1}"
        raise BenchError(
            f"{path} line {table.index[place]}: {column} '{table[column].iloc[place]}' is not in "
            f"{vectors.path} ({int(unknown.sum())} such lines); expected its {kind}"
        )
    return np.asarray(rows.to_numpy(), dtype=np.int64)


def read_order(path: Path, gallery: Vectors) -> Rows:
    """Read a backfill order: one id or row number per line, first backfilled first.

    Raises BenchError for names that are not in the gallery, that repeat or that are missing.
    """
    table = pd.DataFrame({"item": path.read_text(encoding="utf-8").split()})
    table.index += 1
    rows = _located(table, "item", gallery, path)
    if len(rows) != len(gallery) or len(np.unique(rows)) != len(rows):
        raise BenchError(
            f"{path} lists {len(rows)} items, {len(np.unique(rows))} of them different, but "
            f"{gallery.path} has {len(gallery)}; expected each item once"
        )
    return rows
