"""Metrics against trec_eval, hand-worked examples and the revisited Oxford/Paris protocol."""

import ir_measures
import numpy as np
import pytest

from bench.errors import BenchError
from bench.evaluation import metrics
from bench.evaluation.backfill import search
from bench.evaluation.scores import normalise
from bench.relevance import Relevance

SHARES = np.array([0.0, 0.5, 1.0])


def trec_scores(query, gallery, relevance, measure):
    """Score a full run by trec_eval; junk items are taken out of the run."""
    scores = normalise(query).astype(float) @ normalise(gallery).astype(float).T
    run, qrels = [], []
    for number, row in enumerate(scores):
        kept = np.setdiff1d(np.arange(len(row)), relevance.junk[number])
        run += [ir_measures.ScoredDoc(str(number), str(item), row[item]) for item in kept]
        qrels += [ir_measures.Qrel(str(number), str(i), 1) for i in relevance.relevant[number]]
    results = ir_measures.iter_calc([measure], qrels, run)
    found = {int(result.query_id): result.value for result in results}
    return np.array([found.get(number, np.nan) for number in range(len(scores))])


def random_system(seed, queries=30, size=300, width=12):
    rng = np.random.default_rng(seed)
    dice = rng.random((queries, size))
    relevance = Relevance.from_lists(
        [
            np.flatnonzero(row < cut)
            for row, cut in zip(dice, np.linspace(0.01, 0.3, 30), strict=True)
        ],
        [np.flatnonzero(row > 0.95) for row in dice],
        size,
    )
    return rng.normal(size=(queries, width)), rng.normal(size=(size, width)), relevance


def test_average_precision_equals_trec_eval():
    system = random_system(0)
    np.testing.assert_allclose(
        search(*system).ap[0], trec_scores(*system, ir_measures.AP), rtol=1e-6
    )


def test_average_precision_at_k_equals_trec_eval_up_to_its_denominator():
    query, gallery, relevance = random_system(1)
    cut = trec_scores(query, gallery, relevance, ir_measures.AP @ 20)
    # trec_eval divides by all relevant items, Google Landmarks v2 by those that fit into 20 places.
    counts = relevance.relevant.counts()
    expected = cut * counts / np.minimum(counts, 20)
    found = search(query, gallery, relevance, "AP@20").ap[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_success_equals_trec_eval():
    system = random_system(2)
    curve = search(*system)
    for position, k in enumerate(curve.success_at):
        expected = trec_scores(*system, ir_measures.Success @ k)
        np.testing.assert_array_equal(curve.success[0, position], expected == 1)


def line_of_items(order):
    """A query and a gallery that it ranks in the given order of rows."""
    angles = np.empty(len(order))
    angles[list(order)] = np.linspace(0.1, 1.5, len(order))
    return np.array([[1.0, 0.0]]), np.stack([np.cos(angles), np.sin(angles)], 1)


# Ranked: hard, easy, junk, easy, none, hard.
EASY, HARD, JUNK = [1, 3], [0, 5], [2]


@pytest.mark.parametrize(
    ("relevant", "junk", "expected"),
    [
        # Easy: hard and junk are out, ranks 1, 2 of [easy, easy, none].
        (EASY, JUNK + HARD, 1.0),
        # Medium: ranks 1, 2, 3, 5: three at precision 1, then (3/4 + 4/5)/2 for the last quarter.
        (EASY + HARD, JUNK, (3 + (3 / 4 + 4 / 5) / 2) / 4),
        # Hard: easy is out, ranks 1, 3 of [hard, none, hard]: (1 + 1)/2, then (1/2 + 2/3)/2.
        (HARD, JUNK + EASY, (1 + (1 / 2 + 2 / 3) / 2) / 2),
    ],
)
def test_revisited_oxford_cases_by_hand(relevant, junk, expected):
    system = *line_of_items(range(6)), Relevance.from_lists([relevant], [junk], 6)
    assert search(*system, "AP-trapezoidal").ap[0, 0] == pytest.approx(expected)


def test_a_first_item_that_is_not_relevant_starts_the_trapezoid_at_zero():
    system = *line_of_items([1, 0, 2]), Relevance.from_lists([[0]], [[]], 3)
    assert search(*system, "AP-trapezoidal").ap[0, 0] == pytest.approx((0 / 1 + 1 / 2) / 2)
    assert search(*system, "AP").ap[0, 0] == pytest.approx(1 / 2)
    assert search(*system, "AP@1").ap[0, 0] == 0


def test_queries_without_a_relevant_item_are_skipped():
    query, gallery = line_of_items(range(4))
    relevance = Relevance.from_lists([[], [1], []], [[0], [], []], 4)
    curve = search(np.repeat(query, 3, 0), gallery, relevance)
    np.testing.assert_array_equal(curve.ap, [[np.nan, 0.5, np.nan]])
    assert curve.success[0].tolist() == [[False, False, False], [False, True, False]]


@pytest.mark.parametrize("name", ["map", "AP@0", "AP@", "AP@-1", "ap", "AP@1.5"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(BenchError, match="unknown metric"):
        metrics.cutoff(name)


def test_flip_rates_by_hand():
    old = np.array([True, True, True, False, False])
    now = np.array([[True, False, False, True, False], [True, True, True, True, True]])
    np.testing.assert_allclose(metrics.negative_flip_rate(old, now), [2 / 5, 0])
    np.testing.assert_allclose(metrics.relative_negative_flip_rate(old, now), [2 / 3, 0])
    np.testing.assert_allclose(metrics.positive_flip_rate(old, now), [1 / 5, 2 / 5])
    nothing = np.zeros(5, dtype=bool)
    assert np.isnan(metrics.relative_negative_flip_rate(nothing, now)).all()


def test_area_is_the_mean_of_the_curve():
    assert metrics.area(SHARES, np.array([0.0, 1.0, 0.0])) == pytest.approx(0.5)
    both = metrics.area(SHARES, np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(both, [1.0, 0.25])
    assert metrics.area(np.array([1.0]), np.array([0.3])) == 0.3


def test_landmarks_of_a_curve():
    values = np.array([0.5, 0.3, 0.7])
    assert metrics.worst_share(SHARES, values) == 0.5
    assert metrics.worst_share(SHARES, values, largest=True) == 1.0
    assert metrics.first_share_above(SHARES, values, 0.4) == 1.0
    assert metrics.first_share_above(SHARES, values, 0.2) == 0.0
    assert np.isnan(metrics.first_share_above(SHARES, values, 0.7))
    assert metrics.falling_steps(values) == 1
    assert metrics.cost_to_gain(SHARES, np.array([0.5, 0.69, 0.7]), old=0.5) == 0.5
    assert np.isnan(metrics.cost_to_gain(SHARES, values, old=0.8))


def test_compatibility_by_hand():
    assert not metrics.compatible(0.5, 0.5)
    assert metrics.compatible(0.51, 0.5)
    assert metrics.update_gain(0.55, 0.5, 0.7) == pytest.approx(0.25)
    assert np.isnan(metrics.update_gain(0.55, 0.5, 0.5))
    assert metrics.compatibility_tax(0.65, 0.7) == pytest.approx(0.05)
    assert metrics.p_up(0.7, 0.7) == 0.5
    assert metrics.p_comp(0.55, 0.5, 0.7) == pytest.approx(1 / (1 + np.exp(-0.25)))
    assert metrics.p_1(0.5, 0.25) == pytest.approx(1 / 3)


def test_chain_summaries_by_hand():
    matrix = np.array([[0.5, np.nan, np.nan], [0.6, 0.7, np.nan], [0.4, 0.7, 0.9]])
    # 0.6 > 0.5 holds; 0.4 > 0.5 does not; 0.7 > 0.7 is not strict.
    assert metrics.average_compatibility(matrix) == pytest.approx(1 / 3)
    assert metrics.average_multimodel_accuracy(matrix) == pytest.approx(3.8 / 6)


@pytest.mark.parametrize("name", ["nDCG@10", "Recall@20", "MRR@10", "P@5"])
def test_ranked_metrics_with_graded_gains_equal_ir_measures(name):
    rng = np.random.default_rng(3)
    query, gallery = rng.normal(size=(30, 12)), rng.normal(size=(300, 12))
    of, item = np.nonzero(rng.random((30, 300)) < 0.05)
    level = rng.integers(0, 4, len(of))
    relevance = Relevance.from_judgements(of, item, level, 31, 300)
    query = np.concatenate([query, rng.normal(size=(1, 12))])  # answered by nothing
    scores = normalise(query).astype(float) @ normalise(gallery).astype(float).T
    run = [
        ir_measures.ScoredDoc(str(q), str(i), scores[q, i]) for q in range(31) for i in range(300)
    ]
    qrels = [
        ir_measures.Qrel(str(q), str(i), int(grade))
        for q, i, grade in zip(of, item, level, strict=True)
    ]
    measure = ir_measures.parse_measure(name.replace("MRR", "RR").replace("Recall", "R"))
    found = search(query, gallery, relevance, name).ap[0]
    expected = {int(each.query_id): each.value for each in measure.iter_calc(qrels, run)}
    np.testing.assert_allclose(found[:30], [expected[q] for q in range(30)], atol=1e-9)
    assert np.isnan(found[30])
