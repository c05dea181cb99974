"""Bridges as a FAISS index serves them during the backfill, against the served old system.

A bridge whose old and new vectors meet one query shares one index, updated in place; others keep
an index of each part and merge the two lists of answers by score. An index that is trained is
trained on the old vectors, as a deployed one is; the same backfill is then walked again with the
index trained and built anew at every share, to tell what retraining brings.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.evaluation import metrics
from bench.evaluation.metrics import SUCCESS_AT
from bench.evaluation.scores import exact_scores, normalise
from bench.execution.limits import end_with_parent
from bench.execution.resources import free_memory
from bench.relevance import Relevance
from bench.upgrade.bridges import Bridge
from bench.upgrade.faiss_index import UpdatableIndex, answer_ranks
from bench.upgrade.systems import Upgrade

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
DEPTH = 100
_PROBED, _PROBE_SECONDS = 20_000, 300
# A graph keeps room for twice its links, of every item, whether they are ever drawn or not.
_GRAPH, _MOST_LINKS = re.compile(r"(?:HNSW|NSG|NNDescent)(\d+)"), 1024
_TIMED = 100
_LOST = 0.02  # share of answers that a replacement of vectors by themselves may change
_BELOW = 4.0  # puts a cosine below all others
_CHANGED = 1e-3  # difference of two scores that is not rounding


@dataclass(frozen=True)
class Served:
    """What users of a served index see: the metric [S, Q], success [S, K, Q], recall [S].

    `old_values` [Q] and `old_success` [Q] are those of the served old system; `retrained` the same
    with an index trained anew at every share, where it is trained at all. Times and
    `bytes_per_item` are the most at any share, tombstones included; `bytes_at_start` is what an
    index without any takes.
    """

    factory: str
    values: Array
    success: NDArray[np.bool_]
    recall: Array
    p50_ms: float
    p99_ms: float
    bytes_per_item: float
    bytes_at_start: float
    rebuilds: int
    updates: str
    old_values: Array | None = None
    old_success: NDArray[np.bool_] | None = None
    retrained: Served | None = None


@dataclass(frozen=True)
class Probe:
    """What a FAISS index type can do, found out in a process of its own."""

    trained: bool
    in_place: bool
    note: str


def serve(
    factory: str,
    parameters: str,
    bridge: Bridge,
    upgrade: Upgrade,
    relevance: Relevance,
    steps: Rows,
    shares: Array,
    metric: str,
) -> Served:
    """Walk the backfill of one bridge through the FAISS index `factory`.

    Raises BenchError for an index that FAISS refuses or dies of.
    """
    probed = probe(factory, parameters, upgrade.gallery_old.rows)
    walk = _Walk(factory, parameters, bridge, relevance, steps, shares, metric)
    found = walk.run(rebuild=not probed.in_place, retrain=False)
    found = replace(found, updates=probed.note)
    if upgrade.queries_old is not None:
        old, success = walk.old_system(upgrade.queries_old.rows, upgrade.gallery_old.rows)
        found = replace(found, old_values=old, old_success=success)
    if probed.trained:
        again = walk.run(rebuild=True, retrain=True)
        again = replace(again, old_values=found.old_values, old_success=found.old_success)
        found = replace(found, retrained=again)
    return found


class _Walk:
    """One bridge, one index type, one backfill."""

    def __init__(
        self,
        factory: str,
        parameters: str,
        bridge: Bridge,
        relevance: Relevance,
        steps: Rows,
        shares: Array,
        metric: str,
    ) -> None:
        self.factory, self.parameters, self.bridge = factory, parameters, bridge
        self.relevance, self.steps, self.count = relevance, steps, len(shares)
        cut = metrics.cutoff(metric)
        self.depth = min(relevance.gallery_size, max(DEPTH, cut or 0))
        self.metric = f"AP@{self.depth}" if cut is None else metric
        self.wanted = self.depth + int(relevance.junk.counts().max(initial=0))
        self.chosen = relevance.relevant.counts() > 0
        self.before = normalise(bridge.query_old, "queries")
        self.after = normalise(bridge.query_new, "queries")
        self.one = bridge.costs.searches == 1 and bridge.merge is None and not bridge.purchases

    def old_system(
        self, queries: NDArray[Any], gallery: NDArray[Any]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Metric [Q] and success at 1 [Q] of the old queries on the served old gallery."""
        index = UpdatableIndex(self.factory, gallery, self.parameters)
        values, success = self._judged(index.search(normalise(queries, "queries"), self.wanted))
        return values, success[0]

    def run(self, rebuild: bool, retrain: bool) -> Served:
        """Serve at every share; `rebuild` builds indexes anew instead of updating them."""
        values, success, recall, rebuilds, sizes, times = [], [], [], 0, [], []
        parts: list[UpdatableIndex] = []
        for share in range(self.count):
            moved = np.flatnonzero(self.steps == share)
            if not parts or rebuild or not self.one:
                parts = self._build(share, retrain)
                rebuilds += share > 0
            elif len(moved):
                parts[0].update(moved, self.bridge.gallery_new)
            answers = self._search(parts, self.before, self.after, self.wanted)
            found, right = self._judged(answers)
            values.append(found)
            success.append(right)
            recall.append(self._recall(answers, share))
            sizes.append(sum(part.bytes() for part in parts) / self.relevance.gallery_size)
            times.append(self._latency(parts))
        rebuilds += sum(part.rebuilds for part in parts)
        p50, p99 = np.max(times, axis=0).tolist()
        return Served(
            self.factory,
            np.array(values),
            np.array(success),
            np.array(recall),
            p50,
            p99,
            max(sizes),
            sizes[0],
            rebuilds,
            "",
        )

    def _build(self, share: int, retrain: bool) -> list[UpdatableIndex]:
        """Indexes of what is stored at a share."""
        new = self.steps <= share
        old_gallery, new_gallery = self.bridge.gallery_old, self.bridge.gallery_new
        if self.one:
            mixed = np.array(old_gallery, dtype=np.float32)
            if retrain:
                mixed[new] = normalise(new_gallery[new], "new gallery")
                return [UpdatableIndex(self.factory, mixed, self.parameters)]
            index = UpdatableIndex(self.factory, mixed, self.parameters, keep=~new)
            index.add(np.flatnonzero(new), new_gallery)
            return [index]
        # The part of the new items has an index of its own, trained on the new vectors.
        return [
            UpdatableIndex(self.factory, gallery, self.parameters, keep=held)
            for gallery, held in ((old_gallery, ~new), (new_gallery, new))
        ]

    def _search(self, parts: list[UpdatableIndex], before: Any, after: Any, count: int) -> Rows:
        """Answers [Q, count] of one index, or of two merged by score; −1 fills up."""
        if len(parts) == 1:
            return parts[0].search(after, count)
        wanted = min(count + self.bridge.purchases, self.relevance.gallery_size)
        found = [
            part.search_scores(q, wanted) for part, q in zip(parts, (before, after), strict=True)
        ]
        scores = [torch.from_numpy(each[0].astype(np.float64)) for each in found]
        if self.bridge.merge is not None:
            scores = list(self.bridge.merge(*scores))
        if self.bridge.purchases:
            scores[0] = self._bought(after, found[0][1], scores[0])
        rows = np.concatenate([each[1] for each in found], axis=1)
        joined = np.where(rows < 0, -np.inf, torch.cat(scores, 1).numpy())
        order = np.lexsort((rows, -joined), axis=1)[:, :count]
        answers: Rows = np.take_along_axis(rows, order, axis=1)
        return answers

    def _bought(self, query: Any, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        """New scores of the answers that are bought; all others below any cosine."""
        bought = np.maximum(rows[:, : self.bridge.purchases], 0)
        of = torch.arange(len(rows)).repeat_interleave(bought.shape[1])
        exact = exact_scores(
            torch.from_numpy(query), self.bridge.gallery_new, of, torch.from_numpy(bought.ravel())
        )
        below = scores - _BELOW
        below[:, : bought.shape[1]] = exact.view(bought.shape)
        return below

    def _judged(self, answers: Rows) -> tuple[Array, NDArray[np.bool_]]:
        counts = self.relevance.relevant.counts()
        ranks = answer_ranks(answers, self.relevance, self.depth)
        values = metrics.per_query(ranks, counts, self.metric, self.relevance.gains)[0]
        ordered = metrics.sort_within_queries(ranks, counts)
        right = np.stack([metrics.success(ordered, counts, k)[0] for k in SUCCESS_AT])
        return values[self.chosen], right[:, self.chosen]

    def _recall(self, answers: Rows, share: int) -> float:
        """Share of the exact first answers that the index finds."""
        new = self.steps <= share
        flat = [
            UpdatableIndex("Flat", gallery, keep=held)
            for gallery, held in (
                (self.bridge.gallery_old, ~new),
                (self.bridge.gallery_new, new),
            )
        ]
        truth = self._search(flat, self.before, self.after, self.depth)
        pairs = zip(truth, answers[:, : self.depth], strict=True)
        return float(np.mean([np.isin(a[a >= 0], b).mean() for a, b in pairs]))

    def _latency(self, parts: list[UpdatableIndex]) -> tuple[float, float]:
        """p50 and p99 in milliseconds of one query at a time."""
        marks = []
        for row in range(min(_TIMED, len(self.after))):
            started = time.perf_counter()
            query = slice(row, row + 1)
            self._search(parts, self.before[query], self.after[query], self.wanted)
            marks.append(1e3 * (time.perf_counter() - started))
        p50, p99 = np.percentile(marks, [50, 99])
        return float(p50), float(p99)


# ------------------------------------------------------------------------------------------ probes


def probe(factory: str, parameters: str, gallery: NDArray[Any]) -> Probe:
    """Build the index and replace its vectors by themselves, in a process that may die of it.

    Raises BenchError with what FAISS says, and where it dies or hangs.
    """
    if not (factory + parameters).isprintable():
        raise BenchError(
            f"the index {factory!r} with {parameters!r} holds signs that FAISS cannot read"
        )
    if any(int(links[:9]) > _MOST_LINKS for links in _GRAPH.findall(factory)):
        raise BenchError(
            f"the index '{factory}' keeps more than {_MOST_LINKS} links of every item; expected a "
            "graph such as 'HNSW32'"
        )
    return _probe(factory, parameters, _Sample(gallery))


class _Sample:
    """The first rows of a gallery; one gallery is probed once."""

    def __init__(self, gallery: NDArray[Any]) -> None:
        self.gallery = gallery

    def __hash__(self) -> int:
        return id(self.gallery)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sample) and other.gallery is self.gallery


@cache
def _probe(factory: str, parameters: str, sample: _Sample) -> Probe:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.npy"
        np.save(path, normalise(sample.gallery[:_PROBED], "old gallery"))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.upgrade.served", str(path), factory, parameters],
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"FAISS did not build an index '{factory}' of {len(sample.gallery[:_PROBED])} "
                f"items in {_PROBE_SECONDS} s; expected a type that suits the gallery"
            ) from error
    answer = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not answer[0].startswith("{"):
        raise BenchError(
            f"FAISS dies of the index '{factory}' with the parameters '{parameters}' (exit status "
            f"{done.returncode}); expected a type such as 'Flat', 'HNSW32' or 'IVF1024,Flat'"
        )
    told = json.loads(answer[0])
    if "refused" in told:
        raise BenchError(told["refused"])
    return Probe(**told)


def _try_out(path: str, factory: str, parameters: str) -> dict[str, Any]:
    """Measure how an index fares whose vectors are replaced by themselves, a half at a time."""
    gallery = np.load(path)
    query = gallery[: min(200, len(gallery))]
    count = min(10, len(gallery))
    try:
        index = UpdatableIndex(factory, gallery, parameters)
        trained, removes, first = index.trained, index.removes, index.index.search(query, count)[0]
    except BenchError as error:
        return {"refused": str(error)}
    except (RuntimeError, MemoryError) as error:
        reason = "it needs more memory than is free" if isinstance(error, MemoryError) else error
        return {
            "refused": f"FAISS cannot use an index '{factory}' with the parameters '{parameters}' "
            f"({str(reason).split('Error: ')[-1].splitlines()[0]}); expected a type such as "
            "'Flat', 'HNSW32' or 'IVF1024,Flat'"
        }
    try:
        for half in np.array_split(np.random.default_rng(0).permutation(len(gallery)), 2):
            index.update(np.sort(half), gallery)
    except RuntimeError:
        note = "cannot be updated in place: rebuilt at every share"
        return {"trained": trained, "in_place": False, "note": note}
    # The same vectors have the same best scores, whichever of equal ones comes first.
    changed = float((np.abs(index.index.search(query, count)[0] - first) > _CHANGED).mean())
    if removes and changed > _LOST:
        note = (
            f"loses vectors when they are replaced by themselves ({changed:.0%} of the first "
            f"{count} answers change): rebuilt at every share"
        )
        return {"trained": trained, "in_place": False, "note": note}
    note = "updated in place" if removes else "tombstones until a rebuild"
    return {"trained": trained, "in_place": True, "note": note}


if __name__ == "__main__":
    end_with_parent()
    # What asks for more is refused by name, instead of taking the machine's memory from others.
    resource.setrlimit(resource.RLIMIT_DATA, (free_memory(), resource.RLIM_INFINITY))
    sys.stdout.write(json.dumps(_try_out(*sys.argv[1:4])))
