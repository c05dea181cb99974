"""The one-pass curve equals a search of the mixed gallery at every share."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evaluation import mixed, ranks
from bench.evaluation.backfill import backfill_steps, backfilled_counts, hot_refresh, search
from bench.evaluation.scores import normalise
from bench.relevance import Relevance


def naive_ap(ranks, count, metric):
    """Average precision of the sorted ranks of one query, from its definition."""
    if metric.startswith("AP@"):
        k = int(metric[3:])
        return sum((n + 1) / r for n, r in enumerate(ranks) if r <= k) / min(count, k)
    if metric == "AP":
        return sum((n + 1) / r for n, r in enumerate(ranks)) / count
    total = 0.0
    for n, rank in enumerate(ranks):
        before = 1.0 if rank == 1 else n / (rank - 1)
        total += (before + (n + 1) / rank) / 2 / count
    return total


def naive_curve(query_new, gallery_new, query_old, gallery_old, relevance, order, shares, metric):
    """Search the mixed gallery anew at every share."""
    new_scores = normalise(query_new).astype(float) @ normalise(gallery_new).astype(float).T
    old_scores = normalise(query_old).astype(float) @ normalise(gallery_old).astype(float).T
    size, ap, success = len(gallery_new), [], []
    for share in shares:
        backfilled = np.zeros(size, dtype=bool)
        backfilled[order[: int(np.floor(share * size + 0.5))]] = True
        scores = np.where(backfilled, new_scores, old_scores)
        row, hits = [], []
        for query, relevant in enumerate(relevance.relevant):
            ranked = np.lexsort((np.arange(size), -scores[query]))
            ranked = ranked[~np.isin(ranked, relevance.junk[query])]
            ranks = np.flatnonzero(np.isin(ranked, relevant)) + 1
            row.append(naive_ap(ranks, len(ranks), metric) if len(ranks) else np.nan)
            hits.append([bool((ranks <= k).any()) for k in (1, 5)])
        ap.append(row)
        success.append(np.transpose(hits))
    return np.array(ap), np.array(success)


@st.composite
def refreshes(draw):
    """Galleries in mid-backfill, most of them full of ties, duplicates and odd relevance."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, size = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["random", "quantised", "duplicates", "one vector"]))

    def embeddings(count, width):
        if kind == "random":
            return rng.normal(size=(count, width)).astype(np.float32)
        if kind == "quantised":
            return (rng.integers(-1, 2, size=(count, width)) + 0.25).astype(np.float32)
        prototypes = rng.normal(size=(3 if kind == "duplicates" else 1, width))
        return prototypes[rng.integers(0, len(prototypes), count)].astype(np.float32)

    new_width, old_width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    relevant, junk = draw(st.sampled_from([(0.2, 0.1), (0.0, 0.2), (1.0, 0.0), (0.5, 0.5)]))
    dice = rng.random((queries, size))
    relevance = Relevance.from_lists(
        [np.flatnonzero(row < relevant) for row in dice],
        [np.flatnonzero(row > 1 - junk) for row in dice],
        size,
    )
    shares = np.linspace(0, 1, draw(st.integers(2, 60)))
    return {
        "query_new": embeddings(queries, new_width),
        "gallery_new": embeddings(size, new_width),
        "query_old": embeddings(queries, old_width),
        "gallery_old": embeddings(size, old_width),
        "relevance": relevance,
        "order": rng.permutation(size),
        "shares": shares[: draw(st.integers(1, len(shares)))],
    }


@settings(max_examples=150)
@given(
    refreshes(),
    st.sampled_from(["AP", "AP@1", "AP@3", "AP@100", "AP-trapezoidal"]),
    st.sampled_from([None, 1, 50]),
)
def test_one_pass_equals_searching_the_mixed_gallery(case, metric, block):
    ap, success = naive_curve(**case, metric=metric)
    curve = hot_refresh(**case, metric=metric, block=block)
    np.testing.assert_allclose(curve.ap, ap, rtol=1e-12)
    np.testing.assert_array_equal(curve.success, success)
    assert curve.success_at == (1, 5)
    np.testing.assert_array_equal(curve.evaluated, case["relevance"].relevant.counts() > 0)


@settings(max_examples=20)
@given(refreshes(), st.sampled_from(["AP", "AP@3"]))
def test_merging_the_two_parts_unchanged_equals_no_merge(case, metric):
    plain = hot_refresh(**case, metric=metric)
    merged = hot_refresh(**case, metric=metric, merge=lambda old, new: (old, new))
    np.testing.assert_array_equal(plain.ap, merged.ap)
    np.testing.assert_array_equal(plain.success, merged.success)


def bought_curve(case, metric, purchases):
    """Search both parts anew at every share, buy, and sort what has a new score before the rest."""
    queries, size = len(case["query_new"]), len(case["gallery_new"])
    old, new = (
        normalise(case[f"query_{age}"]).astype(float)
        @ normalise(case[f"gallery_{age}"]).astype(float).T
        for age in ("old", "new")
    )
    ap, success, counts = [], [], []
    for share in case["shares"]:
        done = set(case["order"][: int(np.floor(share * size + 0.5))].tolist())
        row, hits, paid = [], [], []
        for query in range(queries):
            waiting = sorted(set(range(size)) - done, key=lambda i: (-old[query, i], i))
            bought = set(waiting[:purchases])
            first = sorted(done | bought, key=lambda i: (-new[query, i], i))
            ranked = first + waiting[purchases:]
            ranked = [i for i in ranked if i not in case["relevance"].junk[query]]
            relevant = case["relevance"].relevant[query]
            ranks = np.flatnonzero(np.isin(ranked, relevant)) + 1
            row.append(naive_ap(ranks, len(ranks), metric) if len(ranks) else np.nan)
            hits.append([bool((ranks <= k).any()) for k in (1, 5)])
            paid.append(len(bought))
        ap.append(row)
        success.append(np.transpose(hits))
        counts.append(paid)
    return np.array(ap), np.array(success), np.array(counts)


@settings(max_examples=60)
@given(refreshes(), st.sampled_from(["AP", "AP@3"]), st.integers(1, 45))
def test_what_is_bought_stands_where_its_new_score_puts_it(case, metric, purchases):
    ap, success, counts = bought_curve(case, metric, purchases)
    curve = hot_refresh(**case, metric=metric, purchases=purchases)
    np.testing.assert_allclose(curve.ap, ap, rtol=1e-12)
    np.testing.assert_array_equal(curve.success, success)
    np.testing.assert_array_equal(curve.purchases[:, None] + 0 * counts, counts)


def test_queries_are_ranked_a_few_at_a_time_with_the_same_result(monkeypatch):
    case = large_case(queries=9, size=400, shares=4)
    whole = hot_refresh(**case, purchases=30)
    merged = hot_refresh(**case, merge=lambda old, new: (old / 2, new))
    monkeypatch.setattr(mixed, "_ENTRIES", 900)  # two queries
    np.testing.assert_array_equal(hot_refresh(**case, purchases=30).ap, whole.ap)
    again = hot_refresh(**case, merge=lambda old, new: (old / 2, new))
    np.testing.assert_array_equal(again.ap, merged.ap)
    assert not np.array_equal(whole.ap, merged.ap)


def test_buying_everything_is_the_new_system_and_nothing_the_mixed_gallery():
    case = large_case(queries=9, size=400, shares=4)
    everything = hot_refresh(**case, purchases=400)
    new = search(case["query_new"], case["gallery_new"], case["relevance"])
    np.testing.assert_array_equal(everything.ap, np.repeat(new.ap, 4, axis=0))
    assert everything.purchases.tolist() == [400, 267, 133, 0]
    assert hot_refresh(**case).purchases.tolist() == [0, 0, 0, 0]


def large_case(seed=3, queries=40, size=9000, width=24, shares=11):
    """More items than a first batch, with near duplicates closer than float32 can tell apart."""
    rng = np.random.default_rng(seed)
    old, new = (rng.normal(size=(size, width)) for _ in range(2))
    for gallery in (old, new):
        twins = rng.permutation(size)
        part = size // 5
        gallery[twins[:part]] = gallery[twins[part : 2 * part]]
        gallery[twins[2 * part : 3 * part]] = gallery[twins[3 * part : 4 * part]] * (1 + 1e-8)
    # A query stands near its first answer; answers are spread from the best rank to the worst.
    answers = [rng.choice(size, 12, replace=False) for _ in range(queries)]
    first = [rows[0] for rows in answers]
    return {
        "query_new": (new[first] + rng.normal(size=(queries, width)) * 0.8).astype(np.float32),
        "gallery_new": new.astype(np.float32),
        "query_old": (old[first] + rng.normal(size=(queries, width)) * 1.2).astype(np.float32),
        "gallery_old": old.astype(np.float32),
        "relevance": Relevance.from_lists(
            answers, [[0] if 0 not in a else [] for a in answers], size
        ),
        "order": rng.permutation(size),
        "shares": np.linspace(0, 1, shares),
    }


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("metric", ["AP", "AP@10"])
def test_a_gallery_of_many_tiles_with_near_ties_stays_exact(metric, bfloat16, monkeypatch):
    monkeypatch.setattr(ranks, "fast_bfloat16", lambda device: bfloat16)
    case = large_case()
    ap, success = naive_curve(**case, metric=metric)
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            curve = hot_refresh(**case, metric=metric)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        np.testing.assert_allclose(curve.ap, ap, rtol=1e-12)
        np.testing.assert_array_equal(curve.success, success)


def test_new_scores_far_above_old_ones_stay_exact():
    case = large_case(4)
    case["gallery_new"] = case["gallery_new"] + 3 * np.sign(case["gallery_new"][:1])
    case["query_new"] = case["query_new"] + 3 * np.sign(case["gallery_new"][:1])
    ap, _ = naive_curve(**case, metric="AP@5")
    np.testing.assert_allclose(hot_refresh(**case, metric="AP@5").ap, ap, rtol=1e-12)


def test_many_queries_are_taken_in_runs(monkeypatch):
    monkeypatch.setattr(ranks, "_QUERIES", 7)
    monkeypatch.setattr(ranks, "_TALLY_ENTRIES", 3000)
    case = large_case(5, size=3000)
    ap, _ = naive_curve(**case, metric="AP")
    np.testing.assert_allclose(hot_refresh(**case).ap, ap, rtol=1e-12)


def test_galleries_are_read_from_memory_maps(tmp_path):
    case = large_case(6, size=3000)
    plain = hot_refresh(**case)
    for name in ("gallery_old", "gallery_new"):
        np.save(tmp_path / f"{name}.npy", case[name])
        case[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    np.testing.assert_array_equal(hot_refresh(**case).ap, plain.ap)


def test_the_ends_of_the_curve_are_the_two_systems():
    case = large_case(7, size=2000)
    curve = hot_refresh(**case)
    before = search(case["query_old"], case["gallery_old"], case["relevance"])
    after = search(case["query_new"], case["gallery_new"], case["relevance"])
    np.testing.assert_array_equal(curve.ap[0], before.ap[0])
    np.testing.assert_array_equal(curve.ap[-1], after.ap[0])
    np.testing.assert_array_equal(curve.success[-1], after.success[0])
    assert after.shares.tolist() == [1.0]


def test_products_stay_within_their_proven_errors():
    rng = np.random.default_rng(8)
    for width in (8, 256, 2048):
        rows = rng.normal(size=(300, width)) * rng.lognormal(sigma=2, size=(300, width))
        raw = torch.from_numpy(rows.astype(np.float32))
        exact = normalise(raw.numpy()).astype(np.float64)
        exact = exact @ exact.T
        unit = raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        assert np.abs((unit @ unit.T).double().numpy() - exact).max() < ranks.product_error(width)
        half = unit.bfloat16()
        bound = ranks.product_error(width) + ranks.bfloat16_error(width) + 2.0**-8
        assert np.abs((half @ half.T).double().numpy() - exact).max() < bound


@pytest.mark.parametrize(
    ("size", "expected"), [(5, [0, 1, 3, 5]), (2, [0, 1, 1, 2]), (1, [0, 0, 1, 1])]
)
def test_halves_are_rounded_up(size, expected):
    assert backfilled_counts([0, 0.25, 0.5, 1], size).tolist() == expected


def test_items_are_backfilled_in_the_given_order():
    assert backfill_steps([2, 0, 3, 1], [0, 0.25, 0.5, 0.5]).tolist() == [2, 4, 1, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": [0, 0, 1]}, "no permutation of the gallery rows 0..2"),
        ({"shares": [0.5, 0.1]}, r"shares are \[0.5, 0.1\]; expected ascending"),
        ({"shares": [0.0, 1.5]}, "expected ascending numbers in"),
        ({"metric": "MAP"}, "unknown metric 'MAP'; expected 'AP'"),
        ({"query_new": np.ones((2, 3))}, "queries have width 3 but new gallery has width 2"),
        ({"query_old": np.ones((1, 2))}, "1 query embeddings for old gallery.* 2 queries"),
        ({"gallery_old": np.ones((4, 2))}, "old gallery has 4 embeddings.* counts 3 gallery"),
        ({"gallery_new": np.array([[1, 1], [0, 0], [1, 2]])}, "new gallery: row 1 holds only zero"),
        ({"query_new": np.array([[1, 1], [np.nan, 1]])}, "queries: row 1 holds NaN"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, words):
    case = {
        "query_new": np.ones((2, 2)),
        "gallery_new": np.ones((3, 2)),
        "query_old": np.ones((2, 2)),
        "gallery_old": np.ones((3, 2)),
        "relevance": Relevance.from_lists([[0], [1]], [[], [2]], 3),
        "order": [0, 1, 2],
        "shares": [0, 0.5, 1],
    }
    with pytest.raises(BenchError, match=words):
        hot_refresh(**{**case, **change})
