"""Rankings in which an item's place depends on more than its own score, anew at every share.

A method may merge the scores of two searches, or buy: the best of the old search are embedded anew
while the query waits, and stand where their new scores put them, among the backfilled items. Old
items that were not bought come after all of these, in the order of the old search. A few queries
are held in memory at a time. Where scores decide, ranks are counted and nothing is sorted but the
scores of the relevant items.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.evaluation.scores import default_device, normalise, ranking
from bench.relevance import Ragged, Relevance

Merge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Rows = NDArray[np.int64]
_ENTRIES = 1 << 24  # scores of a few queries with all items
_DOUBLE_ROWS = 1 << 16


class MixedRanking:
    """Some queries and a gallery that is partly backfilled.

    `old` [Q, N] are the scores of the old search and `new` [Q, N] of the new one, each of all
    items as if none, or all, were backfilled.
    """

    def __init__(
        self, old: Tensor, new: Tensor, merge: Merge | None = None, purchases: int = 0
    ) -> None:
        self.old, self.new, self.merge, self.purchases = old, new, merge, purchases

    @cached_property
    def _old_order(self) -> Tensor:
        return ranking(self.old)

    @cached_property
    def _new_order(self) -> Tensor:
        return ranking(self.new)

    def order(self, backfilled: Tensor) -> Tensor:
        """Rank the gallery: rows [Q, N], best first; `backfilled` [N] tells which items are."""
        return self._bought_first(backfilled) if self.purchases else ranking(self.mixed(backfilled))

    def mixed(self, backfilled: Tensor) -> Tensor:
        """Return comparable scores [Q, N] of the two searches, where nothing is bought."""
        mixed = torch.empty_like(self.old)
        old, new = self.old[:, ~backfilled], self.new[:, backfilled]
        mixed[:, ~backfilled], mixed[:, backfilled] = (
            (old, new) if self.merge is None else self.merge(old, new)
        )
        return mixed

    def bought(self, backfilled: Tensor) -> Tensor:
        """Return which items are embedded anew for each query: bool [Q, N]."""
        waiting = ~backfilled[self._old_order]
        chosen = waiting & (waiting.cumsum(1) <= self.purchases)
        return torch.zeros_like(chosen).scatter_(1, self._old_order, chosen)

    def _bought_first(self, backfilled: Tensor) -> Tensor:
        scored = self.bought(backfilled) | backfilled
        items = len(backfilled)
        ahead = min(items, int(backfilled.sum()) + self.purchases)
        parts = [
            order[scored.gather(1, order) == first].view(len(scored), width)
            for order, first, width in (
                (self._new_order, True, ahead),
                (self._old_order, False, items - ahead),
            )
        ]
        return torch.cat(parts, 1)


def all_scores(query: NDArray[Any], gallery: NDArray[Any]) -> Tensor:
    """Exact scores [Q, N] of all pairs of rows."""
    unit = [torch.from_numpy(normalise(rows)) for rows in (query, gallery)]
    return _products(*unit)


def _products(query: Tensor, gallery: Tensor) -> Tensor:
    """Exact products [Q, N] of float32 unit rows, a part of the gallery in float64 at a time."""
    exact = query.double()
    blocks = torch.split(gallery, _DOUBLE_ROWS)
    return torch.cat([exact @ block.double().T for block in blocks], dim=1)


def _placed(array: NDArray[Any], name: str) -> Tensor:
    """Unit rows on the device of the search."""
    return torch.from_numpy(normalise(array, name)).to(default_device())


def mixed_ranks(
    old: tuple[NDArray[Any], NDArray[Any]],
    new: tuple[NDArray[Any], NDArray[Any]],
    relevance: Relevance,
    steps: Rows,
    count: int,
    merge: Merge | None = None,
    purchases: int = 0,
) -> Rows:
    """Rank every relevant item at each of `count` shares: ranks [P, S], from 1, junk left out.

    `old` and `new` are queries [Q, D] and gallery [N, D]; `steps` [N] is the first share at which
    an item is backfilled.
    """
    offsets = relevance.relevant.offsets
    units = [
        (_placed(query, "queries"), _placed(gallery, f"{age} gallery"))
        for age, (query, gallery) in (("old", old), ("new", new))
    ]
    ranks = np.empty((len(relevance.relevant.rows), count), dtype=np.int64)
    at_once = max(1, _ENTRIES // max(1, len(steps)))
    for start in range(0, len(relevance.relevant), at_once):
        stop = min(start + at_once, len(relevance.relevant))
        before, after = (_products(query[start:stop], gallery) for query, gallery in units)
        mixed = MixedRanking(before, after, merge, purchases)
        part = ranks[offsets[start] : offsets[stop]]
        _write_ranks(mixed, relevance, range(start, stop), steps, part)
    return ranks


def bought_at(steps: Rows, count: int, purchases: int) -> Rows:
    """Items that each query buys at each of `count` shares [S]: as many as are still old."""
    old = len(steps) - np.searchsorted(np.sort(steps), np.arange(count), side="right")
    return np.minimum(old, purchases)


def _write_ranks(
    mixed: MixedRanking, relevance: Relevance, queries: range, steps: Rows, ranks: Rows
) -> None:
    """Write the ranks [P, S] of the relevant items of some queries."""
    device = mixed.old.device
    query, rows = _listed(relevance.relevant, queries, device)
    junk = _listed(relevance.junk, queries, device)
    step = torch.from_numpy(steps).to(device)
    for share in range(ranks.shape[1]):
        if mixed.purchases:
            found = _places(mixed.order(step <= share), junk)[query, rows]
        else:
            found = counted_ranks(mixed.mixed(step <= share), query, rows, junk)
        ranks[:, share] = found.cpu().numpy()


def _places(order: Tensor, junk: tuple[Tensor, Tensor]) -> Tensor:
    """Rank [Q, N] of every item in an order [Q, N], junk left out."""
    kept = torch.ones(order.shape, dtype=torch.bool, device=order.device)
    kept[junk] = False
    return torch.empty_like(order).scatter_(1, order, kept.gather(1, order).cumsum(1))


def counted_ranks(
    scores: Tensor, query: Tensor, rows: Tensor, junk: tuple[Tensor, Tensor]
) -> Tensor:
    """Rank [P] of items `rows` of queries `query`, ascending, by scores [Q, N], ties by row.

    As in `bench.evaluation.ranks`, an item beats the first few of the scores that are asked for,
    sorted from the lowest and, among equal ones, from the last row. How many it beats is found by
    bisection, and a histogram of that tells how many items beat each.
    """
    asked = scores[query, rows]
    order = torch.from_numpy(np.lexsort([part.cpu().numpy() for part in (-rows, asked, query)])).to(
        scores.device
    )
    counts = torch.bincount(query, minlength=len(scores))
    column = torch.arange(len(rows), device=scores.device)
    column -= torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    width = int(counts.max()) if len(counts) else 0
    levels = scores.new_full((len(scores), width + 1), torch.inf)
    level_rows = torch.full_like(levels, -1, dtype=torch.int64)
    levels[query, column], level_rows[query, column] = asked[order], rows[order]
    beaten = torch.searchsorted(levels, scores)
    of, item = torch.nonzero(levels.gather(1, beaten) == scores, as_tuple=True)
    beaten[of, item] = _beaten_of_equal(levels, level_rows, scores, of, item, beaten[of, item])
    beaten[junk] = 0
    slot = torch.arange(len(scores), device=scores.device)[:, None] * (width + 1)
    tally = torch.bincount((beaten + slot).view(-1), minlength=len(scores) * (width + 1))
    at_least = tally.view(len(scores), width + 1).flip(1).cumsum(1).flip(1)
    ranks = torch.empty_like(rows)
    ranks[order] = at_least[query, column + 1] + 1
    return ranks


def _beaten_of_equal(
    levels: Tensor, level_rows: Tensor, scores: Tensor, of: Tensor, item: Tensor, low: Tensor
) -> Tensor:
    """Levels that items beat whose score equals some: all lower ones, and those of later rows."""
    score, low = scores[of, item], low.clone()
    high = torch.full_like(low, levels.shape[1] - 1)
    while len(open_ := torch.nonzero(low < high).squeeze(1)):
        middle = (low[open_] + high[open_]) // 2
        row = of[open_]
        equal = levels[row, middle] == score[open_]
        beats = equal & (item[open_] < level_rows[row, middle])
        low[open_] = torch.where(beats, middle + 1, low[open_])
        high[open_] = torch.where(beats, high[open_], middle)
    return low


def _listed(lists: Ragged, queries: range, device: torch.device) -> tuple[Tensor, Tensor]:
    """Query, numbered within the run, and gallery row of every listed pair."""
    counts = lists.counts()[queries.start : queries.stop]
    rows = lists.rows[lists.offsets[queries.start] : lists.offsets[queries.stop]]
    query = np.repeat(np.arange(len(queries)), counts)
    return torch.from_numpy(query).to(device), torch.from_numpy(rows).to(device)
