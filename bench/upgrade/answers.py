"""The first answers of a mixed gallery, and how far two lists of answers agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.evaluation.mixed import Merge, MixedRanking, all_scores
from bench.evaluation.scores import exact_scores, normalise, unit_rows
from bench.upgrade.bridges import Bridge
from bench.upgrade.systems import Upgrade

Rows = NDArray[np.int64]
Array = NDArray[np.float64]
_TILE = 1 << 22
_SPARE = 16  # candidates beyond the depth, of which the exact scores choose


@dataclass(frozen=True)
class Agreement:
    """Agreement [S] of the answers at each share with the final ones, and with the old ones."""

    depth: int
    overlap_final: Array
    rbo_final: Array
    overlap_old: Array | None
    rbo_old: Array | None
    first_changed: Array | None


def best_answers(
    systems: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    hidden: Sequence[NDArray[np.bool_]],
    depth: int,
) -> Rows:
    """Best items [Q, depth] of galleries that hold parts of the same items, best first.

    Each system is queries [Q, D] and gallery [N, D]; `hidden` [N] are the items that it does not
    hold. Candidates are chosen in float32, ordered by exact scores, ties by gallery row.
    """
    size = len(systems[0][1])
    keep = min(size, depth + _SPARE)
    count = len(systems[0][0])
    best = torch.full((count, 0), -torch.inf)
    rows = torch.zeros((count, 0), dtype=torch.int64)
    origin = torch.zeros((count, 0), dtype=torch.int64)
    units = [torch.from_numpy(normalise(query, "queries")) for query, _ in systems]
    step = max(1024, _TILE // max(1, count))
    for number, (_, gallery) in enumerate(systems):
        for start in range(0, size, step):
            held = np.flatnonzero(~hidden[number][start : start + step]) + start
            if not len(held):
                continue
            scores = units[number] @ unit_rows(gallery[held], "gallery", start).T
            joined = torch.cat([best, scores], 1)
            numbers = torch.cat([rows, torch.from_numpy(held).expand(count, -1)], 1)
            came = torch.cat([origin, torch.full(scores.shape, number)], 1)
            best, place = joined.topk(min(keep, joined.shape[1]), dim=1)
            rows, origin = numbers.gather(1, place), came.gather(1, place)
    exact = torch.empty(rows.shape, dtype=torch.float64)
    query = torch.arange(count)[:, None].expand_as(rows)
    for number, (_, gallery) in enumerate(systems):
        mine = origin == number
        exact[mine] = exact_scores(units[number], gallery, query[mine], rows[mine])
    order = np.lexsort((rows.numpy(), -exact.numpy()), axis=1)[:, :depth]
    return np.take_along_axis(rows.numpy(), order, axis=1)


def bridge_answers(
    bridge: Bridge,
    backfilled: NDArray[np.bool_],
    depth: int,
    queries: Rows | slice = slice(None),
) -> Rows:
    """Best items [Q, depth] of a bridge, for some queries.

    What a bridge buys stands where its new scores put it, before all old items that it did not buy.
    """
    old = (bridge.query_old[queries], bridge.gallery_old)
    new = (bridge.query_new[queries], bridge.gallery_new)
    depth = min(depth, len(backfilled))
    if bridge.merge is not None:
        return _merged_answers(bridge.merge, old, new, backfilled, depth)
    if not bridge.purchases:
        return best_answers([old, new], [backfilled, ~backfilled], depth)
    waiting = best_answers([old], [backfilled], bridge.purchases + depth)
    scored = np.concatenate(
        [waiting[:, : bridge.purchases], best_answers([new], [~backfilled], depth)], axis=1
    )
    first = np.take_along_axis(scored, best_first(*new, scored), axis=1)
    return np.concatenate([first, waiting[:, bridge.purchases :]], axis=1)[:, :depth]


def _merged_answers(
    merge: Merge,
    old: tuple[NDArray[Any], NDArray[Any]],
    new: tuple[NDArray[Any], NDArray[Any]],
    backfilled: NDArray[np.bool_],
    depth: int,
) -> Rows:
    """Best items [Q, depth] of two merged searches, ranked as a whole, a few queries at a time."""
    step = max(1, _TILE // len(backfilled))
    found = []
    for start in range(0, len(old[0]), step):
        part = slice(start, start + step)
        scores = [all_scores(query[part], gallery) for query, gallery in (old, new)]
        order = MixedRanking(scores[0], scores[1], merge).order(torch.from_numpy(backfilled))
        found.append(order[:, :depth].numpy())
    return np.concatenate(found)


def best_first(query: NDArray[Any], gallery: NDArray[Any], rows: Rows) -> Rows:
    """Places [Q, n] of gallery rows [Q, n], best exact score first, ties by gallery row."""
    unit = torch.from_numpy(normalise(query, "queries"))
    of = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    scores = exact_scores(unit, gallery, of, torch.from_numpy(rows.reshape(-1)))
    return np.lexsort((rows, -scores.numpy().reshape(rows.shape)), axis=1)


def overlap(one: Rows, other: Rows) -> Array:
    """Share of items [Q] that two lists [Q, k] have in common."""
    return np.array([len(np.intersect1d(a, b)) / len(a) for a, b in zip(one, other, strict=True)])


def rank_biased_overlap(one: Rows, other: Rows, p: float = 0.9) -> Array:
    """Rank-biased overlap [Q] of two lists [Q, k], extrapolated (Webber et al., TOIS 2010, eq. 23).

    RBO_ext = X_k / k · p^k + (1 − p) / p · Σ_d X_d / d · p^d, where X_d items are common to the
    first d of both.
    """
    depth = one.shape[1]
    common = np.array(
        [
            [len(np.intersect1d(a[:d], b[:d])) for d in range(1, depth + 1)]
            for a, b in zip(one, other, strict=True)
        ]
    )
    d = np.arange(1, depth + 1)
    found: Array = common[:, -1] / depth * p**depth + (1 - p) / p * (common / d * p**d).sum(1)
    return found


def without(answers: Rows, dropped: Rows | None, depth: int) -> Rows:
    """The first `depth` of answers [Q, k], less the item [Q] that is the query itself."""
    if dropped is None:
        return answers[:, :depth]
    last = np.argsort(answers == dropped[:, None], axis=1, kind="stable")
    return np.take_along_axis(answers, last[:, :depth], axis=1)


def agreement(
    bridge: Bridge, upgrade: Upgrade, steps: Rows, count: int, depth: int, weight: Array
) -> Agreement:
    """Compare the answers of a bridge at each of `count` shares with the final and the old ones.

    `weight` [Q] is traffic.
    """
    everything = np.zeros(len(steps), dtype=bool)
    dropped = upgrade.dropped
    spare = 0 if dropped is None else 1
    depth = max(1, min(depth, len(steps) - spare))

    def first(answers: Rows) -> Rows:
        return without(answers, dropped, depth)

    def mean(values: NDArray[Any]) -> float:
        return float(np.average(values, weights=weight))

    lists = [first(bridge_answers(bridge, steps <= s, depth + spare)) for s in range(count)]
    pair = (bridge.query_new, bridge.gallery_new)
    final = first(best_answers([pair], [everything], depth + spare))
    old = None
    if upgrade.queries_old is not None:
        pair = (upgrade.queries_old.rows, upgrade.gallery_old.rows)
        old = first(best_answers([pair], [everything], depth + spare))
    return Agreement(
        depth,
        np.array([mean(overlap(each, final)) for each in lists]),
        np.array([mean(rank_biased_overlap(each, final)) for each in lists]),
        None if old is None else np.array([mean(overlap(each, old)) for each in lists]),
        None if old is None else np.array([mean(rank_biased_overlap(e, old)) for e in lists]),
        None if old is None else np.array([mean(e[:, 0] != old[:, 0]) for e in lists]),
    )
