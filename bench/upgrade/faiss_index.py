"""A FAISS index whose items are replaced in place while a gallery is backfilled.

Old and new embeddings of one width share one index and one id per item. Index types differ in what
they can do to an item that is backfilled:

- `Flat` and `IVF…` indexes remove the old vector and add the new one under the same id;
- graph indexes such as `HNSW32`, and all indexes on a GPU, cannot remove: the old vector stays as a
  tombstone under a retired id, searches ask for more neighbours and drop it, and once tombstones
  exceed half the gallery the index is built anew.

An index that is trained (`IVF`, `PQ`) is trained on the old gallery, as a deployed one would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.evaluation.scores import normalise
from bench.relevance import Relevance

Embeddings = NDArray[np.float32]
Rows = NDArray[np.int64]
_BATCH = 10_000


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


class UpdatableIndex:
    """A FAISS index by inner product whose items can be replaced under their ids 0 … N − 1."""

    def __init__(
        self,
        factory: str,
        gallery: NDArray[Any],
        parameters: str = "",
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        """Train on a gallery [N, D] and hold its items, or those of `keep` [N]; others come later.

        Raises BenchError where FAISS knows no such index or cannot train it on so few items.
        """
        self.size, width = gallery.shape
        self.rebuilds = 0
        empty = _make(factory, width, parameters)
        self.on_gpu = faiss.get_num_gpus() > 0 and _fits_gpu(empty)
        # FAISS cannot remove from its GPU indexes either.
        self.removes = _removes(empty) and not self.on_gpu
        self.trained = not empty.is_trained
        if self.trained:
            _train(empty, factory, gallery)
        # Kept empty and trained, to build from; a clone shares nothing with it.
        self._empty = empty
        self._current = np.array(gallery, dtype=np.float32) if not self.removes else None
        rows = np.arange(self.size) if keep is None else np.flatnonzero(keep)
        self._build(_batches(gallery, rows))

    def _build(self, batches: Iterator[tuple[Rows, Embeddings]]) -> None:
        inner = faiss.clone_index(self._empty)
        if self.on_gpu:
            inner = faiss.index_cpu_to_all_gpus(inner)
        # IVF indexes keep ids themselves, but no replicas on several GPUs do; all others, too, get
        # a table of ids.
        keeps = _keeps_ids(self._empty) and not isinstance(
            faiss.downcast_index(inner), faiss.IndexReplicas | faiss.IndexShards
        )
        self.index = inner if keeps else faiss.IndexIDMap2(inner)
        self.tombstones = 0
        self._retired = np.zeros(self.size, dtype=bool)
        for rows, unit in batches:
            self.index.add_with_ids(unit, rows)

    def add(self, rows: Rows, gallery: NDArray[Any]) -> None:
        """Add items that it does not hold yet."""
        for batch, unit in _batches(gallery, rows):
            self.index.add_with_ids(unit, batch)

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

    def search_scores(self, query: Embeddings, count: int) -> tuple[Embeddings, Rows]:
        """Scores and ids [Q, count] of the nearest items of an index that was never updated."""
        scores, rows = self.index.search(query, count)
        return scores, rows

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


def _train(index: Any, factory: str, gallery: NDArray[Any]) -> None:
    try:
        index.train(normalise(gallery, "old gallery"))
    except RuntimeError as error:
        reason = str(error).split("Error: ")[-1].splitlines()[0]
        raise BenchError(
            f"FAISS cannot train an index '{factory}' on {len(gallery):,} items ({reason}); "
            "expected at least as many items as it has cells, better 40 times as many"
        ) from error


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
