import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.relevance import Ragged, Relevance

LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@st.composite
def labels_and_junk(draw):
    """Labels of queries and gallery, and for each query some gallery rows to ignore."""
    queries, gallery = draw(LABELS), draw(LABELS)
    rows = st.lists(st.integers(0, len(gallery) - 1), max_size=5)
    return queries, gallery, [draw(rows) for _ in queries]


def lists(ragged):
    return [rows.tolist() for rows in ragged]


@given(labels_and_junk())
def test_relevant_is_the_same_label_less_junk(case):
    queries, gallery, junk = case
    relevance = Relevance.from_labels(np.array(queries), np.array(gallery), junk)
    assert lists(relevance.junk) == [sorted(set(rows)) for rows in junk]
    assert lists(relevance.relevant) == [
        [row for row, label in enumerate(gallery) if label == query and row not in rows]
        for query, rows in zip(queries, junk, strict=True)
    ]
    assert (relevance.query_count, relevance.gallery_size) == (len(queries), len(gallery))


@given(LABELS)
def test_among_themselves_each_item_ignores_itself_alone(labels):
    relevance = Relevance.among_themselves(np.array(labels))
    for item, label in enumerate(labels):
        others = [row for row, other in enumerate(labels) if other == label and row != item]
        assert relevance.relevant[item].tolist() == others
        assert relevance.junk[item].tolist() == [item]


@given(st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=8))
def test_ragged_keeps_each_list_sorted_and_without_repeats(rows):
    ragged = Ragged.from_lists(rows)
    expected = [sorted(set(one)) for one in rows]
    assert lists(ragged) == expected
    assert len(ragged) == len(rows)
    assert ragged.counts().tolist() == [len(one) for one in expected]
    assert ragged.rows.dtype == ragged.offsets.dtype == np.int64


def test_queries_may_lack_right_answers():
    relevance = Relevance.from_labels(np.array([7, 1]), np.array([1, 1]))
    assert lists(relevance.relevant) == [[], [0, 1]]
    assert lists(relevance.junk) == [[], []]


@pytest.mark.parametrize(
    ("relevant", "junk", "sentence"),
    [
        ([[0], [1]], [[]], "relevance lists 2 queries but junk lists 1; give one list of each"),
        ([[3]], [[]], "relevance names gallery rows 3..3, but the gallery has rows 0..2"),
        ([[0]], [[-1, 1]], "relevance names gallery rows -1..1, but the gallery has rows 0..2"),
        ([[1], [0, 2]], [[], [2]], "gallery row 2 is both relevant and junk for query 1"),
    ],
)
def test_contradictions_are_refused(relevant, junk, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        Relevance.from_lists(relevant, junk, gallery_size=3)


def test_the_same_row_may_be_relevant_to_one_query_and_junk_to_another():
    relevance = Relevance.from_lists([[0], [1]], [[1], [0]], gallery_size=2)
    assert lists(relevance.relevant) == [[0], [1]]
