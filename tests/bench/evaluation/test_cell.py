"""One cell's evaluation: which queries search which gallery."""

import numpy as np
import torch

from bench.evaluation import cell
from bench.evaluation.embedded import Embedded, deploy
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


class Turning(Method):
    """Turns queries and stored items of both states, each in its own way."""

    def __init__(self, turns):
        super().__init__()
        self.turns = turns

    def query(self, view, state):
        return view.new @ self.turns["query", state]

    def gallery(self, view, state):
        return (view.old if state == "old" else view.new) @ self.turns["gallery", state]


def test_what_is_compared_is_what_the_method_makes_of_it_in_each_state():
    random = np.random.default_rng(1)
    parts = [(part, state) for part in ("query", "gallery") for state in ("old", "new")]
    given = {
        f"{part}_{state}": random.normal(size=(9, 4)).astype(np.float32) for part, state in parts
    }
    turns = {
        place: torch.from_numpy(random.normal(size=(4, 4)).astype(np.float32)) for place in parts
    }
    found = deploy(Turning(turns), Embedded(**given))
    for part, state in parts:
        stored = given["query_new" if part == "query" else f"gallery_{state}"]
        expected = stored @ turns[part, state].numpy()
        np.testing.assert_allclose(
            getattr(found, f"{part}_{state}"), expected, rtol=1e-4, atol=1e-5
        )
