"""Examples of negative flips: what the worst queries found in the old and the refreshed system.

One JSON file beside each cell's records, `seed-<n>.flips.json`, with images as PNG in base64. It
is written when a cell is evaluated, while embeddings and images are at hand, and read by the
report, which needs neither.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.storage.verified import read_json, sealed_json, unusable

if TYPE_CHECKING:  # the report reads examples without torch
    from bench.evaluation.embedded import Embedded
    from bench.protocol import ImageSet, Method, RetrievalData

SCHEMA_VERSION = 1
DEPTH = 5  # results shown of each system
COUNT = 6  # queries kept of each cell


@dataclass(frozen=True)
class Hit:
    """One result: a gallery item, its picture (PNG), whether it is relevant, and its state."""

    item: str
    image: bytes
    relevant: bool
    state: Literal["old", "new"]


@dataclass(frozen=True)
class FlipExample:
    """One query that the old system answered at rank 1 and the refreshed one does not."""

    query: str
    image: bytes
    old_ap: float
    refreshed_ap: float
    old: tuple[Hit, ...]
    refreshed: tuple[Hit, ...]


@dataclass(frozen=True)
class Flips:
    """The worst queries of a cell, at the backfill share where most queries are flipped."""

    order: str
    share: float
    flipped: int
    examples: tuple[FlipExample, ...]


def worst_share(rows: pd.DataFrame, order: str) -> float:
    """Backfill share of one cell's rows at which most queries are flipped; the first of equals."""
    counts = {share: len(found) for share, found in _flipped(rows, order)}
    return max(counts, key=lambda share: (counts[share], -share))


def worst_queries(rows: pd.DataFrame, order: str, share: float) -> pd.DataFrame:
    """Queries flipped at a share, by the AP they lost: columns `query`, `old_ap`, `refreshed_ap`.

    A query is flipped when a relevant item stood first in the old system and none does now.
    """
    found = next(found for each, found in _flipped(rows, order) if each == share)
    lost = found["AP_old"] - found["AP"]
    ranked = found.assign(lost=lost).sort_values(["lost", "query"], ascending=[False, True])
    renamed = ranked.rename(columns={"AP_old": "old_ap", "AP": "refreshed_ap"})
    return renamed[["query", "old_ap", "refreshed_ap"]].reset_index(drop=True)


def _flipped(rows: pd.DataFrame, order: str) -> list[tuple[float, pd.DataFrame]]:
    old = rows.loc[rows["system"] == "old", ["query", "AP", "success_at_1"]]
    refreshed = rows[(rows["system"] == "refreshed") & (rows["order"] == order)]
    joined = refreshed.merge(old, on="query", suffixes=("", "_old"))
    lost = joined["success_at_1_old"] & ~joined["success_at_1"]
    return [(float(share), part[lost[part.index]]) for share, part in joined.groupby("share")]


def collect(
    method: Method,
    embedded: Embedded,
    deployed: Embedded,
    data: RetrievalData,
    rows: pd.DataFrame,
    order: str,
    backfill: NDArray[np.int64],
    count: int = COUNT,
) -> Flips:
    """Search again for the worst query of each class and keep what both systems show first.

    `embedded` and `deployed` are what `evaluation.rows` compares, `rows` what it returned, and
    `backfill` [N] the gallery rows in the backfill order of that name.
    """
    from bench.evaluation.backfill import backfilled_counts

    share = worst_share(rows, order)
    worst = worst_queries(rows, order, share)
    new = np.zeros(len(backfill), dtype=bool)
    new[backfill[: backfilled_counts([share], len(backfill))[0]]] = True
    ids = {query: row for row, query in enumerate(data.query.ids)}
    rows_of_worst = np.array([ids[query] for query in worst["query"]], dtype=np.int64)
    # One query of each class: queries of one class tend to fail alike.
    _, firsts = np.unique(data.query.labels[rows_of_worst], return_index=True)
    kept = worst.iloc[np.sort(firsts)[:count]]
    places = rows_of_worst[np.sort(firsts)[:count]]
    before = _old_first(embedded, data, places)
    after = _refreshed_first(method, deployed, data, places, new)
    examples = []
    for number, row in enumerate(kept.itertuples(index=False)):
        place = int(places[number])
        relevant = set(data.relevance.relevant[place].tolist())
        examples.append(
            FlipExample(
                query=str(row.query),
                image=_png(data.query, place),
                old_ap=float(row.old_ap),
                refreshed_ap=float(row.refreshed_ap),
                old=tuple(_hit(data, item, relevant, False) for item in before[number]),
                refreshed=tuple(
                    _hit(data, item, relevant, bool(new[item])) for item in after[number]
                ),
            )
        )
    return Flips(order, share, len(worst), tuple(examples))


def _old_first(embedded: Embedded, data: RetrievalData, places: NDArray[np.int64]) -> list[Any]:
    """First gallery rows of some queries in the old system."""
    from bench.evaluation.mixed import all_scores
    from bench.evaluation.scores import ranking

    return _first(
        ranking(all_scores(embedded.query_old[places], embedded.gallery_old)), data, places
    )


def _refreshed_first(
    method: Method,
    deployed: Embedded,
    data: RetrievalData,
    places: NDArray[np.int64],
    new: NDArray[np.bool_],
) -> list[Any]:
    """First gallery rows of some queries in the mixed gallery."""
    import torch

    from bench.evaluation.mixed import MixedRanking, all_scores

    mixed = MixedRanking(
        all_scores(deployed.query_old[places], deployed.gallery_old),
        all_scores(deployed.query_new[places], deployed.gallery_new),
        method.merge,
        method.purchases,
    )
    return _first(mixed.order(torch.from_numpy(new)), data, places)


def _first(ranked: Any, data: RetrievalData, places: NDArray[np.int64]) -> list[Any]:
    found = []
    for place, order in zip(places, ranked.numpy(), strict=True):
        kept = order[~np.isin(order, data.relevance.junk[int(place)])]  # self-matches do not count
        found.append(kept[:DEPTH].tolist())
    return found


def _hit(data: RetrievalData, item: int, relevant: set[int], new: bool) -> Hit:
    image = _png(data.gallery, item)
    return Hit(data.gallery.ids[item], image, item in relevant, "new" if new else "old")


def _png(images: ImageSet, row: int) -> bytes:
    from PIL import Image

    image = images.images.read([row])[0]
    stream = io.BytesIO()
    if image.ndim == 1:  # a fixed vector: there is nothing to be seen
        Image.new("L", (1, 1), "white").save(stream, format="PNG")
    else:
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------ files


def write(path: Path, flips: Flips, key: str = "") -> None:
    """Write a cell's examples, with the key of its run."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": key,
        "order": flips.order,
        "share": flips.share,
        "flipped": flips.flipped,
        "examples": [_example_to_json(example) for example in flips.examples],
    }
    path.write_text(sealed_json(content), encoding="utf-8")


def read(path: Path, key: str = "") -> Flips:
    """Read a cell's examples; raises BenchError when the file holds none of this version.

    With the key of a run they must be of that run, where the file says of which they are.
    """
    content = read_json(path)
    if key and (content.get("run") or key) != key:
        raise unusable(path, ValueError("it holds examples of another run"))
    try:
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}")
        examples = tuple(_example_from_json(each) for each in content["examples"])
        return Flips(content["order"], content["share"], content["flipped"], examples)
    except (LookupError, TypeError, ValueError) as error:
        raise BenchError(
            f"{path} holds no examples of negative flips in version {SCHEMA_VERSION} ({error}); "
            "delete it and run the cell again"
        ) from error


def _example_to_json(example: FlipExample) -> dict[str, Any]:
    return {
        "query": example.query,
        "image": _text(example.image),
        "old_ap": example.old_ap,
        "refreshed_ap": example.refreshed_ap,
        "old": [_hit_to_json(hit) for hit in example.old],
        "refreshed": [_hit_to_json(hit) for hit in example.refreshed],
    }


def _example_from_json(content: dict[str, Any]) -> FlipExample:
    return FlipExample(
        content["query"],
        base64.b64decode(content["image"], validate=True),
        float(content["old_ap"]),
        float(content["refreshed_ap"]),
        _hits_from_json(content["old"]),
        _hits_from_json(content["refreshed"]),
    )


def _hit_to_json(hit: Hit) -> dict[str, Any]:
    return {
        "item": hit.item,
        "image": _text(hit.image),
        "relevant": hit.relevant,
        "state": hit.state,
    }


def _hits_from_json(content: Sequence[dict[str, Any]]) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            hit["item"],
            base64.b64decode(hit["image"], validate=True),
            bool(hit["relevant"]),
            hit["state"],
        )
        for hit in content
    )


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()
