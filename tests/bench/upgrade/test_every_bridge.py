"""Every bridge that the command offers against a naive recomputation, query by query in float64."""

import math

import numpy as np
import pytest
import torch

import bench
from bench.evaluation.orders import OrderInputs
from bench.evaluation.orders import order as order_of
from bench.relevance import Relevance
from bench.seeds import derive_seed
from bench.upgrade.bridges import COLD, NAIVE, make_bridges, names

QUERIES, SIZE, PAIRS, SHARES = 30, 240, 120, (0, 0.25, 0.5, 0.75, 1)

# Encodings, items embedded and searches per query, numbers stored per item (old, new, both widths),
# pairs to fit; "any": equal widths and unequal ones alike.
COSTS = {
    NAIVE: {"equal": (1, 0, 1, "new", 0)},
    "calibrated_merge": {"any": (2, 0, 2, "larger", PAIRS)},
    "cascade": {"any": (2, 100, 2, "larger", 0)},
    "fct": {"any": (1, 0, 1, "new", PAIRS)},
    "low_rank_adapter": {"any": (1, 0, 2, "larger", PAIRS)},
    "mlp_adapter": {"any": (1, 0, 2, "larger", PAIRS)},
    "procrustes": {"any": (1, 0, 1, "new", PAIRS)},
    "query_drift": {"equal": (1, 0, 2, "new", PAIRS)},
    "rank_merge": {"any": (2, 0, 2, "larger", 0)},
    "reciprocal_rank_fusion": {"any": (2, 0, 2, "larger", 0)},
    "slerp": {"any": (2, 0, 2, "larger", PAIRS)},
}


def pair(seed, widths):
    rng = np.random.default_rng(seed)
    labels, asked = rng.integers(0, 15, SIZE), rng.integers(0, 15, QUERIES)
    centres, arrays = rng.normal(size=(15, 24)), {}
    for side, width, noise in zip(("old", "new"), widths, (1.3, 0.7), strict=True):
        seen = rng.normal(size=(24, width))
        for name, classes in (("queries", asked), ("gallery", labels)):
            points = centres[classes] + noise * rng.normal(size=(len(classes), 24))
            arrays[f"{name}_{side}"] = (points @ seen).astype(np.float32)
    grades = np.where(labels[None] == asked[:, None], rng.integers(1, 4, SIZE)[None], 0)
    junk = (grades == 0) & (rng.random(grades.shape) < 0.05)
    return arrays, np.where(junk, -1, grades)


def cosines(queries, gallery):
    """Cosines [Q, N], each by a loop over the dimensions of two unit rows."""

    def unit(rows):
        rows = np.asarray(rows, np.float64)
        return [row / math.sqrt(sum(x * x for x in row.tolist())) for row in rows]

    items = unit(gallery)
    return np.array([[float(np.dot(q, item)) for item in items] for q in unit(queries)])


def ranked(name, bridge, old, new, moved, drifted):
    """Gallery rows of one query, best first; `old` [N] and `new` [N] are its cosines."""
    waiting, there = np.flatnonzero(~moved).tolist(), np.flatnonzero(moved).tolist()
    if name == "cascade":
        by_old = sorted(waiting, key=lambda row: (-old[row], row))
        bought, rest = by_old[:100], by_old[100:]
        return sorted([*bought, *there], key=lambda row: (-new[row], row)) + rest
    if name == "reciprocal_rank_fusion":
        scores = {}
        for rows, cosine in ((waiting, old), (there, new)):
            best = sorted(rows, key=lambda row: (-cosine[row], row))
            scores |= {row: 1 / (60 + place) for place, row in enumerate(best, 1)}
    elif bridge.merge is not None:
        parts = (torch.from_numpy(part)[None] for part in (old[~moved], new[moved]))
        merged = [part[0].tolist() for part in bridge.merge(*parts)]
        scores = dict(zip([*waiting, *there], [*merged[0], *merged[1]], strict=True))
    else:
        scores = {row: (new if moved[row] else old)[row] for row in (*waiting, *there)}
    return sorted(scores, key=lambda row: (-scores[row], row))


def judged(rows, grades):
    """AP, nDCG@10 and success@1 of one ranking, place by place."""
    kept = [grades[row] for row in rows if grades[row] >= 0]
    hits, precisions, gain = 0, [], 0.0
    for place, grade in enumerate(kept, 1):
        if grade > 0:
            hits += 1
            precisions.append(hits / place)
            gain += grade / math.log2(place + 1) if place <= 10 else 0.0
    best = sorted((grade for grade in kept if grade > 0), reverse=True)[:10]
    ideal = sum(grade / math.log2(place + 1) for place, grade in enumerate(best, 1))
    return sum(precisions) / hits, gain / ideal, kept[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "widths"), [(0, (12, 20)), (1, (16, 16)), (2, (20, 10))])
def test_the_table_of_every_bridge_equals_a_naive_recomputation(seed, widths):
    arrays, truth = pair(seed, widths)
    query, item = np.nonzero(truth)
    relevance = Relevance.from_judgements(query, item, truth[query, item], QUERIES, SIZE)
    result = bench.evaluate_upgrade(
        **arrays, relevance=relevance, shares=5, further=["nDCG@10"], pairs=PAIRS, seed=seed
    )
    measured = {bridge.name: bridge for bridge in result.found.bridges}
    kind = "equal" if widths[0] == widths[1] else "unequal"
    expected = {
        name: by[kind if kind in by else "any"]
        for name, by in COSTS.items()
        if kind in by or "any" in by
    }
    assert {*measured, *result.found.left_out} == {COLD, NAIVE, *names()}
    assert set(measured) == {COLD, *expected} | ({"mct"} & set(measured))
    order = order_of("random", OrderInputs(SIZE), np.random.default_rng(derive_seed("order", seed)))
    rng = np.random.default_rng(derive_seed("pairs", seed))
    rows = np.sort(rng.choice(SIZE, PAIRS, replace=False))
    fitted = arrays["gallery_old"][rows], arrays["gallery_new"][rows]
    made = make_bridges(
        *(arrays[name] for name in ("queries_old", "gallery_old", "queries_new", "gallery_new")),
        fitted,
        seed,
        [name for name in measured if name != COLD],
    )
    old = cosines(arrays["queries_old"], arrays["gallery_old"])
    new = cosines(arrays["queries_new"], arrays["gallery_new"])
    whole = range(SIZE)
    before, after = (
        [judged(sorted(whole, key=lambda r, q=q: (-c[q, r], r)), truth[q]) for q in range(QUERIES)]
        for c in (old, new)
    )
    cold = [before if share < 1 else after for share in SHARES]
    naive = {COLD: np.array(cold, dtype=float)}
    for bridge in made:
        asked = cosines(bridge.query_old, bridge.gallery_old)
        answered = cosines(bridge.query_new, bridge.gallery_new)
        points = []
        for share in SHARES:
            moved = np.zeros(SIZE, bool)
            moved[order[: math.floor(share * SIZE + 0.5)]] = True
            points.append(
                [
                    judged(
                        ranked(bridge.name, bridge, asked[q], answered[q], moved, None), truth[q]
                    )
                    for q in range(QUERIES)
                ]
            )
        naive[bridge.name] = np.array(points, dtype=float)
    was_right = np.array(before, dtype=float)[:, 2] > 0
    for name, values in naive.items():
        found = measured[name]
        tell = {"err_msg": name, "rtol": 0, "atol": 1e-9}
        np.testing.assert_allclose(result.curve(found), values[..., 0].mean(1), **tell)
        np.testing.assert_allclose(result.curve(found, "nDCG@10"), values[..., 1].mean(1), **tell)
        flips = (was_right & (values[..., 2] == 0)).mean(1)
        np.testing.assert_allclose(result.flips(found), flips, **tell)
    sizes = {"new": widths[1], "larger": max(widths)}
    for name, (encodings, bought, searches, stored, pairs) in expected.items():
        costs = measured[name].costs
        told = costs.encodings, costs.purchases, costs.searches, costs.bytes_per_item
        assert told == (encodings, bought, searches, 4 * sizes[stored]), name
        assert costs.fit_pairs == pairs, name
