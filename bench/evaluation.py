"""One cell's evaluation: deployed embeddings → hot-refresh curve → per-query rows and rates."""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench import backfill, records, retrieval
from bench.protocol import Method, RetrievalData, View

Embeddings = NDArray[np.float32]
NEAREST = 100


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


def rows(
    method: Method,
    embedded: Embedded,
    deployed: Embedded,
    data: RetrievalData,
    orders: dict[str, NDArray[np.int64]],
    shares: NDArray[np.float64],
) -> pd.DataFrame:
    """Evaluate the old system, and the refreshed one at every share in each backfill order.

    `embedded` is what the models give, `deployed` what `deploy` made of it for the method.
    """
    truth = (data.relevance, data.metric, records.SUCCESS_AT)
    old = backfill.search(embedded.query_old, embedded.gallery_old, *truth)
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


def rates(query: Embeddings, gallery: Embeddings, embed_rate: float) -> dict[str, float]:
    """Measure searches/s in a flat FAISS index and backfilled images/s (embed, then update)."""
    query, gallery = retrieval.normalise(query), retrieval.normalise(gallery)
    index = faiss.IndexFlatIP(gallery.shape[1])
    started = time.perf_counter()
    index.add(gallery)
    update_seconds = time.perf_counter() - started
    nearest = min(NEAREST, len(gallery))
    index.search(query[: len(query) // 10 + 1], nearest)  # warm-up
    started = time.perf_counter()
    index.search(query, nearest)
    return {
        "search_queries_per_s": len(query) / (time.perf_counter() - started),
        "backfill_images_per_s": len(gallery) / (len(gallery) / embed_rate + update_seconds),
    }


def _tensor(array: Embeddings) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
