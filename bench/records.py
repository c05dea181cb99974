"""The per-query records: the truth from which every number, table, chart and metric is derived.

One Parquet file per cell, one row per (query, system, order, share):

| column | meaning |
|---|---|
| `query` | identifier of the query |
| `system` | `old`: old queries on the old gallery; `refreshed`: new queries, mixed gallery |
| `order` | the backfill order of the gallery; empty for `old` |
| `share` | backfilled share of the gallery in [0, 1]; NaN for `old` |
| `AP` | average precision of this query, in the variant that the metadata names |
| `success_at_1`, `success_at_5` | a relevant item stands among the first 1, 5 |

In a chain of upgrades there are also the systems `first`, `old on first` and `new on first`: the
queries of three generations on the first one's gallery, never backfilled.

Queries without a relevant item have no rows. What the whole cell has in common is JSON in the
file's own metadata, under the key `bench`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.agreement import refuse_mixture
from bench.errors import BenchError
from bench.store import digest

if TYPE_CHECKING:  # a repeated run reads metadata alone, without pandas
    import pandas as pd

SCHEMA_VERSION = 1
SUCCESS_AT = (1, 5)
# In a chain of upgrades: queries of each generation on a gallery that was never backfilled.
ON_FIRST = ("first", "old on first", "new on first")
# The method whose fully backfilled accuracy is M(*,*) in the definitions of tax and gain.
REFERENCE_METHOD = "independent"
_METADATA_KEY = b"bench"


def frame(
    ids: NDArray[np.str_],
    shares: NDArray[np.float64],
    ap: NDArray[np.float64],
    success: NDArray[np.bool_],
    system: str,
    order: str = "",
) -> pd.DataFrame:
    """Lay a curve out in rows: `ap` [S, Q] and `success` [S, K, Q] of queries `ids` [Q]."""
    import pandas as pd

    evaluated = ~np.isnan(ap[0])
    rows = {
        "query": np.tile(ids[evaluated], len(shares)),
        "system": system,
        "order": order,
        "share": np.repeat(shares, evaluated.sum()),
        "AP": ap[:, evaluated].ravel(),
    }
    for position, k in enumerate(SUCCESS_AT):
        rows[f"success_at_{k}"] = success[:, position][:, evaluated].ravel()
    return pd.DataFrame(rows).astype(dict.fromkeys(("query", "system", "order"), "string"))


def write(path: Path, rows: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """Write one cell's records; `metadata` must be JSON and gets the schema version."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    note = json.dumps({"schema_version": SCHEMA_VERSION, **metadata}, sort_keys=True)
    table = table.replace_schema_metadata({_METADATA_KEY: note.encode()})
    pq.write_table(table, path, compression="zstd")


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one cell's records and metadata.

    Raises BenchError when the file is not a record of this schema version.
    """
    note = read_note(path)
    try:
        rows = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise BenchError(
            f"{path} is damaged ({error}); delete it and run the cell again"
        ) from error
    return rows, note


def read_note(path: Path) -> dict[str, Any]:
    """Read one cell's metadata alone, once while the file stays as it is; raises as `read` does."""
    try:
        status = path.stat()
    except OSError as error:
        raise _foreign(path, error) from error
    note: dict[str, Any] = json.loads(_note(path, status.st_size, status.st_mtime_ns))
    return note


@cache
def _note(path: Path, size: int, changed: int) -> bytes:
    try:
        text: bytes = (pq.read_schema(path).metadata or {})[_METADATA_KEY]
        found = json.loads(text).get("schema_version")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise _foreign(path, error) from error
    if found != SCHEMA_VERSION:
        raise BenchError(
            f"{path} has schema version {found}, this harness reads version {SCHEMA_VERSION}; "
            "use another results folder or the harness that wrote it"
        )
    return text


def _foreign(path: Path, error: Exception) -> BenchError:
    return BenchError(
        f"{path} is not a record of this harness ({error}); delete it and run the cell again"
    )


def in_order(rows: pd.DataFrame, note: dict[str, Any], order: str | None = None) -> pd.DataFrame:
    """Keep a cell's rows of one backfill order, by default its first, and those of no order."""
    return rows[rows["order"].isin(["", order or note["settings"]["orders"][0]])]


def suite_paths(results: Path, suite: str) -> list[Path]:
    """List the records of a suite; raises BenchError when there are none."""
    paths = sorted((results / "records" / suite).glob("*/*/*/seed-*.parquet"))
    if not paths:
        raise BenchError(
            f"no records of suite '{suite}' in {results}; "
            f"run `python -m bench all --suite {suite} --results {results}` first"
        )
    return paths


def suite_key(results: Path, suite: str) -> str:
    """Name what a suite's records hold, without reading their rows."""
    return digest([read_note(path)["key"] for path in suite_paths(results, suite)])


def read_suite(
    results: Path, suite: str, order: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every record of a suite, in one backfill order: by default each cell's first.

    Returns the rows of all cells with `dataset`, `scenario`, `method` and `seed` added, and one
    metadata row per cell. Raises BenchError when there are none, or none that belong together.
    """
    import pandas as pd

    frames, notes = [], []
    for path in suite_paths(results, suite):
        rows, note = read(path)
        cell = {name: note[name] for name in ("dataset", "scenario", "method", "seed")}
        frames.append(in_order(rows, note, order).assign(**cell))
        notes.append(note)
    refuse_mixture(notes, f"suite '{suite}' in {results}")
    return pd.concat(frames, ignore_index=True), pd.DataFrame(notes)


def left_out(results: Path, suite: str) -> list[str]:
    """Say what a suite's datasets hold that no record speaks of: one sentence for each dataset."""
    datasets = {}
    for path in suite_paths(results, suite):
        note = read_note(path)
        datasets[note["dataset"]] = note["dataset_counts"]
    sentences = []
    for dataset, counts in datasets.items():
        corrupt, unanswered = (counts.get(key) for key in ("corrupt_skipped", "unanswered_queries"))
        parts = [f"{corrupt:,} corrupt images"] if corrupt else []
        parts += [f"{unanswered:,} queries without a right answer"] if unanswered else []
        if parts:
            sentences.append(f"{dataset}: left out {' and '.join(parts)}")
    return sentences
