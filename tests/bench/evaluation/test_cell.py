"""One cell's evaluation: which queries search which gallery."""

import numpy as np

from bench.evaluation import cell
from bench.evaluation.embedded import Embedded
from bench.evaluation.records import ON_FIRST
from bench.protocol import Method
from bench.relevance import Relevance

QUERIES = 12


def average_precision(scores, relevant, ignored):
    ranked = [row for row in np.argsort(-scores, kind="stable") if row not in ignored]
    places = [place for place, row in enumerate(ranked, 1) if row in relevant]
    return np.mean([found / place for found, place in enumerate(places, 1)])


def test_three_generations_of_queries_search_the_first_gallery_each_with_its_own():
    random = np.random.default_rng(0)
    unit = [random.normal(size=(QUERIES, 5)).astype(np.float32) for _ in range(3)]
    one, two, three = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in unit)

    class Data:
        relevance, metric = Relevance.among_themselves(np.repeat(np.arange(3), 4)), "AP"
        groups = tuple(f"group-{row // 4}" for row in range(QUERIES))

        class query:  # noqa: N801
            ids = tuple(f"q{row:02d}" for row in range(QUERIES))

    found = cell.on_first(
        Method(), Method(), Embedded(one, one, two, two), Embedded(two, two, three, three), Data
    )
    seen = set()
    for system, queries in zip(ON_FIRST, (one, two, three), strict=True):
        rows = found[found["system"] == system]
        scores = queries.astype(float) @ one.astype(float).T
        expected = [
            average_precision(scores[q], set(Data.relevance.relevant[q]), {q})
            for q in range(QUERIES)
        ]
        np.testing.assert_allclose(rows["AP"], expected)
        assert rows["query"].tolist() == list(Data.query.ids)
        assert rows["group"].tolist() == list(Data.groups)
        seen.add(round(rows["AP"].mean(), 6))
    assert len(seen) == 3
