"""Flips at equal final mAP: places are those of the tables, lines are those worked by hand."""

import runpy

import numpy as np
import pandas as pd
import pytest

import bench
from tests.bench.conftest import make_suite, store_suite
from tests.command import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "equal_accuracy.py"))


def test_flips_are_moved_along_the_line_through_both_places_of_a_method():
    steep = [np.array([[0.4, 0.4], [0.10, 0.12]]), np.array([[0.6, 0.6], [0.30, 0.32]])]
    flat = [np.array([[0.5, 0.5], [0.10, 0.10]]), np.array([[0.7, 0.7], [0.10, 0.10]])]
    target, flips, _ = SCRIPT["compared"]([steep, flat])
    assert target == pytest.approx(0.55)  # the first reaches 0.4 to 0.6, the other 0.5 to 0.7
    assert flips == pytest.approx(np.array([[0.25, 0.27], [0.10, 0.10]]))


def test_places_are_those_of_the_tables(tmp_path):
    methods = {"ract": (-0.5, 0.2), "l2": (-1.0, 0.5)}
    store_suite(tmp_path, *make_suite(queries=90, seeds=[0, 1, 2], methods=methods, training=0.5))
    (scenario,) = bench.compare(results=tmp_path)
    for method in methods:
        (found,) = SCRIPT["places"](bench.read_records(None, tmp_path), method).values()
        assert found.shape == (2, 3)
        for values, key in zip(found, ("M_new_new", "AUC_NFR_at_1"), strict=True):
            assert len(set(values)) == 3
            assert values.mean() == pytest.approx(scenario.value(key, method), abs=1e-12)


def test_suites_are_compared_over_the_seeds_and_scenarios_that_both_have():
    scenarios = ("extended-data", "extended-class")
    one, _ = make_suite(scenarios, queries=90, seeds=range(4), training=0.5)
    strengths = {"ract": (-0.6, 0.8), "l2": (-1.0, 0.9)}
    other, _ = make_suite(queries=90, seeds=range(1, 6), methods=strengths, training=0.5)
    shared = [rows[rows["seed"].isin([1, 2, 3])] for rows in (one, other)]
    pair = [[SCRIPT["places"](rows, name) for rows in shared] for name in ("ract", "l2")]
    target, flips, test = SCRIPT["compared"]([[p["extended-class"] for p in each] for each in pair])
    (row,) = SCRIPT["table"]([one, other], ("ract", "l2")).splitlines()[2:]
    assert row.startswith(f"| extended-class | {target:.3f} | {flips[0].mean():.3f} |")
    assert row.endswith(f"| {test.pvalue:.2g} |")
    assert flips.shape == (2, 3)


def test_the_page_of_the_reference_has_the_comparison_of_the_places_that_are_kept():
    folder = ROOT / "results" / "reference"
    kept = pd.read_csv(folder / "equal-accuracy.csv").sort_values("seed")
    places = [
        [own[["M(n,n)", "AUC NFR@1"]].to_numpy().T for _, own in of.groupby("settings")]
        for _, of in kept.groupby("method", sort=False)
    ]
    target, flips, test = SCRIPT["compared"](places)
    low, high = test.confidence_interval()
    means = " | ".join(f"{each:.3f}" for each in (target, *flips.mean(1)))
    difference = f"{(flips[0] - flips[1]).mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    row = f"| extended-class | {means} | {difference} | {test.pvalue:.2g} |"
    assert row in (folder / "README.md").read_text()
    assert list(kept["method"].unique()) == ["ract", "contrastive"]
    # The tuned places are runs of the table of the default suite, which has more seeds.
    tuned = kept[kept["settings"] == "tuned"].groupby("method")["M(n,n)"].mean()
    name = "extended-class-on-icons"
    table = pd.read_csv(folder / "default" / name / f"{name}.csv").set_index("method")
    assert tuned.to_numpy() == pytest.approx(table["M(n,n)"][tuned.index].to_numpy(), abs=0.01)
