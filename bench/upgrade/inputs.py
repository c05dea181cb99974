"""An upgrade made elsewhere, read from files or given as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.embedding_files import (
    EmbeddingTable,
    aligned,
    numbers_of,
    read_embeddings,
    read_of_queries,
    read_order,
    read_relevance,
)
from bench.errors import BenchError
from bench.evaluation import orders
from bench.evaluation.metrics import cutoff
from bench.relevance import Ragged, Relevance
from bench.seeds import derive_seed
from bench.upgrade.bounds import Sampling
from bench.upgrade.evaluate import evaluate, silent
from bench.upgrade.identity import itself
from bench.upgrade.page import UpgradeResult
from bench.upgrade.result import Prices
from bench.upgrade.shown import read_shown
from bench.upgrade.systems import Upgrade

Source = Path | str | NDArray[Any]
DEFAULT_PAIRS = 2000
MOST_SHARES = 1001


def evaluate_upgrade(
    queries_new: Source,
    gallery_old: Source,
    gallery_new: Source,
    relevance: Path | str | Relevance | None = None,
    queries_old: Source | None = None,
    *,
    pairs_old: Source | None = None,
    pairs_new: Source | None = None,
    pairs: int = DEFAULT_PAIRS,
    bridges: Sequence[str] | None = None,
    order: str = "random",
    centres: Source | None = None,
    shares: int = 11,
    metric: str = "AP",
    further: Sequence[str] = (),
    groups: Path | str | None = None,
    weights: Path | str | None = None,
    drop_self: bool = False,
    query_table: Path | str | None = None,
    item_table: Path | str | None = None,
    id_column: str = "id",
    index: str | None = None,
    index_parameters: str = "",
    items_per_second: float | None = None,
    price_per_hour: float | None = None,
    seed: int = 0,
    report: Callable[[str], None] = silent,
) -> UpgradeResult:
    """Evaluate an upgrade with every bridge; embeddings are files or arrays [N, D].

    Bridges are fitted on `pairs_old` and `pairs_new` [P, D], of one item a row, or on a seeded
    sample of `pairs` gallery items, never on queries. `query_table` and `item_table` are CSV files
    with texts or pictures for the page, see `bench.upgrade.shown`. `report` receives each step that
    begins. Raises BenchError for files that cannot be read, rows without a direction, and whatever
    does not fit, naming it.
    """
    if not 2 <= shares <= MOST_SHARES:
        raise BenchError(f"--shares {shares}; expected 2 to {MOST_SHARES} points of the curve")
    if seed < 0:
        raise BenchError(f"--seed {seed}; expected a whole number from 0")
    if index is None and index_parameters:
        raise BenchError("--index-parameters are for an index; give one with --index")
    if index is not None and relevance is None:
        raise BenchError("--index serves for limits and metrics; give --relevance with it")
    if centres is not None and order not in orders.ORDERS:
        raise BenchError(f"--centres are for an order by prototypes, not for --order '{order}'")
    prices = Prices(items_per_second, price_per_hour)
    if (pairs_old is None) != (pairs_new is None):
        raise BenchError("--pairs-old and --pairs-new belong together; give both or neither")
    for name in (metric, *further):
        cutoff(name)

    def read(source: Source, name: str) -> EmbeddingTable:
        if isinstance(source, str | Path):
            report(f"reading {source}")
            return read_embeddings(Path(source), id_column)
        return EmbeddingTable(Path(name), source)

    old = read(gallery_old, "gallery_old")
    new = aligned(read(gallery_new, "gallery_new"), old, "gallery items")
    queries = read(queries_new, "queries_new")
    before = None
    if queries_old is not None:
        before = aligned(read(queries_old, "queries_old"), queries, "queries")
    truth = relevance
    if isinstance(truth, str | Path):
        truth = read_relevance(Path(truth), queries, old)
    same = itself(queries, new)
    truth, dropped = _without_self(queries, new, truth, same, drop_self)
    if pairs_old is not None and pairs_new is not None:
        one = read(pairs_old, "pairs_old")
        fitted = (one.rows, aligned(read(pairs_new, "pairs_new"), one, "pairs").rows)
        for part, gallery in zip(fitted, (old, new), strict=True):
            if part.shape[1] != gallery.width:
                raise BenchError(
                    f"pairs have {part.shape[1]} dimensions but {gallery.path} has "
                    f"{gallery.width}; expected pairs of the same two models"
                )
        asked = np.flatnonzero(itself(queries, EmbeddingTable(one.path, fitted[1])) >= 0)
        if len(asked):
            raise BenchError(
                f"{len(asked)} of the pairs are queries, such as '{queries.name(int(asked[0]))}'; "
                "expected other items: a bridge that is fitted on queries seems better than it is"
            )
    else:
        generator = np.random.default_rng(derive_seed("pairs", seed))
        if pairs < 2:
            raise BenchError(f"--pairs {pairs}; expected at least 2 items to fit bridges on")
        others = np.setdiff1d(np.arange(len(old)), same)
        if len(others) < 2:  # leave-one-out: every item is a query
            others = np.arange(len(old))
        rows = np.sort(generator.choice(others, min(pairs, len(others)), replace=False))
        fitted = (old.rows[rows], new.rows[rows])
    shown = read_shown(query_table, queries), read_shown(item_table, old)
    slices = None if groups is None else read_of_queries(Path(groups), "group", queries)
    upgrade = Upgrade(
        queries_new=queries,
        gallery_new=new,
        gallery_old=old,
        pairs=fitted,
        queries_old=before,
        relevance=truth,
        sampling=_sampling(slices, weights, queries, truth),
        slices=None if slices is None else tuple(slices),
        pairs_from_gallery=pairs_old is None,
        dropped=dropped,
        fitted_queries=int(np.isin(rows, same).sum()) if pairs_old is None else 0,
    )
    found = evaluate(
        upgrade,
        _order(order, old, centres if centres is None else read(centres, "centres"), seed),
        np.linspace(0, 1, shares),
        metric,
        further,
        bridges,
        order,
        seed,
        index,
        index_parameters,
        report,
    )
    return UpgradeResult(found, prices, upgrade.pairs_from_gallery, upgrade.fitted_queries, *shown)


def _without_self(
    queries: EmbeddingTable,
    gallery: EmbeddingTable,
    truth: Relevance | None,
    same: NDArray[np.int64],
    drop: bool,
) -> tuple[Relevance | None, NDArray[np.int64] | None]:
    """Drop gallery items `same` [Q] that are the query itself, or refuse them if nobody asked.

    Returns relevance in which they are junk, and the row that each query loses, −1 for none.
    """
    found = same.copy()
    if truth is not None:
        judged = [
            row in truth.junk[query] or row in truth.relevant[query]
            for query, row in enumerate(same.tolist())
        ]
        found[judged] = -1
    rows = np.flatnonzero(found >= 0)
    if not len(rows):
        return truth, None
    if not drop:
        raise BenchError(
            f"{len(rows)} queries of {queries.path} are items of {gallery.path}, such as "
            f"'{queries.name(int(rows[0]))}', and nothing judges them: each would find itself at "
            "rank 1; leave them out of the answers with --drop-self"
        )
    if truth is None:
        return None, found
    junk = [
        [*truth.junk[query], *([row] if row >= 0 else [])]
        for query, row in enumerate(found.tolist())
    ]
    return Relevance(
        truth.relevant, Ragged.from_lists(junk), truth.gallery_size, truth.gains
    ), found


def _sampling(
    slices: list[str] | None,
    weights: Path | str | None,
    queries: EmbeddingTable,
    truth: Relevance | None,
) -> Sampling:
    import pandas as pd

    group = np.arange(len(queries))
    if slices is not None:
        group = np.unique(slices, return_inverse=True)[1]
    weight = np.ones(len(queries))
    if weights is not None:
        listed = pd.DataFrame({"weight": read_of_queries(Path(weights), "weight", queries)})
        weight = numbers_of(listed, "weight", Path(weights))
        if (weight < 0).any() or not weight.sum():
            raise BenchError(f"{weights} holds weights below 0 or only zeros; expected traffic")
        weight = weight / weight.max()
        judged = np.ones(len(queries), bool) if truth is None else truth.relevant.counts() > 0
        if not weight[judged].sum() > 0:
            raise BenchError(
                f"{weights} gives a weight above 0 to none of the queries that have a relevant "
                "item; expected one at least"
            )
    return Sampling(group, weight)


def _order(
    name: str,
    gallery: EmbeddingTable,
    centres: EmbeddingTable | None,
    seed: int,
) -> NDArray[np.int64]:
    generator = np.random.default_rng(derive_seed("order", seed))
    if name in orders.ORDERS:
        known = orders.OrderInputs(
            len(gallery),
            gallery_old=gallery.rows,
            train_old=None if centres is None else centres.rows,
            train_labels=None if centres is None else np.arange(len(centres)),
        )
        return orders.order(name, known, generator)
    if not Path(name).is_file():
        raise BenchError(
            f"--order '{name}' is neither a file nor a backfill order; expected one of "
            f"{', '.join(orders.ORDERS)}, a file with one id or row number per line, or a CSV "
            "item,count or item,score"
        )
    return read_order(Path(name), gallery)
