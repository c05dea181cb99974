"""Scores are one exact number per pair of vectors; ties go by gallery row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evaluation.scores import exact_scores, normalise, ranking


def test_rows_become_unit_vectors_in_the_same_direction():
    rows = np.random.default_rng(0).normal(size=(50, 17)) * 10.0 ** np.arange(-25, 25)[:, None]
    unit = normalise(rows)
    assert unit.dtype == np.float32
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-7)


def test_a_row_is_normalised_the_same_wherever_it_is_stored():
    rows = np.random.default_rng(1).normal(size=(2000, 33)).astype(np.float32)
    whole = normalise(rows)
    for row in (0, 1, 777, 1999):
        np.testing.assert_array_equal(whole[row], normalise(rows[row : row + 1])[0])
        np.testing.assert_array_equal(whole[row], normalise(np.asfortranarray(rows))[row])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 64, 257]))
def test_scores_do_not_depend_on_the_order_of_summation(seed, width):
    rng = np.random.default_rng(seed)
    query, gallery = (normalise(rng.normal(size=(9, width)) + 1e-3) for _ in range(2))
    shuffle = rng.permutation(width)
    one = query.astype(np.float64) @ gallery.astype(np.float64).T
    other = query[:, shuffle].astype(np.float64) @ gallery[:, shuffle].astype(np.float64).T
    np.testing.assert_array_equal(one, other)
    pairs = np.indices((9, 9)).reshape(2, -1)
    scores = exact_scores(torch.from_numpy(query), gallery, *map(torch.from_numpy, pairs))
    # Gallery rows are normalised again: they stay what they are up to a multiple of 2⁻²⁶.
    np.testing.assert_allclose(scores.numpy().reshape(9, 9), one, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "NaN or infinity"), (-np.inf, "NaN or inf"), (0.0, "only zeros")]
)
def test_rows_without_a_direction_are_refused_by_number(value, words):
    rows = np.ones((5, 3))
    rows[2] = value
    with pytest.raises(BenchError, match=f"new gallery: row 102 holds {words}.*1 such rows of 5"):
        normalise(rows, "new gallery", 100)


def test_ties_go_by_gallery_row():
    scores = torch.tensor([[0.5, 0.7, 0.5, 0.7, -1.0]])
    assert ranking(scores).tolist() == [[1, 3, 0, 2, 4]]
