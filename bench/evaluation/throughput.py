"""Seconds of work that is repeated, its warm-up left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import faiss

from bench.evaluation import scores
from bench.evaluation.embedded import Embeddings


def repeated(work: Callable[[], Any], repeats: int = 5, budget: float = math.inf) -> list[float]:
    """Seconds of each repetition of `work`, after one that is not counted.

    Once they have taken `budget` seconds together, no further one is begun.
    """
    work()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < budget:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


NEAREST = 100


TIMED_SECONDS = 2.0  # after which a rate is not measured once more


def rates(query: Embeddings, gallery: Embeddings, embed_rate: float) -> dict[str, float]:
    """Measure searches/s in a flat FAISS index and backfilled images/s (embed, then update).

    Medians of a few repetitions after a warm-up.
    """
    query, gallery = scores.normalise(query), scores.normalise(gallery)
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
