"""The per-query records: the truth from which every number, table, chart and metric is derived.

One Parquet file per cell, one row per (query, system, order, share):

| column | meaning |
|---|---|
| `query` | identifier of the query |
| `group` | what the query shares answers with: its class, landmark, person or product |
| `system` | `old`: old queries on the old gallery; `refreshed`: new queries, mixed gallery |
| `order` | the backfill order of the gallery; empty for `old` |
| `share` | backfilled share of the gallery in [0, 1]; NaN for `old` |
| `AP` | average precision of this query, in the variant that the metadata names |
| `success_at_1`, `success_at_5` | a relevant item stands among the first 1, 5 |
| `purchases` | gallery items embedded anew for this query; older files lack it |

In a chain of upgrades there are also the systems `first`, `old on first` and `new on first`: the
queries of three generations on the first one's gallery, never backfilled.

Queries without a relevant item have no rows. What the whole cell has in common is JSON in the
file's own metadata, under the key `bench`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.evaluation.metrics import SUCCESS_AT
from bench.storage.metadata import RunMetadata
from bench.storage.results import Cell
from bench.storage.verified import read_table_note, sealed_table, unusable

if TYPE_CHECKING:  # a repeated run reads metadata alone, without pandas
    import pandas as pd

SCHEMA_VERSION = 2
READABLE = (1, 2)  # version 1 has neither groups nor a checksum
# In a chain of upgrades: queries of each generation on a gallery that was never backfilled.
ON_FIRST = ("first", "old on first", "new on first")
# The method whose fully backfilled accuracy is M(*,*) in the definitions of tax and gain.
REFERENCE_METHOD = "independent"
COMPRESSION = "zstd"


def frame(
    ids: NDArray[np.str_],
    shares: NDArray[np.float64],
    ap: NDArray[np.float64],
    success: NDArray[np.bool_],
    system: str,
    order: str = "",
    groups: Sequence[str] | None = None,
    purchases: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Lay a curve out in rows: `ap` [S, Q] and `success` [S, K, Q] of queries `ids` [Q].

    `groups` [Q] names the group of each query; by default each is its own. `purchases` [S] are the
    items that each query has embedded anew, by default none.
    """
    import pandas as pd

    evaluated = ~np.isnan(ap[0])
    rows = {
        "query": np.tile(ids[evaluated], len(shares)),
        "group": np.tile((ids if groups is None else np.array(groups))[evaluated], len(shares)),
        "system": system,
        "order": order,
        "share": np.repeat(shares, evaluated.sum()),
        "AP": ap[:, evaluated].ravel(),
    }
    for position, k in enumerate(SUCCESS_AT):
        rows[f"success_at_{k}"] = success[:, position][:, evaluated].ravel()
    bought = np.zeros(len(shares), np.int64) if purchases is None else purchases
    rows["purchases"] = np.repeat(bought, evaluated.sum())
    return pd.DataFrame(rows).astype(dict.fromkeys(("query", "group", "system", "order"), "string"))


def write(path: Path, rows: pd.DataFrame, metadata: RunMetadata) -> None:
    """Write the records of one run with its metadata."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    note = json.dumps(metadata.content(), sort_keys=True)
    pq.write_table(sealed_table(table, note), path, compression=COMPRESSION)


def read(path: Path) -> tuple[pd.DataFrame, RunMetadata]:
    """Read one cell's records and metadata.

    Raises BenchError when the file differs from its checksum or is of another schema version.
    """
    note = read_note(path)
    try:
        rows = pq.read_table(path).to_pandas()
    except Exception as error:  # it was altered after it had been verified
        raise unusable(path, error) from error
    return rows, note


def read_note(path: Path) -> RunMetadata:
    """Read one cell's metadata, its rows verified with it; raises as `read` does."""
    content = json.loads(read_table_note(path))
    if (found := content.get("schema_version")) not in READABLE:
        raise BenchError(
            f"{path} has schema version {found}, this harness reads versions "
            f"{' and '.join(map(str, READABLE))}; "
            "use another results folder or the harness that wrote it"
        )
    try:
        note = RunMetadata.model_validate(content)
        cell = Cell(note.suite, note.dataset, note.scenario, note.method, note.seed)
        if not cell.belongs_at(path):
            raise ValueError(f"it holds {cell}, on {cell.dataset}")
    except ValueError as error:
        raise unusable(path, error) from error
    return note
