"""The hot-refresh curve through a real FAISS index, updated in place at every share.

Old and new embeddings of one width share one index and one id per item. Index types differ in what
they can do to an item that is backfilled:

- `Flat` and `IVF…` indexes remove the old vector and add the new one under the same id;
- graph indexes such as `HNSW32`, and all indexes on a GPU, cannot remove: the old vector stays as a
  tombstone under a retired id, searches ask for more neighbours and drop it, and once tombstones
  exceed half the gallery the index is built anew.

An index that is trained (`IVF`, `PQ`) is trained on the old gallery, as a deployed one would be.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.backfill import backfill_steps, check_shapes
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.retrieval import normalise
from bench.sweep import Generation

Embeddings = NDArray[np.float32]
Rows = NDArray[np.int64]
_BATCH = 10_000


@dataclass(frozen=True)
class ServedCurve:
    """What the users of a served index see at every share, and what it costs.

    `shares` [S]; `ap` [S, Q] in the variant AP@`depth`; `success` [S, K, Q]; `recall` [S]: share of
    the exact `depth` nearest items that the index finds. Rates and latencies name no device: the
    caller knows threads and machine. `latency_ms` holds p50 and p99 of single-query searches.
    """

    shares: NDArray[np.float64]
    ap: NDArray[np.float64]
    success: NDArray[np.bool_]
    success_at: tuple[int, ...]
    depth: int
    recall: NDArray[np.float64]
    searches_per_s: float
    latency_ms: tuple[float, float]
    updates_per_s: float
    bytes_per_item: float
    rebuilds: int
    on_gpu: bool


def served_curve(
    factory: str,
    query: NDArray[Any],
    gallery_new: NDArray[Any],
    gallery_old: NDArray[Any],
    relevance: Relevance,
    order: NDArray[np.int64],
    shares: NDArray[np.float64],
    depth: int = 100,
    success_at: tuple[int, ...] = (1, 5),
    timed_queries: int = 100,
    parameters: str = "",
) -> ServedCurve:
    """Serve a gallery from the FAISS index `factory` while it is backfilled.

    `query` [Q, D] are the new queries, compared with `gallery_new` [N, D] and `gallery_old` [N, D].
    Junk items are dropped from the answers, for which searches ask that many more neighbours.
    `parameters` are FAISS search parameters such as `nprobe=16` or `efSearch=64`.
    Raises BenchError for a factory string or parameters that FAISS does not know, for shapes that
    do not fit and for rows that cannot be normalised.
    """
    steps = backfill_steps(order, shares)
    ends = np.zeros_like(steps), np.full_like(steps, len(shares))
    check_shapes(
        [
            Generation(query, gallery_old, ends[0], steps, "old gallery"),
            Generation(query, gallery_new, steps, ends[1], "new gallery"),
        ],
        relevance,
    )
    unit = normalise(query, "queries")
    index = UpdatableIndex(factory, gallery_old, parameters)
    exact = UpdatableIndex("Flat", gallery_old)
    depth = min(depth, relevance.gallery_size)
    wanted = depth + int(relevance.junk.counts().max(initial=0))
    index.search(unit[: len(unit) // 10 + 1], wanted)  # warm-up
    ap, success, recall, seconds, updating, moved = [], [], [], 0.0, 0.0, 0
    for share in range(len(shares)):
        rows = np.flatnonzero(steps == share)
        started = time.perf_counter()
        index.update(rows, gallery_new)
        updating += time.perf_counter() - started
        moved += len(rows)
        exact.update(rows, gallery_new)
        started = time.perf_counter()
        answers = index.search(unit, wanted)
        seconds += time.perf_counter() - started
        truth = exact.search(unit, depth)
        recall.append(
            np.mean([np.isin(a, b).mean() for a, b in zip(truth, answers[:, :depth], strict=True)])
        )
        ranks = answer_ranks(answers, relevance, depth)
        counts = relevance.relevant.counts()
        sorted_ranks = metrics.sort_within_queries(ranks, counts)
        ap.append(metrics.average_precision(sorted_ranks, counts, f"AP@{depth}")[0])
        success.append([metrics.success(sorted_ranks, counts, k)[0] for k in success_at])
    return ServedCurve(
        shares=shares,
        ap=np.array(ap),
        success=np.array(success),
        success_at=success_at,
        depth=depth,
        recall=np.array(recall),
        searches_per_s=len(unit) * len(shares) / seconds,
        latency_ms=_latency(index, unit[:timed_queries], wanted),
        updates_per_s=moved / updating if moved else float("nan"),
        bytes_per_item=index.bytes() / relevance.gallery_size,
        rebuilds=index.rebuilds,
        on_gpu=index.on_gpu,
    )


def answer_ranks(answers: Rows, relevance: Relevance, depth: int) -> Rows:
    """Rank [P, 1] of each relevant item in the answers [Q, k], junk dropped; depth + 1 if absent.

    An index may answer −1 for places it cannot fill.
    """
    ranks = np.full((len(relevance.relevant.rows), 1), depth + 1, dtype=np.int64)
    for query, answer in enumerate(answers):
        kept = answer[(answer >= 0) & ~np.isin(answer, relevance.junk[query])][:depth]
        relevant = relevance.relevant[query]
        found = np.flatnonzero(np.isin(kept, relevant))
        place = np.searchsorted(relevant, kept[found])
        ranks[relevance.relevant.offsets[query] + place, 0] = found + 1
    return ranks


def _latency(index: UpdatableIndex, queries: Embeddings, wanted: int) -> tuple[float, float]:
    """p50 and p99 of searching one query at a time, in milliseconds."""
    marks = [time.perf_counter()]
    for row in range(len(queries)):
        index.search(queries[row : row + 1], wanted)
        marks.append(time.perf_counter())
    p50, p99 = np.percentile(np.diff(marks) * 1e3, [50, 99])
    return float(p50), float(p99)


class UpdatableIndex:
    """A FAISS index by inner product whose items can be replaced under their ids 0 … N − 1."""

    def __init__(self, factory: str, gallery: NDArray[Any], parameters: str = "") -> None:
        self.size, width = gallery.shape
        self.rebuilds = 0
        empty = _make(factory, width, parameters)
        self.on_gpu = faiss.get_num_gpus() > 0 and _fits_gpu(empty)
        # FAISS cannot remove from its GPU indexes either.
        self.removes = _removes(empty) and not self.on_gpu
        if not empty.is_trained:
            empty.train(normalise(gallery, "old gallery"))
        # Kept empty and trained, to build from; a clone shares nothing with it.
        self._empty = empty
        self._current = np.array(gallery, dtype=np.float32) if not self.removes else None
        self._build(_batches(gallery, np.arange(self.size)))

    def _build(self, batches: Iterator[tuple[Rows, Embeddings]]) -> None:
        inner = faiss.clone_index(self._empty)
        if self.on_gpu:
            inner = faiss.index_cpu_to_all_gpus(inner)
        # IVF indexes keep ids themselves; all others get a table of ids.
        self.index = inner if _keeps_ids(self._empty) else faiss.IndexIDMap2(inner)
        self.tombstones = 0
        self._retired = np.zeros(self.size, dtype=bool)
        for rows, unit in batches:
            self.index.add_with_ids(unit, rows)

    def update(self, rows: Rows, gallery: NDArray[Any]) -> None:
        """Replace the vectors of the items `rows` by those of `gallery` [N, D], under their ids."""
        if not len(rows):
            return
        if self.removes:
            self.index.remove_ids(faiss.IDSelectorBatch(rows))
            for batch, unit in _batches(gallery, rows):
                self.index.add_with_ids(unit, batch)
            return
        assert self._current is not None
        for batch, unit in _batches(gallery, rows):
            self._current[batch] = unit
            # A new id names the same item, one gallery further; the old one is dropped on sight.
            self.index.add_with_ids(unit, batch + self.size)
        if self._retired[rows].any():
            self._rebuild()
        else:
            self._retired[rows] = True
            self.tombstones += len(rows)
        if self.tombstones > self.size / 2:
            self._rebuild()

    def _rebuild(self) -> None:
        assert self._current is not None
        self._build(_batches(self._current, np.arange(self.size)))
        self.rebuilds += 1

    def search(self, query: Embeddings, count: int) -> Rows:
        """Return the ids [Q, count] of the nearest items, best first, −1 where none was found."""
        if not self.tombstones:
            found: Rows = self.index.search(query, count)[1]
            return found
        # Enough neighbours that dropping tombstones rarely leaves fewer than asked for.
        live = 1 - self.tombstones / self.index.ntotal
        asked = min(self.index.ntotal, int(count / live) + 10)
        found = self.index.search(query, asked)[1]
        dead = (found < 0) | ((found < self.size) & self._retired[np.minimum(found, self.size - 1)])
        first = np.argsort(dead, axis=1, kind="stable")[:, :count]
        kept = np.where(dead, -1, found % self.size)
        return np.take_along_axis(kept, first, axis=1)

    def bytes(self) -> int:
        """Size of the index when it is written to disk, which is what it holds in memory."""
        index = faiss.index_gpu_to_cpu(self.index) if self.on_gpu else self.index
        return len(faiss.serialize_index(index))


def _make(factory: str, width: int, parameters: str) -> Any:
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        if parameters:
            space: Any = faiss.ParameterSpace()
            space.set_index_parameters(index, parameters)
    except RuntimeError as error:
        reason = str(error).split("Error: ")[-1].splitlines()[0]
        raise BenchError(
            f"FAISS cannot make an index '{factory}' of width {width} with the parameters "
            f"'{parameters}' ({reason}); expected a factory string such as 'Flat', 'HNSW32' or "
            "'IVF1024,Flat' and parameters such as 'nprobe=16'"
        ) from error
    core = _core(index)
    if isinstance(core, faiss.IndexPQ):
        # A slow annealing for Hamming distances, which no search here uses.
        core.do_polysemous_training = False  # type: ignore[attr-defined]
    return index


def _keeps_ids(index: Any) -> bool:
    return isinstance(_core(index), faiss.IndexIVF)


def _core(index: Any) -> Any:
    """The index behind a rotation or another transform of its vectors."""
    index = faiss.downcast_index(index)
    return _core(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _removes(index: Any) -> bool:
    return not isinstance(_core(index), faiss.IndexHNSW | faiss.IndexNSG)


def _fits_gpu(index: Any) -> bool:
    """Flat and IVF indexes run on GPUs; a graph stays where it is."""
    return isinstance(_core(index), faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexIVFPQ)


def _batches(gallery: NDArray[Any], rows: Rows) -> Iterator[tuple[Rows, Embeddings]]:
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        yield batch, normalise(gallery[batch], "gallery", batch)
