"""Backfill orders compared in a table, against the cells' own numbers."""

import numpy as np
import pandas as pd
import pytest

from bench import records, summary
from bench.report.orders import order_tables

IDS = np.array([f"q{number}" for number in range(6)])
SHARES = np.array([0.0, 0.5, 1.0])


def write_cell(results, method, seed, orders, generator):
    old = generator.random((1, 6))
    frames = [records.frame(IDS, np.array([np.nan]), old, np.ones((1, 2, 6), bool), "old")]
    for order in orders:
        success = generator.random((3, 2, 6)) < 0.5
        ap = generator.random((3, 6))
        frames.append(records.frame(IDS, SHARES, ap, success, "refreshed", order))
    note = {
        **{"suite": "s", "dataset": "d", "scenario": "c", "method": method, "seed": seed},
        "settings": {"orders": list(orders)},
        "key": f"{method}-{seed}",
    }
    path = results / f"records/s/d/c/{method}/seed-{seed}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.concat(frames, ignore_index=True)
    records.write(path, rows, note)
    return rows


def test_each_order_has_the_means_of_its_own_rows(tmp_path):
    generator = np.random.default_rng(0)
    cells = [write_cell(tmp_path, "ract", seed, ("random", "oracle"), generator) for seed in (0, 1)]
    (table,) = order_tables(tmp_path, "s")
    frame = table.frame().set_index("order")
    assert table.title == "Backfill orders in c on d"
    for order in ("random", "oracle"):
        found = []
        for rows in cells:
            kept = rows[rows["order"].isin(["", order])]
            found.append(summary.scalars(summary.arrays(kept))["AUC_NFR_at_1"])
        assert frame.loc[order, "AUC NFR@1"] == pytest.approx(np.mean(found))


def test_one_order_needs_no_table(tmp_path):
    write_cell(tmp_path, "ract", 0, ("random",), np.random.default_rng(0))
    assert order_tables(tmp_path, "s") == []
