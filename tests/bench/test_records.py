import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import records
from bench.errors import BenchError

NOTE = {
    "suite": "s",
    "dataset": "d",
    "scenario": "c",
    "method": "m",
    "seed": 0,
    "settings": {"orders": ["random"]},
}


def rows():
    ids = np.array(["a", "b", "c"])
    ap = np.array([[0.5, np.nan, 1.0], [0.25, np.nan, 0.75]])
    success = np.zeros((2, 2, 3), bool)
    success[0, :, 0] = True
    success[1, 1, 2] = True
    return records.frame(ids, np.array([0.0, 1.0]), ap, success, "refreshed", "random")


def test_a_frame_has_one_row_per_share_and_evaluated_query():
    frame = rows()
    assert frame.columns.tolist() == [
        *("query", "system", "order", "share", "AP", "success_at_1", "success_at_5")
    ]
    assert frame.values.tolist() == [
        ["a", "refreshed", "random", 0.0, 0.5, True, True],
        ["c", "refreshed", "random", 0.0, 1.0, False, False],
        ["a", "refreshed", "random", 1.0, 0.25, False, False],
        ["c", "refreshed", "random", 1.0, 0.75, False, True],
    ]


def test_records_survive_writing_and_reading(tmp_path):
    path = tmp_path / "seed-0.parquet"
    records.write(path, rows(), NOTE)
    frame, note = records.read(path)
    pd.testing.assert_frame_equal(frame, rows(), check_dtype=False)
    assert note == {**NOTE, "schema_version": records.SCHEMA_VERSION}


def test_other_files_and_other_versions_are_refused(tmp_path):
    path = tmp_path / "seed-0.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(BenchError, match="is not a record of this harness"):
        records.read(path)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(BenchError, match="is not a record of this harness"):
        records.read(path)
    table = pa.table({"x": [1]})
    note = json.dumps({"schema_version": 99}).encode()
    pq.write_table(table.replace_schema_metadata({b"bench": note}), path)
    with pytest.raises(BenchError, match="schema version 99.*reads version 1"):
        records.read(path)


def test_a_suite_is_read_with_its_cells_named(tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"records/s/d/c/m/seed-{seed}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, rows(), {**NOTE, "seed": seed})
    frame, notes = records.read_suite(tmp_path, "s")
    assert frame.groupby("seed").size().tolist() == [4, 4]
    assert notes["seed"].tolist() == [0, 1]
    with pytest.raises(BenchError, match="no records of suite 'other'"):
        records.read_suite(tmp_path, "other")
