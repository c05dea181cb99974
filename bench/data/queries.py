"""Which of the searched images ask, and which answers are right.

Where no published protocol says it, a share of each class's images asks and is not searched: a
gallery that holds the queries tells an order of backfilling, or a method, what will be asked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from bench.relevance import Relevance
from bench.settings import Settings

Rows = NDArray[np.int64]
THIRD = 1 / 3


def _share(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "gallery" or (number and 0 < value < 1):
        return value if isinstance(value, str) else float(value)
    raise ValueError("expected a share above 0 and below 1, or 'gallery'")


Queries = Annotated[float | Literal["gallery"], BeforeValidator(_share)]


class QuerySettings(Settings):
    """The option of datasets that do not say which of their images ask."""

    queries: Queries = Field(
        THIRD,
        description="share of each searched class's images that ask and are not searched; "
        "gallery: every image asks for the others",
    )


def split_queries(
    labels: Rows, names: Sequence[str], queries: Queries, cameras: Rows | None = None
) -> tuple[Rows, Rows]:
    """Choose the rows that ask and the rows that are searched, both ascending.

    `labels` [N], and `cameras` [N] where the right answer is seen by another one. The hashes of
    `names` [N] choose, whatever the seed of a training is. Each class asks with at least one image,
    and each query keeps a right answer in the gallery, wherever its class has one to give.
    """
    every = np.arange(len(labels))
    if queries == "gallery":
        return every, every
    views = every if cameras is None else cameras
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    asking: list[int] = []
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=hashes.__getitem__)
        wanted = max(1, int(queries * len(rows) + 0.5))
        asking += _answered(rows, views, wanted) or rows[:1]
    query = np.sort(np.array(asking, np.int64))
    return query, np.setdiff1d(every, query)


def _answered(rows: list[int], views: Rows, wanted: int) -> list[int]:
    """Take up to `wanted` of a class's rows, so that for each one in another view is left."""
    left = Counter(views[rows].tolist())
    taken: list[int] = []
    for row in rows:
        view = int(views[row])
        if len(left) <= 2:
            others = set(left) - ({view} if left[view] == 1 else set())
            # Of two views that are left, one is not the query's own, whichever query it is.
            if len(others) < 2 and not (others and others.isdisjoint(views[[*taken, row]])):
                continue
        taken.append(row)
        left[view] -= 1
        if not left[view]:
            del left[view]
        if len(taken) == wanted:
            break
    return taken


def judge(labels: Rows, query: Rows, gallery: Rows, cameras: Rows | None = None) -> Relevance:
    """Relevant = same label, seen by another camera where there are `cameras`.

    `query` [Q] and `gallery` [G] are rows of `labels` [N]. The query itself is junk, and so are the
    images of its class that its own camera took.
    """
    place = np.full(len(labels), -1)
    place[gallery] = np.arange(len(gallery))
    junk = [own[own >= 0] for own in place[query][:, None]]
    if cameras is not None:
        same = same_class_and_camera(
            labels[query], cameras[query], labels[gallery], cameras[gallery]
        )
        junk = [np.concatenate(both) for both in zip(junk, same, strict=True)]
    return Relevance.from_labels(labels[query], labels[gallery], junk)


def same_class_and_camera(
    query_labels: Rows, query_cameras: Rows, gallery_labels: Rows, gallery_cameras: Rows
) -> list[Rows]:
    """Rows of the gallery that show a query's class in the query's own camera, for each query."""
    cameras = 1 + int(max(query_cameras.max(initial=0), gallery_cameras.max(initial=0)))
    scene = gallery_labels * cameras + gallery_cameras
    order = np.argsort(scene, kind="stable")
    wanted = query_labels * cameras + query_cameras
    first, last = (np.searchsorted(scene[order], wanted, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(first, last, strict=True)]
