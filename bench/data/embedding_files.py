"""Embeddings, relevance and orders from files that people bring along; pickles are never loaded.

| file | holds | ids |
|---|---|---|
| `.npy` | one table [N, D] | one per line in `NAME.ids.txt` beside `NAME.npy`, if that exists |
| `.npz` | one table [N, D], under any name but `ids` | array `ids` of strings |
| `.parquet` | a column `embedding` of lists, or columns such as `d0`, `d1`, … | column `id` |
| folder, or `part-*.parquet` | Parquet files, part 2 before part 10 | column `id` |
| `.safetensors` | one table [N, D], under any name | JSON list under `ids` in the metadata |
| relevance `.csv`, `.jsonl` | `query`, `item` and, if graded, `relevance` | |
| relevance, other | TREC qrels: `query iteration item relevance` between blanks | |

Queries and items are named by id where their embeddings have ids, else by row number from 0.
Relevance above 0 is relevant and its degree, 0 is not, below 0 is junk. Relevance may be compressed
(`.gz`). Tables that can be mapped into memory stay on disk.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.data.tables import read_csv, read_lines, read_words, whole_numbers
from bench.errors import BenchError
from bench.evaluation.scores import check_rows
from bench.relevance import Relevance

Rows = NDArray[np.int64]
Ids = tuple[str, ...] | None
_IN_MEMORY = 1 << 28  # bytes of a table that is not kept on disk while it is read
_CHUNK = 1 << 22
_PARQUET_ROWS = 16_384


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings [N, D] of one file, with one id each where the file has any.

    `columns` are the names of the dimensions where the file names them.
    """

    path: Path
    rows: NDArray[Any]
    ids: Ids = None
    columns: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Dimension of the embeddings."""
        return int(self.rows.shape[1])

    def name(self, row: int) -> str:
        """Id of a row, or its number where there are no ids."""
        return self.ids[row] if self.ids is not None else str(row)

    def numbers(self) -> dict[str, int]:
        """Row of each id or number."""
        return {self.name(row): row for row in range(len(self))}


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a library says of a damaged file into a sentence that names the file."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # any reader may fail in ways of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BenchError(f"{path} cannot be read ({reason}); expected {expected}") from error


def read_embeddings(path: Path, id_column: str = "id") -> EmbeddingTable:
    """Read embeddings by the file's suffix; tables that can be mapped stay on disk.

    `id_column` names the column of a Parquet file that tells rows apart. Raises BenchError for a
    missing or unreadable file, anything but a numeric table, ids that repeat or are not one per
    row, and rows that hold NaN, infinity or only zeros.
    """
    readers: dict[str, Callable[[Path], EmbeddingTable]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".parquet": lambda found: _read_parquet(found, _parts(found), id_column),
        ".safetensors": _read_safetensors,
    }
    folder = path.is_dir()
    suffix = ".parquet" if folder else path.suffix
    if suffix not in readers:
        raise BenchError(f"{path}: expected a file that ends in {', '.join(readers)}")
    if not (folder or path.is_file() or "*" in path.name):
        raise BenchError(f"{path} {_is_no_file(path)}; expected a file of embeddings")
    if path.is_file() and not path.stat().st_size:
        raise BenchError(
            f"{path} is empty (0 bytes); expected a file of embeddings: write it again"
        )
    expected = (
        f"a {suffix} file with one row of numbers per item; pickled and object arrays are never "
        "loaded"
    )
    with readable(path, expected):
        table = readers[suffix](path)
    rows, ids = table.rows, table.ids
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
    return table


def _is_no_file(path: Path) -> str:
    return "is no file" if path.exists() else "does not exist"


def _repeated(ids: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(ids).items() if count > 1]


def _read_npy(path: Path) -> EmbeddingTable:
    names = path.with_suffix(".ids.txt")
    ids = tuple(read_lines(names)) if names.exists() else None
    with path.open("rb") as file:
        shape, dtype, order = _array_header(file)
        offset, size = file.tell(), path.stat().st_size
    _check_size(shape, dtype, size - offset)
    rows = np.memmap(path, dtype, "r", offset, shape, order)
    return EmbeddingTable(path, rows, ids)


def _array_header(file: Any) -> tuple[tuple[int, int], np.dtype[Any], Any]:
    """Shape, type and order of the array that a .npy file holds; only tables of numbers pass."""
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"version {version} of the format is unknown")
    shape, fortran, dtype = reader(file)
    if len(shape) != 2 or dtype.kind not in "fiu" or min(shape) < 1:
        raise ValueError(f"it holds {dtype} of shape {shape}, not a table of numbers")
    return (int(shape[0]), int(shape[1])), dtype, "F" if fortran else "C"


def _check_size(shape: tuple[int, int], dtype: np.dtype[Any], held: int) -> None:
    needed = shape[0] * shape[1] * dtype.itemsize
    if needed != held:
        raise ValueError(
            f"its header promises {shape[0]} × {shape[1]} numbers, {needed:,} bytes, but {held:,} "
            "follow"
        )


def _read_npz(path: Path) -> EmbeddingTable:
    """Check each member's checksum, then unpack the one table; the ids are a small array."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("an array is there twice")
        names = [name for name in members if name != "ids"]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} arrays beside ids, expected one")
        with archive.open(members[names[0]]) as file:
            shape, dtype, order = _array_header(file)
            _check_size(shape, dtype, members[names[0]].file_size - file.tell())
            with _spool(shape[0] * shape[1] * dtype.itemsize) as (write, mapped):
                while chunk := file.read(_CHUNK):
                    write(chunk)
                rows = mapped(dtype, shape, order)
        ids: Ids = None
        if "ids" in members:
            if members["ids"].file_size > max(_IN_MEMORY, 4096 * shape[0]):
                raise ValueError(f"its ids take {members['ids'].file_size:,} bytes")
            with archive.open(members["ids"]) as file:
                named = np.lib.format.read_array(file, allow_pickle=False)
            if named.ndim != 1 or named.dtype.kind not in "USiu":
                raise ValueError(f"its ids are {named.dtype} of shape {named.shape}")
            ids = tuple(
                name.decode("utf-8") if isinstance(name, bytes) else str(name)
                for name in named.tolist()
            )
    return EmbeddingTable(path, rows, ids)


@contextmanager
def _spool(size: int) -> Iterator[tuple[Callable[[Any], Any], Callable[..., NDArray[Any]]]]:
    """Collect the bytes of a table, in memory or, if large, in a file without a name."""
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (outlives the block)
    if size > _IN_MEMORY:
        file.rollover()

    def mapped(dtype: Any, shape: tuple[int, int], order: Any = "C") -> NDArray[Any]:
        _check_size(shape, np.dtype(dtype), file.tell())
        if size <= _IN_MEMORY:
            file.seek(0)
            return np.frombuffer(file.read(), dtype).reshape(shape, order=order)
        file.flush()
        return np.memmap(file._file, dtype, "r", 0, shape, order)

    yield file.write, mapped


def _parts(path: Path) -> list[Path]:
    """The Parquet files of a folder or pattern, by name; the file itself if it is one."""
    if path.is_dir():
        found = sorted(path.glob("*.parquet"), key=_numbered)
        deeper = [part for part in path.rglob("*.parquet") if part.parent != path]
        if deeper:
            raise ValueError(f"{deeper[0].relative_to(path)} lies in a folder of its own")
    else:
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name), key=_numbered)
    if not found:
        raise ValueError("no Parquet file is there")
    return found


def _numbered(path: Path) -> list[str | int]:
    """Sort key by which part 2 comes before part 10, as they were written."""
    return [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", path.name)]


def _read_parquet(path: Path, parts: Sequence[Path], id_column: str) -> EmbeddingTable:
    files = [pq.ParquetFile(part) for part in parts]
    schema = files[0].schema_arrow
    names = set(schema.names)
    if len(names) < len(schema.names):
        raise ValueError("a column name occurs twice")
    for part, file in zip(parts, files, strict=True):
        if set(file.schema_arrow.names) != names:
            raise ValueError(f"{part.name} has other columns than {parts[0].name}")
        if any(file.schema_arrow.field(name).type != schema.field(name).type for name in names):
            raise ValueError(f"{part.name} has columns of other types than {parts[0].name}")
    if id_column not in names and id_column != "id":
        raise ValueError(f"it has no column '{id_column}', only {', '.join(schema.names[:10])}")
    wanted, ids, columns = [id_column] if id_column in names else [], None, None
    if "embedding" in names:
        _refuse_unknown(names - {id_column, "embedding"}, id_column)
        _check_lists(schema.field("embedding").type)
        wanted.append("embedding")
    else:
        columns = _dimension_columns(names - {id_column}, schema, id_column)
        wanted += columns
    count = sum(file.metadata.num_rows for file in files)
    collected: list[str] = []
    width = len(columns) if columns else 0
    with _spool(4 * count * max(width, 1024)) as (write, mapped):
        for file in files:
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                rows = _numbers_of(batch, columns)
                width = width or rows.shape[1]
                if rows.shape[1] != width:
                    raise ValueError("column 'embedding' has rows of different lengths")
                write(np.ascontiguousarray(rows, np.float32).data)
                if id_column in names:
                    collected += _ids_of(batch.column(id_column), id_column)
        ids = tuple(collected) if id_column in names else None
        return EmbeddingTable(path, mapped(np.float32, (count, width)), ids, columns)


def _refuse_unknown(unknown: set[str], id_column: str) -> None:
    if unknown:
        raise ValueError(
            f"the column '{min(unknown)}' is neither '{id_column}' nor a dimension; name the "
            "column of ids with --id-column, and leave others out"
        )


def _check_lists(kind: pa.DataType) -> None:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    value = kind.value_type if any(test(kind) for test in lists) else None
    if value is None or not (pa.types.is_floating(value) or pa.types.is_integer(value)):
        raise ValueError(
            f"the column 'embedding' holds {kind}; save lists of numbers, such as list<float>"
        )


def _dimension_columns(names: set[str], schema: pa.Schema, id_column: str) -> tuple[str, ...]:
    """Columns that are named by one prefix and the numbers of the dimensions, in their order."""
    split = {name: re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names}
    _refuse_unknown({name for name, found in split.items() if found is None}, id_column)
    prefixes = Counter(found[1] for found in split.values() if found)
    if not prefixes:
        raise ValueError("it has no column of numbers")
    prefix = prefixes.most_common(1)[0][0]
    _refuse_unknown(
        {name for name, found in split.items() if found and found[1] != prefix}, id_column
    )
    ordered = sorted(names, key=lambda name: int(name.removeprefix(prefix)))
    numbers = [int(name.removeprefix(prefix)) for name in ordered]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise ValueError(
            f"its columns {ordered[0]} … {ordered[-1]} do not count the dimensions without gaps"
        )
    for name in ordered:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"the column '{name}' holds {kind}, not numbers")
    return tuple(ordered)


def _numbers_of(batch: pa.RecordBatch, columns: tuple[str, ...] | None) -> NDArray[Any]:
    if columns is not None:
        parts = [batch.column(name) for name in columns]
        if any(part.null_count for part in parts):
            raise ValueError("a dimension is missing in some row")
        return np.stack([part.to_numpy(zero_copy_only=False) for part in parts], axis=1)
    lists = batch.column("embedding")
    flat = lists.flatten()
    if lists.null_count or flat.null_count or len(flat) % max(len(lists), 1):
        raise ValueError("column 'embedding' has rows of different lengths or without numbers")
    if not pa.types.is_fixed_size_list(lists.type):
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        if len(np.unique(lengths)) > 1:
            raise ValueError("column 'embedding' has rows of different lengths")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(lists), -1)


def _ids_of(column: pa.Array, name: str) -> list[str]:
    kind = column.type
    text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
    if column.null_count or not (text or pa.types.is_integer(kind) or pa.types.is_dictionary(kind)):
        raise ValueError(
            f"the column '{name}' holds {kind} with {column.null_count} missing; ids are texts or "
            "whole numbers, one for each row"
        )
    return [str(value) for value in column.to_pylist()]


def _read_safetensors(path: Path) -> EmbeddingTable:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} tensors, expected one")
        tensor = file.get_tensor(names[0])
        written = (file.metadata() or {}).get("ids")
    ids = None
    if written:
        listed = json.loads(written)
        if not isinstance(listed, list) or not all(
            isinstance(x, str | int) and not isinstance(x, bool) for x in listed
        ):
            raise ValueError("`ids` in its metadata is not a JSON list of texts")
        ids = tuple(map(str, listed))
    # numpy knows neither bfloat16 nor the types of 8 bits.
    known = str(tensor.dtype) in ("torch.float16", "torch.float32", "torch.float64")
    rows = tensor if known or not tensor.is_floating_point() else tensor.float()
    return EmbeddingTable(path, rows.numpy(), ids)


def aligned(new: EmbeddingTable, old: EmbeddingTable, what: str) -> EmbeddingTable:
    """Return `new` with its rows in the order of `old`.

    Raises BenchError, naming both files, where they do not hold the same `what`, and where only one
    of them says by ids which row is which.
    """
    if len(new) != len(old):
        raise BenchError(
            f"{new.path} has {len(new)} rows but {old.path} has {len(old)}; expected the same "
            f"{what} in both"
        )
    if (new.ids is None) != (old.ids is None):
        has, lacks = (old, new) if new.ids is None else (new, old)
        raise BenchError(
            f"{has.path} has ids and {lacks.path} has none, so that nothing tells which rows are "
            f"the same {what}; give both ids, or neither if their rows are in the same order"
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
    order = np.array([rows[name] for name in old.ids])
    return EmbeddingTable(new.path, reordered(new.rows, order), old.ids, new.columns)


def reordered(rows: NDArray[Any], order: Rows) -> NDArray[Any]:
    """Rows in another order, on disk if they are many."""
    with _spool(rows.nbytes) as (write, mapped):
        step = max(1, _CHUNK // max(1, rows.itemsize * rows.shape[1]))
        for start in range(0, len(order), step):
            write(np.ascontiguousarray(rows[order[start : start + step]]).data)
        return mapped(rows.dtype, (len(order), rows.shape[1]))


def check_same_space(one: EmbeddingTable, other: EmbeddingTable) -> None:
    """Raise BenchError, naming both files, where two tables of one model cannot be compared."""
    if one.width != other.width:
        raise BenchError(
            f"{one.path} has {one.width} dimensions but {other.path} has {other.width}; expected "
            "both to be embedded by the same model"
        )
    if one.columns != other.columns and not (one.columns is None or other.columns is None):
        raise BenchError(
            f"the dimensions of {one.path} are named {one.columns[0]} … {one.columns[-1]}, those "
            f"of {other.path} {other.columns[0]} … {other.columns[-1]}; expected the same names"
        )


def read_relevance(path: Path, queries: EmbeddingTable, gallery: EmbeddingTable) -> Relevance:
    """Read which items answer which query, from TREC qrels, CSV or JSON lines.

    Raises BenchError naming file and line for queries, items and relevances that are not there or
    not understood.
    """
    if not path.is_file():
        raise BenchError(f"{path} {_is_no_file(path)}; expected TREC qrels or a CSV query,item")
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".csv":
        table = read_csv(path, ["query", "item"], optional=["relevance"], only=True)
    elif kind in (".jsonl", ".ndjson"):
        table = _read_json_lines(path)
    else:
        table = read_words(path, ["query", "iteration", "item", "relevance"])
    query = _located(table, "query", queries, path)
    item = _located(table, "item", gallery, path)
    levels = np.ones(len(table), dtype=np.int64)
    if "relevance" in table:
        levels = whole_numbers(table, "relevance", path)
    if not (levels > 0).any():
        raise BenchError(f"{path} lists no relevant item; expected a relevance above 0 somewhere")
    twice = _judged_twice(query, item, levels)
    if twice is not None:
        first, second = sorted(table.index[place] for place in twice)
        raise BenchError(
            f"{path} judges item '{table['item'].loc[first]}' for query "
            f"'{table['query'].loc[first]}' twice and differently, on lines {first} and {second}; "
            "expected one relevance of each pair"
        )
    return Relevance.from_judgements(query, item, levels, len(queries), len(gallery))


def _judged_twice(query: Rows, item: Rows, level: Rows) -> tuple[int, int] | None:
    """Places of two different judgements of one pair."""
    order = np.lexsort((level, item, query))
    q, i, v = query[order], item[order], level[order]
    found = np.flatnonzero((q[1:] == q[:-1]) & (i[1:] == i[:-1]) & (v[1:] != v[:-1]))
    return (int(order[found[0]]), int(order[found[0] + 1])) if len(found) else None


def _read_json_lines(path: Path) -> pd.DataFrame:
    opened = gzip.open if path.suffix == ".gz" else open
    lines, rows = [], []
    with readable(path, "one JSON object a line, in UTF-8"):
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    found = json.loads(line, object_pairs_hook=_once)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                if not isinstance(found, dict) or set(found) - {"query", "item", "relevance"}:
                    raise ValueError(f"line {number} has other keys than query, item, relevance")
                if not {"query", "item"} <= set(found) or not all(
                    isinstance(value, str | int) and not isinstance(value, bool)
                    for value in found.values()
                ):
                    raise ValueError(f"line {number} lacks a query or item that is text or number")
                rows.append({"relevance": 1, **found})
                lines.append(number)
        if not rows:
            raise ValueError("it holds no line")
        return pd.DataFrame(rows, index=lines).astype(str)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; JSON would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _located(table: pd.DataFrame, column: str, vectors: EmbeddingTable, path: Path) -> Rows:
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


def read_order(path: Path, gallery: EmbeddingTable) -> Rows:
    """Read a backfill order: one id or row number per line, first backfilled first.

    A CSV `item,score` or `item,count` lists numbers instead, and the largest goes first: items that
    a count does not list were never asked for. Raises BenchError for names that are not in the
    gallery, that repeat or that are missing.
    """
    if path.suffix == ".csv":
        return _order_of_numbers(path, gallery)
    table = pd.DataFrame({"item": read_lines(path)})
    table.index += 1
    rows = _located(table, "item", gallery, path)
    if len(rows) != len(gallery) or len(np.unique(rows)) != len(rows):
        raise BenchError(
            f"{path} lists {len(rows)} items, {len(np.unique(rows))} of them different, but "
            f"{gallery.path} has {len(gallery)}; expected each item once"
        )
    return rows


def _order_of_numbers(path: Path, gallery: EmbeddingTable) -> Rows:
    table = read_csv(path, ["item"], optional=["score", "count"], only=True)
    kinds = [kind for kind in ("score", "count") if kind in table]
    if len(kinds) != 1:
        raise BenchError(f"{path}: expected the columns item,score or item,count")
    rows, numbers = _located(table, "item", gallery, path), numbers_of(table, kinds[0], path)
    if len(np.unique(rows)) != len(rows) or (kinds[0] == "score" and len(rows) != len(gallery)):
        raise BenchError(
            f"{path} lists {len(np.unique(rows))} different items on {len(rows)} lines, but "
            f"{gallery.path} has {len(gallery)}; expected a {kinds[0]} of each item, once"
        )
    if kinds[0] == "count" and (numbers < 0).any():
        place = int(np.argmax(numbers < 0))
        raise BenchError(
            f"{path} line {table.index[place]}: count is {numbers[place]:g}; expected 0 or more"
        )
    priority = np.zeros(len(gallery))
    priority[rows] = numbers
    return np.argsort(-priority, kind="stable").astype(np.int64)


def read_of_queries(path: Path, column: str, queries: EmbeddingTable) -> list[str]:
    """Read a text of every query from a CSV `query,COLUMN`, in the order of the queries.

    Raises BenchError for queries that are unknown, repeat or are missing.
    """
    table = read_csv(path, ["query", column])
    rows = _located(table, "query", queries, path)
    if len(np.unique(rows)) != len(rows) or len(rows) != len(queries):
        raise BenchError(
            f"{path} lists {len(np.unique(rows))} different queries on {len(rows)} lines, but "
            f"{queries.path} has {len(queries)}; expected a {column} of each query, once"
        )
    found = [""] * len(queries)
    for row, text in zip(rows.tolist(), table[column].tolist(), strict=True):
        found[row] = text
    return found


def numbers_of(table: pd.DataFrame, column: str, path: Path) -> NDArray[np.float64]:
    """Read a column as finite numbers; raises BenchError naming file and line."""
    numbers = np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise BenchError(
            f"{path} line {table.index[place]}: {column} is '{table[column].iloc[place]}'; "
            "expected a finite number"
        )
    return numbers
