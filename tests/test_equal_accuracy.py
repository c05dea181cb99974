"""Flips at equal final mAP: places are those of the tables, lines are those worked by hand."""

import runpy

import numpy as np
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
