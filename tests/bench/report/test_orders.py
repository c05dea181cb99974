"""Backfill orders compared in a table, against the cells' own numbers."""

import math

import numpy as np
import pandas as pd
import pytest

from bench.analysis import cells
from bench.analysis.orders import QUANTITIES, Change, OrderComparison, OrderLine
from bench.analysis.suite_records import EVERYTHING, Choice
from bench.evaluation import records
from bench.report.cached import summary
from bench.report.orders import order_comparisons, order_sentences, order_table, order_tables
from bench.report.page import make_report
from tests.bench.made_up import metadata

IDS = np.array([f"q{number}" for number in range(6)])
KEYS = [each.key for each in QUANTITIES]
SHARES = np.array([0.0, 0.5, 1.0])


def write_cell(results, method, seed, orders, generator, queries_in_gallery=0):
    old = generator.random((1, 6))
    frames = [records.frame(IDS, np.array([np.nan]), old, np.ones((1, 2, 6), bool), "old")]
    for order in orders:
        success = generator.random((3, 2, 6)) < 0.5
        ap = generator.random((3, 6))
        frames.append(records.frame(IDS, SHARES, ap, success, "refreshed", order))
    note = metadata(
        method=method,
        seed=seed,
        settings={"orders": list(orders)},
        key=f"{method}-{seed}",
        queries_in_gallery=queries_in_gallery,
    )
    path = results / f"records/s/d/c/{method}/seed-{seed}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.concat(frames, ignore_index=True)
    records.write(path, rows, note)
    return rows


ORDERS = ("random", "gallery-distance", "by-answered-queries")


def test_each_order_has_the_means_of_its_own_rows(tmp_path):
    generator = np.random.default_rng(0)
    written = [write_cell(tmp_path, "ract", seed, ORDERS, generator) for seed in (0, 1)]
    (table,) = order_tables(tmp_path, "s")
    frame = table.frame().set_index("order")
    assert table.title == "Backfill orders in c on d"
    shown = dict(zip(ORDERS, frame.index, strict=True))
    for order in ORDERS:
        found = []
        for rows in written:
            kept = rows[rows["order"].isin(["", order])]
            found.append(cells.scalars(cells.arrays(kept))["AUC_NFR_at_1"])
        assert frame.loc[shown[order], "AUC NFR@1"] == pytest.approx(np.mean(found))


@pytest.mark.parametrize(("known", "warned"), [(6, True), (None, True), (0, False)])
def test_every_form_of_the_table_warns_of_an_order_that_reads_the_queries(tmp_path, known, warned):
    generator = np.random.default_rng(0)
    write_cell(tmp_path, "ract", 0, ORDERS, generator, queries_in_gallery=known)
    (table,) = order_tables(tmp_path, "s")
    for text in (table.csv(), table.markdown(), table.latex(), table.html()):
        assert ("gallery-distance (reads the queries)" in text) == warned
        assert "random (" not in text
    for text in (table.markdown(), table.latex(), table.html()):
        assert ("and nothing is claimed" in text) == warned
        assert "by-answered-queries read the answers" in text
    sentences = order_sentences(order_comparisons(tmp_path, "s"))
    assert ("no claim, it reads the gallery" in " ".join(sentences)) == warned


def test_one_order_needs_no_table_and_no_sentence(tmp_path):
    write_cell(tmp_path, "ract", 0, ("random",), np.random.default_rng(0))
    assert order_tables(tmp_path, "s") == []
    assert order_sentences(order_comparisons(tmp_path, "s")) == []


def change(difference, claimed):
    return Change(0.5, difference, difference - 0.01, difference + 0.01, 0.001, 0.002, claimed)


def comparison(scenario, lines):
    made = [
        OrderLine(
            method, order, dict(zip(KEYS, changes, strict=True)), False, order == "oracle-mAP"
        )
        for method, order, changes in lines
    ]
    return OrderComparison("d", scenario, "random", 3, 6, 4, tuple(made))


def test_bold_is_what_is_claimed_and_not_what_has_an_interval_beside_zero():
    lines = [
        ("bct", "random", [change(0.2, False)] * 3),
        ("bct", "margin-old-head", [change(0.2, False), change(0.2, True), change(-0.2, True)]),
    ]
    table = order_table(comparison("one", lines))
    best = [[cell.best for cell in row if math.isfinite(cell.low)] for row in table.rows]
    assert best == [[False] * 3, [False, True, True]]


def test_sentences_name_the_methods_whose_differences_stand_and_in_how_many_scenarios():
    nothing = [change(0.2, False)] * 3
    found = order_sentences(
        [
            comparison(
                "one",
                [
                    ("bct", "random", nothing),
                    (
                        "bct",
                        "margin-old-head",
                        [change(0.02, True), change(0.03, True), *nothing[:1]],
                    ),
                    ("ract", "margin-old-head", [*nothing[:2], change(-0.2, True)]),
                    ("ract", "oracle-mAP", [change(0.9, True)] * 3),
                ],
            ),
            comparison(
                "two",
                [
                    (
                        "bct",
                        "margin-old-head",
                        [change(0.04, True), change(0.05, False), *nothing[:1]],
                    ),
                    (
                        "ract",
                        "margin-old-head",
                        [*nothing[:1], change(-0.01, True), change(-0.1, True)],
                    ),
                ],
            ),
        ]
    )
    assert found == [
        "margin-old-head against random, AUC mAP: more with bct (+0.020 to +0.040 in 2 of 2 "
        "scenarios); no significant difference with ract.",
        "margin-old-head against random, flips (AUC NFR@1): fewer with ract (−0.010 in 1 of 2 "
        "scenarios); more with bct (+0.030 in 1 of 2 scenarios).",
        "margin-old-head against random, share to 95 % of the gain: sooner with ract (−0.200 to "
        "−0.100 in 2 of 2 scenarios); no significant difference with bct.",
    ]


def test_one_sentence_says_in_what_no_method_differs():
    nothing = change(0.2, False)
    lines = [
        ("bct", "margin-old-head", [change(0.02, True), nothing, nothing]),
        ("ract", "margin-old-head", [nothing] * 3),
    ]
    assert order_sentences([comparison("one", lines)]) == [
        "margin-old-head against random, AUC mAP: more with bct (+0.020); no significant "
        "difference with ract.",
        "margin-old-head against random, flips (AUC NFR@1), share to 95 % of the gain: no "
        "significant difference with any method.",
    ]


def test_the_last_screen_and_the_report_end_with_the_sentences(tmp_path):
    for method in ("bct", "ract"):
        write_cell(tmp_path, method, 0, ("random", "margin-old-head"), np.random.default_rng(0))
    for choice in (EVERYTHING, Choice(methods=("bct",))):
        compared = order_comparisons(tmp_path, "s", choice)
        methods = {line.method for each in compared for line in each.lines}
        assert methods == ({"bct", "ract"} if choice == EVERYTHING else {"bct"})
        sentences = order_sentences(compared)
        assert [sentence.partition(":")[2] for sentence in sentences] == [
            " no significant difference with any method."
        ]
        shown = " ".join(line.strip() for line in summary(tmp_path, "s", choice).screen.lines)
        assert shown.endswith(" ".join(sentences))
        assert make_report(tmp_path, "s", choice).verdict[-1:] == sentences
