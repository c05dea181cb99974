import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.analysis import suite_records
from bench.errors import BenchError
from bench.evaluation import records
from bench.storage.verified import sealed_table
from tests.bench.made_up import metadata


def rows():
    ids = np.array(["a", "b", "c"])
    ap = np.array([[0.5, np.nan, 1.0], [0.25, np.nan, 0.75]])
    success = np.zeros((2, 2, 3), bool)
    success[0, :, 0] = True
    success[1, 1, 2] = True
    bought = np.array([7, 0])
    return records.frame(
        ids, np.array([0.0, 1.0]), ap, success, "refreshed", "random", purchases=bought
    )


def test_a_frame_has_one_row_per_share_and_evaluated_query():
    frame = rows()
    assert frame.columns.tolist() == [
        *("query", "group", "system", "order", "share", "AP", "success_at_1", "success_at_5"),
        "purchases",
    ]
    assert frame.values.tolist() == [
        ["a", "a", "refreshed", "random", 0.0, 0.5, True, True, 7],
        ["c", "c", "refreshed", "random", 0.0, 1.0, False, False, 7],
        ["a", "a", "refreshed", "random", 1.0, 0.25, False, False, 0],
        ["c", "c", "refreshed", "random", 1.0, 0.75, False, True, 0],
    ]


def test_records_survive_writing_and_reading(tmp_path):
    path = tmp_path / "seed-0.parquet"
    written = metadata(seed=3, losses=[{"l2": 0.5}])
    records.write(path, rows(), written)
    frame, note = records.read(path)
    pd.testing.assert_frame_equal(frame, rows(), check_dtype=False)
    assert note == written


def test_other_files_and_other_versions_are_refused(tmp_path):
    path = tmp_path / "seed-0.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(BenchError, match="seed-0.parquet is damaged"):
        records.read(path)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(BenchError, match="it is no record of this harness"):
        records.read(path)
    table = pa.table({"x": [1]})
    note = json.dumps({"schema_version": 99})
    pq.write_table(sealed_table(table, note), path)
    with pytest.raises(BenchError, match="schema version 99.*reads versions 1 and 2"):
        records.read(path)


def test_records_of_the_first_version_stay_readable(tmp_path):
    """They have neither groups nor a checksum."""
    path = tmp_path / "seed-0.parquet"
    table = pa.Table.from_pandas(rows().drop(columns="group"), preserve_index=False)
    note = json.dumps({**metadata(seed=4).content(), "schema_version": 1}).encode()
    pq.write_table(table.replace_schema_metadata({b"bench": note}), path)
    frame, read = records.read(path)
    assert (len(frame), read.seed, read.schema_version) == (4, 4, 1)
    assert "group" not in frame
    # A record of this version that has lost its checksum is another thing.
    note = json.dumps(metadata().content()).encode()
    pq.write_table(table.replace_schema_metadata({b"bench": note}), path)
    with pytest.raises(BenchError, match="it has lost its checksum"):
        records.read(path)


def test_a_suite_is_read_with_its_cells_named(tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"records/s/d/c/m/seed-{seed}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, rows(), metadata(seed=seed))
    frame, notes = suite_records.read_suite(tmp_path, "s")
    assert frame.groupby("seed").size().tolist() == [4, 4]
    assert notes["seed"].tolist() == [0, 1]
    with pytest.raises(BenchError, match="no records of suite 'other'"):
        suite_records.read_suite(tmp_path, "other")
