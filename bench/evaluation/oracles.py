"""Orders that know the answers: how much better a backfill order could be.

The best order is one of N! and cannot be searched for. What is given here is greedy: whichever
items help most, backfilled now, go next. `bench.evaluation.orders` keeps the best of it and of all
other orders, so that an oracle is never worse than one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.evaluation import metrics
from bench.relevance import Relevance

if TYPE_CHECKING:  # whoever names an oracle needs no torch
    from bench.evaluation.backfill import Curve
    from bench.evaluation.mixed import Merge

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
# now [N], new [N], relevant rows, rows that are neither relevant nor junk → gain [N]
Gain = Callable[[Array, Array, Rows, Rows], Array]
ROUNDS = 20
SOFTNESS = 0.02  # difference of two cosines at which a query is hardly in danger any more


@dataclass(frozen=True)
class Hindsight:
    """What shows only when all is backfilled and every answer is known: for oracles alone.

    `query_old` [Q, Do] and `gallery_old` [N, Do] meet for items not yet backfilled, `query_new`
    [Q, Dn] and `gallery_new` [N, Dn] for the others, as in `hot_refresh`, whose `shares`, `metric`,
    `merge` and `purchases` they are judged by. `answered` [Q] are the queries whose first hit was
    right in the old system; None where the old queries are not at hand.
    """

    query_new: NDArray[Any]
    gallery_new: NDArray[Any]
    query_old: NDArray[Any]
    gallery_old: NDArray[Any]
    relevance: Relevance
    shares: Array
    metric: str = "AP"
    merge: Merge | None = None
    answered: NDArray[np.bool_] | None = None
    purchases: int = 0

    def curve(self, order: Rows) -> Curve:
        """Evaluate the backfill in an order."""
        from bench.evaluation.backfill import hot_refresh

        return hot_refresh(
            self.query_new,
            self.gallery_new,
            self.query_old,
            self.gallery_old,
            self.relevance,
            order,
            self.shares,
            self.metric,
            success_at=(1,),
            merge=self.merge,
            purchases=self.purchases,
        )

    def mean_precision(self, order: Rows) -> float:
        """Area under mAP along the backfill: larger is better."""
        curve = self.curve(order)
        return float(metrics.area(self.shares, curve.ap[:, curve.evaluated].mean(1)))

    def flips_avoided(self, order: Rows) -> float:
        """Minus the area under NFR@1 along the backfill: larger is better.

        Raises BenchError where it is not known what the old system answered.
        """
        curve = self.curve(order)
        flipped = self.right_before & ~curve.success[:, 0]
        return -float(metrics.area(self.shares, flipped[:, curve.evaluated].mean(1)))

    @property
    def right_before(self) -> NDArray[np.bool_]:
        """Queries that the old system answered [Q]; raises BenchError where that is not known."""
        if self.answered is None:
            raise BenchError(
                "an oracle of flips needs what old queries found in the old gallery, which is not "
                "at hand here; give the old queries too, or choose another order"
            )
        return self.answered

    @cached_property
    def _unit(self) -> tuple[NDArray[np.float32], ...]:
        from bench.evaluation.scores import normalise

        return (
            normalise(self.query_old, "old queries"),
            normalise(self.gallery_old, "old gallery"),
            normalise(self.query_new, "new queries"),
            normalise(self.gallery_new, "new gallery"),
        )

    def greedy(self, gain: Gain, queries: NDArray[np.bool_]) -> Rows:
        """Order the gallery by what backfilling an item next gains, summed over `queries` [Q].

        What an item gains depends on what is backfilled already, so it is reckoned anew `ROUNDS`
        times. A method's merge of two searches, and what it buys, is left out of account.
        """
        size = self.relevance.gallery_size
        done, order = np.zeros(size, bool), np.empty(0, np.int64)
        for stop in np.linspace(0, size, ROUNDS + 1).round().astype(int)[1:]:
            gains = self._gains(gain, queries, done)
            gains[done] = -np.inf
            following = np.argsort(-gains, kind="stable")[: stop - len(order)]
            done[following] = True
            order = np.concatenate([order, following])
        return order.astype(np.int64)

    def _gains(self, gain: Gain, queries: NDArray[np.bool_], done: NDArray[np.bool_]) -> Array:
        query_old, gallery_old, query_new, gallery_new = self._unit
        total = np.zeros(len(done))
        answerable = self.relevance.relevant.counts() > 0
        for query in np.flatnonzero(queries & answerable).tolist():
            old, new = gallery_old @ query_old[query], gallery_new @ query_new[query]
            now = np.where(done, new, old).astype(np.float64)
            relevant, others = self.relevance.relevant[query], np.ones(len(done), bool)
            others[relevant] = others[self.relevance.junk[query]] = False
            total += gain(now, new.astype(np.float64), relevant, np.flatnonzero(others))
        return total


def precision_gain(now: Array, new: Array, relevant: Rows, others: Rows) -> Array:
    """Change of a query's average precision when one item alone takes its new score: [N]."""
    relevant = relevant[np.argsort(-now[relevant], kind="stable")]
    scores, gain = now[relevant], np.zeros(len(now))
    wrong = np.sort(now[others])
    position = np.arange(1, len(relevant) + 1)
    rank = position + _above(wrong, scores)
    # One wrong item more or less above a relevant one changes its precision by so much.
    cost = position / rank - position / (rank + 1)
    relief = position / np.maximum(rank - 1, position) - position / rank
    rising = np.sort(scores)
    for rows, change in ((new > now, cost), (new < now, relief)):
        lower = np.concatenate([[0], np.cumsum(change[::-1])])
        moved = others[rows[others]]
        place = [np.searchsorted(rising, score[moved]) for score in (new, now)]
        gain[moved] = lower[place[1]] - lower[place[0]]
    for own, row in enumerate(relevant):
        rest = np.delete(scores, own)
        better = _above(np.sort(rest), new[row : row + 1])[0]
        among = np.insert(rest, better, new[row])
        gain[row] = (position / (position + _above(wrong, among)) - position / rank).sum()
    return gain / len(relevant)


def _above(ascending: Array, scores: Array) -> Rows:
    """How many of the sorted numbers are above each score."""
    return len(ascending) - np.searchsorted(ascending, scores, side="right")


def first_hit_gain(now: Array, new: Array, relevant: Rows, others: Rows) -> Array:
    """Change of the chance that a query's first hit is right when one item takes its new score.

    The chance is the logistic of the lead of the best right item over the best wrong one, divided
    by `SOFTNESS`: a query that is safe by far gains nothing.
    """
    gain = np.zeros(len(now))
    if not len(others):
        return gain
    right, wrong = now[relevant].max(), now[others].max()
    chance = _logistic(right - wrong)
    gain[relevant] = _logistic(_replaced(now[relevant], new[relevant]) - wrong) - chance
    gain[others] = _logistic(right - _replaced(now[others], new[others])) - chance
    return gain


def _replaced(now: Array, new: Array) -> Array:
    """The maximum of `now` [M] after each single entry has taken its value of `new` [M]."""
    best = int(np.argmax(now))
    rest = np.full(len(now), now[best])
    rest[best] = np.delete(now, best).max(initial=-np.inf)
    replaced: Array = np.maximum(rest, new)
    return replaced


def _logistic(lead: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(lead) / SOFTNESS))
