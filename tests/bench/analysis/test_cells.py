"""Curve and scalars of one cell, worked by hand."""

import numpy as np
import pandas as pd
import pytest

from bench.analysis import cells
from bench.evaluation import records


def cell():
    ids = np.array(["a", "b", "c", "d"])
    old = records.frame(
        ids,
        np.array([np.nan]),
        np.array([[1.0, 0.5, 0.0, 0.5]]),
        np.array([[[True, True, False, False], [True, True, False, True]]]),
        "old",
    )
    ap = np.array([[0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.5, 0.5]])
    first = [[False, True, True, True], [False, False, False, True], [True, True, False, False]]
    fifth = [[True, True, True, True], [True, False, False, True], [True, True, False, False]]
    success = np.stack([first, fifth], axis=1)
    shares = np.array([0, 0.5, 1.0])
    refreshed = records.frame(ids, shares, ap, success, "refreshed", "random")
    return pd.concat([old, refreshed]).sample(frac=1, random_state=0)


def test_the_curve_of_a_cell():
    curve = cells.curve(cells.arrays(cell()))
    assert curve["mAP"].tolist() == [0.5, 0.5, 0.75]
    # At the first place, a and b were right: a is lost, then both, then neither.
    assert curve["NFR_at_1"].tolist() == [0.25, 0.5, 0.0]
    assert curve["PFR_at_1"].tolist() == [0.5, 0.25, 0.0]
    # Among the first five, a, b and d were right: none is lost, then b, then d.
    assert curve["NFR_at_5"].tolist() == [0.0, 0.25, 0.25]


def test_the_scalars_of_a_cell():
    scalars = cells.scalars(cells.arrays(cell()))
    assert scalars["M_old_old"] == 0.5
    assert scalars["M_new_old"] == 0.5
    assert scalars["M_new_new"] == 0.75
    assert scalars["AUC_mAP"] == pytest.approx((0.5 + 0.625) / 2)
    assert scalars["AUC_NFR_at_1"] == pytest.approx((0.375 + 0.25) / 2)
    assert scalars["AUC_NFR_at_5"] == pytest.approx((0.125 + 0.25) / 2)
