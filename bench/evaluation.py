"""One cell's evaluation: deployed embeddings → hot-refresh curve → per-query rows and rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench import backfill, records, retrieval
from bench.protocol import Method, RetrievalData, View
from bench.timing import repeated

Embeddings = NDArray[np.float32]
NEAREST = 100
TIMED_SECONDS = 2.0  # after which a rate is not measured once more


@dataclass(frozen=True)
class Embedded:
    """Unit embeddings of queries [Q, D] and gallery [N, D] under the old and the new model."""

    query_old: Embeddings
    gallery_old: Embeddings
    query_new: Embeddings
    gallery_new: Embeddings


def deploy(method: Method, embedded: Embedded) -> Embedded:
    """Ask a method what is compared in each state, showing it only what is stored then.

    In the result, `query_old` and `gallery_old` are what meets for items not yet backfilled.
    """
    with torch.inference_mode():
        queries = View(old=_tensor(embedded.query_old), new=_tensor(embedded.query_new))
        before, after = (
            View(old=_tensor(embedded.gallery_old)),
            View(new=_tensor(embedded.gallery_new)),
        )
        return Embedded(
            query_old=method.query(queries, "old").cpu().numpy(),
            gallery_old=method.gallery(before, "old").cpu().numpy(),
            query_new=method.query(queries, "new").cpu().numpy(),
            gallery_new=method.gallery(after, "new").cpu().numpy(),
        )


def search_old(embedded: Embedded, data: RetrievalData) -> backfill.Curve:
    """Evaluate the old system: what every method that replaces it is compared with."""
    return backfill.search(
        embedded.query_old,
        embedded.gallery_old,
        data.relevance,
        data.metric,
        records.SUCCESS_AT,
    )


def rows(
    method: Method,
    old: backfill.Curve,
    deployed: Embedded,
    data: RetrievalData,
    orders: dict[str, NDArray[np.int64]],
    shares: NDArray[np.float64],
) -> pd.DataFrame:
    """Evaluate the refreshed system at every share in each backfill order, beside the old one.

    `old` is what `search_old` found, `deployed` what `deploy` made of the embeddings.
    """
    ids = np.array(data.query.ids)
    frames = [records.frame(ids, np.array([np.nan]), old.ap, old.success, "old")]
    for name, order in orders.items():
        refreshed = backfill.hot_refresh(
            deployed.query_new,
            deployed.gallery_new,
            deployed.query_old,
            deployed.gallery_old,
            data.relevance,
            order,
            shares,
            data.metric,
            records.SUCCESS_AT,
            method.merge,
        )
        frames.append(
            records.frame(ids, refreshed.shares, refreshed.ap, refreshed.success, "refreshed", name)
        )
    return pd.concat(frames, ignore_index=True)


def on_first(
    method_before: Method, method: Method, before: Embedded, embedded: Embedded, data: RetrievalData
) -> pd.DataFrame:
    """Search a gallery that was never backfilled, by each of three generations of queries.

    `before` is the upgrade from the first to the old model, `embedded` that from the old to the
    new one. What the old system compared for items of the first generation is, to the method that
    replaces it, what is stored for them.
    """
    old_on_first = deploy(method_before, before)
    new_on_first = deploy(
        method,
        replace(embedded, query_old=old_on_first.query_old, gallery_old=old_on_first.gallery_old),
    )
    ids, frames = np.array(data.query.ids), []
    for system, pair in zip(records.ON_FIRST, (before, old_on_first, new_on_first), strict=True):
        found = search_old(pair, data)
        frames.append(records.frame(ids, np.array([np.nan]), found.ap, found.success, system))
    return pd.concat(frames, ignore_index=True)


def rates(query: Embeddings, gallery: Embeddings, embed_rate: float) -> dict[str, float]:
    """Measure searches/s in a flat FAISS index and backfilled images/s (embed, then update).

    Medians of a few repetitions after a warm-up.
    """
    query, gallery = retrieval.normalise(query), retrieval.normalise(gallery)
    index = faiss.IndexFlatIP(gallery.shape[1])
    nearest = min(NEAREST, len(gallery))

    def update() -> None:
        index.reset()
        index.add(gallery)

    updating = median(repeated(update, budget=TIMED_SECONDS))
    searching = median(repeated(lambda: index.search(query, nearest), budget=TIMED_SECONDS))
    return {
        "search_queries_per_s": len(query) / searching,
        "backfill_images_per_s": len(gallery) / (len(gallery) / embed_rate + updating),
    }


def _tensor(array: Embeddings) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
