"""Ranks of relevant items at every backfill share, from one pass over each generation's gallery.

A rank needs no sorted gallery, only the number of items that beat a relevant one. The exact scores
of the relevant items come first; they are the thresholds. The gallery then streams by in tiles: a
float32 product tells within a proven error how many thresholds of its query each item beats, and
the few items too close to a threshold are scored again exactly. Each item is noted at the share
from which, and the share until which, it carries that score; running sums over shares and
thresholds turn the notes into ranks at all shares at once.

Where only the first `depth` places matter, a threshold that `depth` items beat at some share is
given up there, and items that beat no remaining threshold are dismissed by one comparison, for
which a product in bfloat16, with its own proven error, is enough.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.evaluation.scores import (
    Each,
    default_device,
    exact_scores,
    ieee_products,
    in_turn,
    normalise,
    pair_products,
    side_by_side,
    unit_rows,
)
from bench.relevance import Ragged, Relevance

Rows = NDArray[np.int64]
# Scores of one tile where few of them matter; without a depth all may, and take more memory each.
TILE_ENTRIES = {"cpu": 1 << 21, "cuda": 1 << 26}
_DENSE_PART = 4
_TALLY_ENTRIES = 1 << 24
_QUERIES = 2048
_FIRST_BATCH = 1024
_BANDS = 128
# Scores lie in [−1, 1]: this distance between the keys of two queries keeps them apart.
_KEY_STRIDE = 4.0


@dataclass(frozen=True)
class Generation:
    """Embeddings of one model: `query` [Q, D] is compared with `gallery` [N, D].

    Gallery item i carries its embedding of this generation at the shares numbered
    `since[i]` ≤ s < `until[i]`.
    """

    query: NDArray[Any]
    gallery: NDArray[Any]
    since: Rows
    until: Rows
    name: str = "gallery"


def relevant_ranks(
    generations: Sequence[Generation],
    relevance: Relevance,
    share_count: int,
    depth: int | None = None,
    device: torch.device | None = None,
    tile_entries: int | None = None,
) -> Rows:
    """Rank every relevant item among the items that are not junk, at every share.

    Returns ranks [P, S], counted from 1, for the P = Σ relevant pairs in the order of
    `relevance.relevant.rows`. With `depth`, a rank beyond it is only known to be beyond it.
    `tile_entries` bounds the scores that each core holds at a time.
    """
    device = device or default_device()
    size, offsets = relevance.gallery_size, relevance.relevant.offsets
    ranks = np.full((len(relevance.relevant.rows), share_count), size + 1, dtype=np.int64)
    if tile_entries is None:
        tile_entries = TILE_ENTRIES[device.type] // (_DENSE_PART if depth is None else 1)
    with ieee_products(device), side_by_side(device) as each:
        for queries in _query_chunks(relevance, len(generations) * share_count):
            tile = tile_entries // len(queries) // 8 * 8
            sweep = _Sweep(generations, relevance, queries, share_count, depth, device, each)
            for batch in _batches(size, grow=depth is not None):
                sweep.count(batch, max(8, tile))
                if depth is not None and batch.stop < size:
                    sweep.give_up(depth)
            sweep.write(ranks[offsets[queries[0]] : offsets[queries[-1] + 1]])
    return ranks


def _query_chunks(relevance: Relevance, entries_per_pair: int) -> Iterator[Rows]:
    """Cut the queries that have a relevant item into runs whose tallies fit in memory."""
    counts = relevance.relevant.counts()
    queries = np.flatnonzero(counts)
    cost = np.cumsum(counts[queries] * entries_per_pair)
    chunk = np.maximum(cost // _TALLY_ENTRIES, np.arange(len(queries)) // _QUERIES)
    edges = np.flatnonzero(np.diff(chunk)) + 1
    yield from (part for part in np.split(queries, edges) if len(part))


def _batches(size: int, grow: bool) -> Iterator[range]:
    """Cut a gallery into batches, each as long as all before it if thresholds are given up."""
    start = 0
    while start < size:
        stop = min(size, max(_FIRST_BATCH, 2 * start)) if grow else size
        yield range(start, stop)
        start = stop


@dataclass(frozen=True)
class _Thresholds:
    """Scores of relevant items, sorted by query, then score, then descending gallery row.

    An item beats the first few thresholds of its query and none of the others. `counts` [T, S]
    holds how many items are known to beat each at each share.
    """

    query: Tensor
    score: Tensor
    row: Tensor
    since: Tensor
    until: Tensor
    pair: Tensor
    counts: Tensor

    def active(self) -> Tensor:
        """Shares at which the relevant item carries this score: bool [T, S]."""
        share = torch.arange(self.counts.shape[1], device=self.counts.device)
        return (self.since[:, None] <= share) & (share < self.until[:, None])

    def keep(self, chosen: Tensor) -> _Thresholds:
        """Keep some of them, in their order."""
        return _Thresholds(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


class _Sweep:
    """Thresholds of some queries and what has been counted of the gallery so far."""

    def __init__(
        self,
        generations: Sequence[Generation],
        relevance: Relevance,
        queries: Rows,
        share_count: int,
        depth: int | None,
        device: torch.device,
        each: Each,
    ) -> None:
        self.device, self.queries, self.each = device, queries, each
        self.share_count = share_count
        self.streams = [
            _Stream(part, queries, device, rough=depth is not None) for part in generations
        ]
        self.lock = threading.Lock()
        self.thresholds = self._make_thresholds(relevance.relevant)
        self.live = self.thresholds.active()
        self._start_tally()
        self._count_junk(relevance.junk)

    def _listed(self, lists: Ragged) -> tuple[Tensor, Tensor]:
        """Query (numbered within this run) and gallery row of every listed pair."""
        query = np.repeat(np.arange(len(self.queries)), lists.counts()[self.queries])
        rows = np.concatenate([lists[query] for query in self.queries])
        return self._tensor(query), self._tensor(rows)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _make_thresholds(self, relevant: Ragged) -> _Thresholds:
        query, row = self._listed(relevant)
        columns: list[tuple[Tensor, ...]] = []
        for stream in self.streams:
            since, until = stream.since[row], stream.until[row]
            pair = torch.nonzero(since < until).squeeze(1)
            score = stream.scores(query[pair], row[pair], self.each)
            columns.append((query[pair], score, row[pair], since[pair], until[pair], pair))
        of, score, item, since, until, pair = (
            torch.cat(part) for part in zip(*columns, strict=True)
        )
        order = np.lexsort((-item.cpu().numpy(), score.cpu().numpy(), of.cpu().numpy()))
        counts = torch.zeros(len(order), self.share_count, dtype=torch.int32, device=self.device)
        return _Thresholds(of, score, item, since, until, pair, counts).keep(self._tensor(order))

    def _start_tally(self) -> None:
        """Start to count against the present thresholds: an empty tally, keys and floors.

        A key holds query and score in one ascending number, off by 10⁻¹² at most. A floor is the
        least score that matters to a query while an item carries it.
        """
        query, score = self.thresholds.query, self.thresholds.score
        shape = len(query), self.share_count + 1
        self.tally = torch.zeros(shape, dtype=torch.int32, device=self.device)
        self.keys = torch.cat([query * _KEY_STRIDE + score, score.new_tensor([np.inf])])
        numbers = torch.arange(len(self.queries), device=self.device)
        self.first = torch.searchsorted(query, numbers)
        self.last = torch.searchsorted(query, numbers, right=True)
        least = torch.full((self.share_count, len(self.queries)), np.inf, device=self.device)
        held = torch.where(self.live, score.float()[:, None], np.inf).T
        least.scatter_reduce_(1, query.expand_as(held), held, "amin")
        for stream in self.streams:
            stream.set_floor(least)

    def _count_junk(self, junk: Ragged) -> None:
        """Count junk items negatively at once: the sweep counts every item, junk included."""
        query, row = self._listed(junk)
        for stream in self.streams:
            carried = torch.nonzero(stream.since[row] < stream.until[row]).squeeze(1)
            of, item = query[carried], row[carried]
            low, high = self.first[of].clone(), self.last[of]
            beaten = self._beaten(low, high, stream.scores(of, item, self.each), item)
            self._note(of, beaten, stream.since[item], stream.until[item], -1)

    def count(self, batch: range, tile: int) -> None:
        """Count which thresholds are beaten by a batch of gallery rows, tile by tile."""
        tiles = [range(start, min(start + tile, batch.stop)) for start in batch[::tile]]
        for stream in self.streams:
            if stream.matters:
                self.each(partial(self._count_tile, stream), tiles)

    def _count_tile(self, stream: _Stream, tile: range) -> None:
        query, item, score = stream.candidates(tile)
        key, margin = query * _KEY_STRIDE + score, stream.margin
        low = torch.searchsorted(self.keys, key - margin)
        close = torch.nonzero(self.keys[low] <= key + margin).squeeze(1)
        if len(close):
            high = torch.searchsorted(self.keys, key[close] + margin, right=True)
            exact = stream.scores(query[close], item[close])
            low[close] = self._beaten(low[close], high, exact, item[close])
        self._note(query, low, stream.since[item], stream.until[item], 1)

    def _beaten(self, low: Tensor, high: Tensor, score: Tensor, item: Tensor) -> Tensor:
        """Search exactly between `low` and `high` for the number of thresholds an item beats."""
        thresholds = self.thresholds
        while len(open_ := torch.nonzero(low < high).squeeze(1)):
            middle = (low[open_] + high[open_]) // 2
            difference = score[open_] - thresholds.score[middle]
            beats = (difference > 0) | ((difference == 0) & (item[open_] < thresholds.row[middle]))
            low[open_] = torch.where(beats, middle + 1, low[open_])
            high[open_] = torch.where(beats, high[open_], middle)
        return low

    def _note(self, query: Tensor, beaten: Tensor, since: Tensor, until: Tensor, by: int) -> None:
        """Note at the highest beaten threshold from which to which share an item stands there."""
        beats = torch.nonzero(beaten > self.first[query]).squeeze(1)
        slot = (beaten[beats] - 1) * (self.share_count + 1)
        amount = self.tally.new_full((1,), by).expand(len(slot))
        with self.lock:
            self.tally.view(-1).scatter_add_(0, slot + since[beats], amount)
            self.tally.view(-1).scatter_add_(0, slot + until[beats], -amount)

    def _settle(self) -> None:
        """Add the notes to the counts: over shares, and over all lower thresholds of the query."""
        if not len(self.tally):
            return
        # Sums over all queries may wrap around; the differences within one query are right.
        standing = torch.cumsum(self.tally, 1, dtype=torch.int32)[:, :-1]
        before = self.tally.new_zeros(len(standing) + 1, self.share_count)
        torch.cumsum(standing, 0, dtype=torch.int32, out=before[1:])
        ends = before.index_select(0, self.last[self.thresholds.query])
        self.thresholds.counts.add_(ends.sub_(before[:-1]))

    def give_up(self, depth: int) -> None:
        """Drop every threshold that `depth` items beat at all its shares; raise the floors."""
        self._settle()
        self.live &= self.thresholds.counts < depth
        kept = self.live.any(1)
        self.thresholds, self.live = self.thresholds.keep(kept), self.live[kept]
        self._start_tally()

    def write(self, ranks: Rows) -> None:
        """Write the ranks [P, S] of this run's pairs."""
        self._settle()
        threshold, share = np.nonzero(self.live.cpu().numpy())
        pair = self.thresholds.pair.cpu().numpy()[threshold]
        ranks[pair, share] = self.thresholds.counts.cpu().numpy()[threshold, share] + 1


class _Stream:
    """One generation's queries in memory, and its gallery read tile by tile.

    Spans are the distinct (since, until) of its items; at most `_BANDS` bands of similar spans
    share a floor.
    """

    def __init__(
        self,
        generation: Generation,
        queries: Rows,
        device: torch.device,
        rough: bool,
    ) -> None:
        self.gallery, self.name, self.device = generation.gallery, generation.name, device
        self.query = self._tensor(normalise(generation.query[queries], "queries"))
        self.exact_query = self.query.double()
        self.since, self.until = self._tensor(generation.since), self._tensor(generation.until)
        self.carried = self.since < self.until
        stride = int(generation.until.max()) + 1
        spans, band = np.unique(generation.since * stride + generation.until, return_inverse=True)
        group = np.arange(len(spans)) * min(_BANDS, len(spans)) // len(spans)
        self.band = self._tensor(group[band])
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        self.hulls = list(
            zip(
                np.minimum.reduceat(spans // stride, starts).tolist(),
                np.maximum.reduceat(spans % stride, starts).tolist(),
                strict=True,
            )
        )
        width = self.query.shape[1]
        self.margin = product_error(width)
        self.rough = rough and fast_bfloat16(device)
        self.dismissal_margin = self.margin + (bfloat16_error(width) if self.rough else 0)
        self.dismissal_query = self.query.bfloat16() if self.rough else self.query

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def scores(self, query: Tensor, row: Tensor, each: Each = in_turn) -> Tensor:
        """Exact scores of pairs."""
        return exact_scores(self.exact_query, self.gallery, query, row, self.name, each)

    def set_floor(self, least: Tensor) -> None:
        """Take the least score that matters at each share [S, Q], for each band [B, Q]."""
        floors = [
            least[since:until].amin(0) if since < until else torch.full_like(least[0], np.inf)
            for since, until in self.hulls
        ]
        floor = torch.stack(floors) - self.dismissal_margin
        self.matters = bool(torch.isfinite(floor).any())
        # Rounding is monotone: a product that reaches the floor still does when both are rounded.
        self.floor = floor.to(self.dismissal_query.dtype)

    def candidates(self, tile: range) -> tuple[Tensor, Tensor, Tensor]:
        """Find the pairs that may matter: query, gallery row, and score within `margin`."""
        unit, rows = self._read(tile)
        products = unit.to(self.dismissal_query.dtype) @ self.dismissal_query.T
        found = flat_nonzero(products >= self.floor.index_select(0, self.band[rows]))
        position, query = found // len(self.query), found % len(self.query)
        if self.rough:
            score = pair_products(unit, position, self.query, query)
        else:
            score = products.view(-1)[found]
        return query, rows[position], score.double()

    def _read(self, tile: range) -> tuple[Tensor, Tensor]:
        """Unit rows [n, D], within float32, and gallery rows [n] of the items carried at all."""
        part = self.gallery[tile.start : tile.stop]
        block = unit_rows(part, self.name, tile.start).to(self.device)
        carried = torch.nonzero(self.carried[tile.start : tile.stop]).squeeze(1)
        if len(carried) < len(block):
            block = block[carried]
        return block, carried + tile.start


def flat_nonzero(mask: Tensor) -> Tensor:
    """Flat positions of the true entries, fast where there are few: eight are tested at once."""
    flat = mask.view(-1)
    if len(flat) % 8:
        return torch.nonzero(flat).squeeze(1)
    words = torch.nonzero(flat.view(torch.int64))
    positions = (words * 8 + torch.arange(8, device=mask.device)).view(-1)
    return positions[flat[positions]]


def product_error(width: int) -> float:
    """Bound the error of a float32 product of unit rows of this width, in any summation order.

    With u = 2⁻²⁴: at most width·u from the sums and products of the dot product (Higham, Accuracy
    and Stability of Numerical Algorithms, §3.1), (width/2 + 4)·u from normalising in float32,
    √width·2⁻²⁷ because exact scores use rows rounded to 2⁻²⁶, and 8·u for comparing in float32.
    """
    unit = 2.0**-24
    return 1.01 * ((1.5 * width + 12) * unit + math.sqrt(width) * 2.0**-27)


def bfloat16_error(width: int) -> float:
    """Bound what rounding unit rows to bfloat16 adds to the error of a product.

    Rounding moves a unit row by 2⁻⁸ at most, and with it the product (Cauchy-Schwarz); hardware
    that adds pairs of products rounds twice as often as float32.
    """
    return 1.01 * (2 * 2.0**-8 + 2.0**-16 + width * 2.0**-24)


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 products are both fast here and summed in float32.

    GPUs may sum parts of a bfloat16 product in bfloat16, for which the bound does not hold.
    """
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
