"""Bridges: what meets old items while a gallery is backfilled, without training a model.

Every method that declares `trains = False` is one, plug-ins included; it is fitted on pairs of old
and new embeddings of the same items, never on queries.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import BenchError, unknown
from bench.evaluation.scores import normalise
from bench.evaluation.serving import Watched
from bench.evaluation.throughput import repeated
from bench.plugins.registry import discover, method_class
from bench.protocol import (
    Context,
    Method,
    PairedEmbeddings,
    State,
    StoredEmbeddings,
    UnavailableEmbeddingError,
)
from bench.seeds import derive_seed

COLD, NAIVE = "cold switch", "naive mix"
_BLOCK = 8192
_IN_MEMORY = 1 << 28
_TIMED_ITEMS, _TIMED_QUERIES = 20_000, 50
_LABELLED = ("labels", "old_head", "old_row", "class_counts", "old_centres", "class_ids")


@dataclass(frozen=True)
class Costs:
    """What a bridge costs to serve and to fit.

    Encodings and searches are per query while the backfill lasts, `purchases` the gallery items
    that are embedded anew for each query, at most; `bytes_per_item` the most that is stored for an
    item at any moment, at four bytes a number; `milliseconds` the median time of one query in flat
    FAISS indexes of the stored vectors, without any encoding.
    """

    encodings: int
    searches: int
    bytes_per_item: int
    fit_pairs: int
    fit_seconds: float
    milliseconds: float
    purchases: int = 0

    def rank(self) -> tuple[float, ...]:
        """Order of bridges, cheapest first; of the measured time to fit, only tenfolds count."""
        tenfolds = round(math.log10(max(self.fit_seconds, 0.1)))
        encodings = self.encodings + self.purchases
        return (encodings, self.searches, self.bytes_per_item, self.fit_pairs, tenfolds)


@dataclass(frozen=True)
class Bridge:
    """What is compared in each state: queries [Q, D] and gallery [N, D], old and new."""

    name: str
    query_old: NDArray[Any]
    gallery_old: NDArray[Any]
    query_new: NDArray[Any]
    gallery_new: NDArray[Any]
    costs: Costs
    merge: Any = None

    @property
    def purchases(self) -> int:
        """Items whose new embedding each query buys."""
        return self.costs.purchases


class _Unlabelled:
    """A context or pairs of items whose classes nobody knows."""

    def __init__(self, known: Context | PairedEmbeddings) -> None:
        self._known = known

    def __getattr__(self, name: str) -> Any:
        if name in _LABELLED or name in ("class_count", "new_head"):
            raise UnavailableEmbeddingError(
                f"it reads the classes of the pairs ({name}), which nobody gave"
            )
        return getattr(self._known, name)


def names() -> list[str]:
    """Methods that train no backbone, by what they declare."""
    found = []
    for name in discover("methods"):
        try:
            trains = method_class(name).trains
        except BenchError:
            continue  # `bench check` says what is wrong with a plug-in
        if not trains:
            found.append(name)
    return found


def make_bridges(
    query_old: NDArray[Any] | None,
    gallery_old: NDArray[Any],
    query_new: NDArray[Any],
    gallery_new: NDArray[Any],
    pairs: tuple[NDArray[Any], NDArray[Any]],
    seed: int,
    chosen: Sequence[str] | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Iterator[Bridge | tuple[str, str]]:
    """Yield each bridge, or its name and why it is left out.

    `pairs` are old [P, Do] and new [P, Dn] embeddings to fit on. Raises BenchError for a name in
    `chosen` that is no bridge.
    """
    known = [NAIVE, *names()]
    for name in chosen or ():
        if name not in known:
            raise unknown("bridge", name, known)
    unit_old = None if query_old is None else normalise(query_old, "old queries")
    unit_new = normalise(query_new, "new queries")
    fitted_on = tuple(torch.from_numpy(normalise(part, "pairs")) for part in pairs)
    for name in chosen or known:
        if name == NAIVE and gallery_old.shape[1] != query_new.shape[1]:
            yield name, "old and new embeddings differ in dimension"
            continue
        try:
            report(f"fitting {name} and embedding with it")
            method = Method() if name == NAIVE else method_class(name)()
            started = time.perf_counter()
            _fit(method, fitted_on[0], fitted_on[1], derive_seed("bridge", name, seed))
            seconds = time.perf_counter() - started
            yield _deployed(
                name, method, unit_old, gallery_old, unit_new, gallery_new, len(pairs[0]), seconds
            )
        except UnavailableEmbeddingError as error:
            yield name, str(error)


def _fit(method: Method, old: torch.Tensor, new: torch.Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    none = torch.zeros(0, dtype=torch.int64)
    context: Any = _Unlabelled(
        Context(
            old_width=old.shape[1],
            new_width=new.shape[1],
            class_count=0,
            temperature=0.05,
            old_head=old.new_zeros(0, old.shape[1]),
            old_row=none,
            labels=none,
            old_embeddings=old,
        )
    )
    bank: Any = _Unlabelled(PairedEmbeddings(old, new, none, new.new_zeros(0, new.shape[1])))
    try:
        method.prepare(context)
    except BenchError as refusal:
        raise UnavailableEmbeddingError(str(refusal)) from refusal
    method.fit(bank)
    method.eval()


def _deployed(
    name: str,
    method: Method,
    query_old: NDArray[Any] | None,
    gallery_old: NDArray[Any],
    query_new: NDArray[Any],
    gallery_new: NDArray[Any],
    pairs: int,
    seconds: float,
) -> Bridge:
    with torch.inference_mode():
        asked = Watched(
            None if query_old is None else torch.from_numpy(query_old), torch.from_numpy(query_new)
        )
        before = method.query(asked, "old").numpy()
        after = method.query(asked, "new").numpy()
    stored_old = _stored(lambda view: method.gallery(view, "old"), gallery_old, "old")
    stored_new = _stored(lambda view: method.gallery(view, "new"), gallery_new, "new")
    if before.shape[1] != stored_old.shape[1]:
        raise UnavailableEmbeddingError("its queries and stored old items differ in dimension")
    one = (
        method.merge is None
        and not method.purchases
        and before.shape == after.shape
        and stored_old.shape == stored_new.shape
        and np.array_equal(before, after)
    )
    fits = method.fits(gallery_old.shape[1], gallery_new.shape[1])
    width = max(stored_old.shape[1], stored_new.shape[1])
    parts = [(after, stored_new)] if one else [(before, stored_old), (after, stored_new)]
    costs = Costs(
        encodings=max(method.query_encodings or 0, len(asked.read)),
        searches=max(method.searches or 0, 1 if one else 2),
        bytes_per_item=4 * width,
        fit_pairs=pairs if fits else 0,
        fit_seconds=seconds if fits else 0.0,
        milliseconds=sum(_milliseconds(*part) for part in parts),
        purchases=min(method.purchases, len(gallery_old)),
    )
    return Bridge(name, before, stored_old, after, stored_new, costs, method.merge)


def cold_costs(upgrade_old: NDArray[Any], upgrade_new: NDArray[Any]) -> Costs:
    """Old system until all is embedded anew: both copies are stored meanwhile."""
    width = upgrade_old.shape[1] + upgrade_new.shape[1]
    return Costs(1, 1, 4 * width, 0, 0.0, _milliseconds(upgrade_old[:_TIMED_QUERIES], upgrade_old))


def _stored(
    transform: Callable[[StoredEmbeddings], torch.Tensor], gallery: NDArray[Any], state: State
) -> NDArray[Any]:
    """What is stored for a gallery: its own array, or the transformed one, on disk if large.

    It is written once: a transformed row would else depend on the block that it is read in.
    """

    def block(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        unit = torch.from_numpy(
            normalise(gallery[start : start + _BLOCK], f"{state} gallery", start)
        )
        with torch.inference_mode():
            view = StoredEmbeddings(**{state: unit})
            return unit, transform(view)

    unit, first = block(0)
    if first is unit:
        return gallery
    shape = (len(gallery), first.shape[1])
    if 4 * shape[0] * shape[1] <= _IN_MEMORY:
        stored: NDArray[Any] = np.empty(shape, np.float32)
    else:
        stored = np.memmap(tempfile.TemporaryFile(), np.float32, "w+", 0, shape)  # noqa: SIM115
    for start in range(0, len(gallery), _BLOCK):
        stored[start : start + _BLOCK] = block(start)[1].numpy()
    return stored


def _milliseconds(query: NDArray[Any], gallery: NDArray[Any]) -> float:
    """Median milliseconds of one search among the first items of a flat index."""
    unit = normalise(query[:_TIMED_QUERIES], "queries")
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(normalise(gallery[:_TIMED_ITEMS], "gallery"))
    count = min(10, index.ntotal)

    def once() -> None:
        for row in range(len(unit)):
            index.search(unit[row : row + 1], count)

    return 1e3 * median(repeated(once, 3, 1.0)) / len(unit)
