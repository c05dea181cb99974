"""Costs of a query at every share: what is counted for methods whose costs are known by hand."""

import numpy as np
import pytest
import torch

from bench.analysis.costs import method_costs
from bench.evaluation import serving as subject
from bench.evaluation.embedded import Embedded
from bench.evaluation.serving import Watched, serving, watch
from bench.plugins.registry import make_method
from bench.protocol import Context, Method, UnavailableEmbeddingError
from bench.report.costs import cost_table
from bench.storage.metadata import ServingCosts

SHARES = [0.0, 0.5, 1.0]
OLD, NEW = ["old"], ["new"]


def unit(rows, width, seed):
    array = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def embedded(old=6, new=6):
    return Embedded(unit(5, old, 0), unit(20, old, 1), unit(5, new, 2), unit(20, new, 3))


def prepared(name, old=6, new=6):
    method = make_method(name)
    none = torch.zeros(0, dtype=torch.int64)
    old_embeddings = torch.from_numpy(unit(20, old, 4))
    method.prepare(Context(old, new, 0, 0.05, torch.zeros(0, old), none, none, old_embeddings))
    for parameter in [*method.parameters(), *method.buffers()]:
        torch.nn.init.normal_(parameter)
    return method.eval().requires_grad_(False)


# Method → encoders at 0, 50 and 100 %, searches at the same, by reading the methods' pages.
BY_HAND = {
    "rank_merge": ([OLD, ["new", "old"], NEW], [1, 2, 1]),
    "reciprocal_rank_fusion": ([OLD, ["new", "old"], NEW], [1, 2, 1]),
    "cascade": ([["new", "old"], ["new", "old"], NEW], [1, 2, 1]),
    "procrustes": ([NEW, NEW, NEW], [1, 1, 1]),
    "low_rank_adapter": ([NEW, NEW, NEW], [1, 2, 1]),
    "ract": ([NEW, NEW, NEW], [1, 1, 1]),
    "independent": ([NEW, NEW, NEW], [1, 1, 1]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_encodings_and_searches_are_counted_share_by_share(name):
    found = serving(prepared(name), embedded(), SHARES)
    encoders, searches = BY_HAND[name]
    assert found.encoders == encoders
    assert found.searches == searches
    assert [len(each.split(", ")) for each in found.searched] == searches
    assert all(each > 0 for each in found.search_ms)
    assert (found.bytes_per_item, found.items) == (4 * 6, 20)


def test_a_projection_to_another_width_takes_two_searches_and_the_wider_bytes():
    method = prepared("ract", old=4)
    found = serving(method, embedded(old=4), SHARES)
    assert (found.searches, found.encoders) == ([1, 2, 1], [NEW, NEW, NEW])
    assert (method.query_encodings, method.searches) == (1, 2)
    assert found.bytes_per_item == 4 * 6


def test_every_item_is_searched_once_and_by_the_right_query(monkeypatch):
    seen = []
    monkeypatch.setattr(subject, "_milliseconds", lambda parts, merge: seen.append(parts) or 1.0)
    vectors = embedded()
    serving(prepared("rank_merge"), vectors, [0.25])
    ((old_query, old), (new_query, new)) = seen[0]
    assert (len(old), len(new)) == (15, 5)
    for found, given in (
        *((old, vectors.gallery_old[5:]), (new, vectors.gallery_new[:5])),
        *((old_query, vectors.query_old), (new_query, vectors.query_new)),
    ):
        np.testing.assert_allclose(found, given, atol=1e-6)
    serving(prepared("ract"), vectors, [0.25])
    ((query, items),) = seen[1]
    expected = np.concatenate([vectors.gallery_new[:5], vectors.gallery_old[5:]])
    np.testing.assert_allclose(items, expected, atol=1e-6)
    np.testing.assert_allclose(query, vectors.query_new, atol=1e-6)


def test_reading_the_width_of_what_is_stored_embeds_nothing():
    view = Watched(torch.zeros(2, 3), torch.zeros(2, 5))
    assert view.old_width == 3
    assert view.read == set()
    assert view.new.shape == (2, 5)
    assert view.read == {"new"}
    with pytest.raises(UnavailableEmbeddingError):
        Watched(None, torch.zeros(2, 5)).old  # noqa: B018


def test_a_merge_is_a_search_of_its_own_even_of_equal_vectors():
    class Merges(Method):
        merge = staticmethod(lambda old, new: (old, new))

    assert watch(Merges(), torch.ones(1, 2), torch.ones(1, 2)).searches == 2
    assert watch(Method(), torch.ones(1, 2), torch.ones(1, 2)).searches == 1


def costs(**changed):
    return ServingCosts(
        **{
            **{"shares": SHARES, "encoders": [OLD, ["new", "old"], NEW]},
            **{"searched": ["all items", "old items, new items", "all items"]},
            **{"searches": [1, 2, 1], "purchases": [10, 5, 0]},
            **{"encoder_ms": {"old": 1.0, "new": 2.0}, "search_ms": [0.1, 0.2, 0.3]},
            **{"bytes_per_item": 24, "items": 20, "fit_seconds": 4.0, "fit_pairs": 7},
            **changed,
        }
    )


class Note:
    dataset, scenario = "toy", "upgrade"

    def __init__(self, method, found):
        self.method, self.costs = method, found


def test_a_query_takes_its_embeddings_searches_and_purchases():
    assert costs().milliseconds() == pytest.approx([21.1, 13.2, 2.3])


def test_the_table_has_the_means_of_seeds_and_the_cheapest_first():
    dear, cheap = costs(), costs(purchases=[0] * 3)
    later = costs(search_ms=[0.3, 0.4, 0.5], fit_seconds=6.0)
    # One of four models was measured on a busy machine: that is no cost of the method.
    busy = costs(purchases=[0] * 3, encoder_ms={"old": 9.0, "new": 9.0})
    notes = [Note("dear", dear), Note("dear", later), Note("cheap", cheap), Note("former", None)]
    found = method_costs([*notes, Note("busy", busy)])
    assert list(found) == [("toy", "upgrade")]
    table = cost_table("toy", "upgrade", found["toy", "upgrade"])
    frame = table.frame().set_index("method")
    assert list(frame.index) == ["busy", "cheap", "dear"]
    assert frame.loc["busy", "ms per query 50%"] == pytest.approx(3.2)
    row = frame.loc["dear"]
    assert row["encodings per query at 0 / 50 / 100 %"] == "1 / 2 / 1"
    assert row["searches per query at 0 / 50 / 100 %"] == "1 / 2 / 1"
    assert row["searched at 50 %"] == "old items, new items"
    assert row["bought per query at 50 %"] == 5
    assert row["ms per query 50%"] == pytest.approx(13.3)
    assert row["ms per query 100%"] == pytest.approx(2.4)
    assert row["of it search 50%"] == pytest.approx(0.3)
    assert (row["bytes per item"], row["s to fit"], row["pairs to fit"]) == (24, 5.0, 7)
    assert "of 20 items" in table.caption
