"""Which images ask: a share of every class, and every query keeps an answer in the gallery."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.queries import QuerySettings, judge, split_queries
from bench.errors import BenchError
from bench.settings import validated

IMAGES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=24)
SHARES = st.floats(0.01, 0.99)


def table(images):
    labels, cameras = (np.array(column, np.int64) for column in zip(*images, strict=True))
    return labels, cameras, [f"image {number}" for number in range(len(labels))]


@given(IMAGES, SHARES)
def test_a_share_of_each_class_asks_and_keeps_an_answer(images, share):
    labels, _, names = table(images)
    query, gallery = split_queries(labels, names, share)
    assert sorted([*query, *gallery]) == list(range(len(labels)))
    relevance = judge(labels, query, gallery)
    for label in np.unique(labels):
        size = int((labels == label).sum())
        asking = [row for row in query if labels[row] == label]
        if size > 1:
            assert len(asking) == min(size - 1, max(1, int(share * size + 0.5)))
        else:
            assert len(asking) == 1
    for place, row in enumerate(query):
        answered = (labels == labels[row]).sum() > 1
        assert (len(relevance.relevant[place]) > 0) == answered
    assert not len(relevance.junk.rows)


@given(IMAGES, SHARES)
def test_every_query_keeps_an_answer_of_another_camera_where_one_can(images, share):
    labels, cameras, names = table(images)
    query, gallery = split_queries(labels, names, share, cameras)
    relevance = judge(labels, query, gallery, cameras)
    assert set(labels[query]) == set(labels)
    for place, row in enumerate(query):
        right = relevance.relevant[place]
        several = len(set(cameras[labels == labels[row]].tolist())) > 1
        assert (len(right) > 0) == several
        assert all(cameras[gallery[item]] != cameras[row] for item in right)
        same = (labels[gallery] == labels[row]) & (cameras[gallery] == cameras[row])
        assert relevance.junk[place].tolist() == np.flatnonzero(same).tolist()


def test_the_names_alone_choose():
    """Neither the order of the rows nor what else is there changes who asks of a class."""
    labels, _, names = table([(number % 3, 0) for number in range(30)])
    chosen = {names[row] for row in split_queries(labels, names, 1 / 3)[0]}
    assert len(chosen) == 9
    mixed = np.random.default_rng(0).permutation(30)
    again, _ = split_queries(labels[mixed], [names[row] for row in mixed], 1 / 3)
    assert {names[mixed[row]] for row in again} == chosen
    fewer = np.flatnonzero(labels < 2)
    part, _ = split_queries(labels[fewer], [names[row] for row in fewer], 1 / 3)
    assert {names[fewer[row]] for row in part} == {
        name for name in chosen if labels[names.index(name)] < 2
    }


def test_a_larger_share_adds_to_a_smaller_one():
    labels, _, names = table([(0, 0)] * 12)
    chosen = [set(split_queries(labels, names, share)[0]) for share in (0.1, 0.3, 0.6, 0.9)]
    assert [len(part) for part in chosen] == [1, 4, 7, 11]
    assert all(one <= other for one, other in combinations(chosen, 2))


def test_every_image_may_ask_for_the_others():
    labels = np.array([4, 9, 4, 4, 9])
    query, gallery = split_queries(labels, list("abcde"), "gallery")
    assert query.tolist() == gallery.tolist() == [0, 1, 2, 3, 4]
    relevance = judge(labels, query, gallery)
    assert [rows.tolist() for rows in relevance.relevant] == [[2, 3], [4], [0, 3], [0, 2], [1]]
    assert [rows.tolist() for rows in relevance.junk] == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("value", [0, 1, -0.2, 1.5, True, "all", None, float("nan")])
def test_other_values_are_refused_by_name(value):
    with pytest.raises(BenchError, match=r"queries = .*expected a share above 0 and below 1, or"):
        validated(QuerySettings, {"queries": value}, "folder")


def test_a_share_or_the_gallery_is_accepted():
    assert validated(QuerySettings, {"queries": 0.25}, "folder").queries == 0.25
    assert validated(QuerySettings, {"queries": "gallery"}, "folder").queries == "gallery"
    assert validated(QuerySettings, {}, "folder").queries == pytest.approx(1 / 3)
