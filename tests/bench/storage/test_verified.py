"""A published file in which any bit was altered is refused, with a sentence that restores it."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis.suite_records import suite_key
from bench.errors import BenchError
from bench.evaluation import flips, records
from tests.bench.made_up import metadata


def rows():
    ids = np.array(["a", "b", "ü"])
    shares = np.array([0.0, 0.5, 1.0])
    ap = np.linspace(0.1, 0.9, 9).reshape(3, 3)
    success = np.ones((3, 2, 3), bool)
    return pd.concat(
        [
            records.frame(ids, np.array([np.nan]), ap[:1], success[:1], "old"),
            records.frame(ids, shares, ap, success, "refreshed", "random"),
        ],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "seed-0.parquet"
    records.write(path, rows(), metadata(losses=[{"l2": 1.5}]))
    return path


def test_what_was_written_is_read(record):
    found, note = records.read(record)
    pd.testing.assert_frame_equal(found, rows(), check_dtype=False)
    assert note == metadata(losses=[{"l2": 1.5}])


@settings(max_examples=250, derandomize=True)
@given(st.data())
def test_a_bit_altered_anywhere_is_refused_or_changes_nothing(record, tmp_path_factory, data):
    content = bytearray(record.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    altered = tmp_path_factory.mktemp("altered") / "seed-0.parquet"
    altered.write_bytes(content)
    try:
        found, note = records.read(altered)
    except BenchError as error:
        told = str(error)
    else:  # bits that hold no content, say of statistics
        pd.testing.assert_frame_equal(found, records.read(record)[0])
        assert note == records.read_note(record)
        return
    assert str(altered) in told
    assert "restores it from the cache" in told


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.set_column(5, "AP", pa.array(np.zeros(len(table)))),
        lambda table: table.slice(1),
        lambda table: table.take(list(range(len(table)))[::-1]),
        lambda table: table.rename_columns(["query", "order", "system", *table.column_names[3:]]),
        lambda table: table.append_column("more", pa.array([1] * len(table))),
        lambda table: table.replace_schema_metadata({}),
        lambda table: table.replace_schema_metadata(
            {**table.schema.metadata, b"bench": json.dumps({"schema_version": 1}).encode()}
        ),
    ],
)
def test_content_altered_by_a_well_formed_file_is_refused(record, tmp_path, change):
    altered = tmp_path / "seed-0.parquet"
    pq.write_table(change(pq.read_table(record)), altered)
    with pytest.raises(BenchError, match="is damaged"):
        records.read_note(altered)


def test_the_name_of_a_suites_content_is_not_told_of_an_altered_record(record, tmp_path):
    """So that no cached table hides it."""
    path = tmp_path / "records/toy/d/c/m/seed-0.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(record.read_bytes())
    suite_key(tmp_path, "toy")
    table = pq.read_table(path)
    pq.write_table(table.set_column(5, "AP", pa.array(np.zeros(len(table)))), path)
    with pytest.raises(BenchError, match="differs from its checksum"):
        suite_key(tmp_path, "toy")


@settings(max_examples=150, derandomize=True)
@given(st.data())
def test_a_byte_altered_in_examples_of_flips_is_refused_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flips") / "seed-0.flips.json"
    hit = flips.Hit("item", b"image", True, "old")
    example = flips.FlipExample("query", b"image", 0.5, 0.25, (hit,), (hit,))
    written = flips.Flips("random", 0.5, 1, (example,))
    flips.write(path, written)
    assert flips.read(path) == written
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert flips.read(path) == written
    except BenchError as error:
        told = str(error)
    else:
        return
    assert "restores it from the cache" in told
