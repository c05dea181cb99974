"""One cell's evaluation: deployed embeddings → hot-refresh curve → per-query rows and rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.evaluation import backfill, flips, orders, records
from bench.evaluation.embedded import Embedded, deploy, uncertainty
from bench.evaluation.metrics import SUCCESS_AT
from bench.evaluation.oracles import Hindsight
from bench.protocol import Method, RetrievalData
from bench.seeds import derive_seed


def evaluate(
    method: Method,
    embedded: Embedded,
    old: backfill.Curve,
    data: RetrievalData,
    inputs: orders.OrderInputs,
    names: Sequence[str],
    shares: int,
    seed: int,
) -> tuple[pd.DataFrame, flips.Flips]:
    """Walk the backfill of one run in every order; return per-query rows and examples of flips.

    `old` is what `search_old` found, `inputs` what backfill orders may read, `names` the orders,
    `shares` the number of evenly spaced backfill shares; `seed` decides the random order.
    """
    deployed = deploy(method, embedded)
    steps = np.linspace(0, 1, shares)
    inputs = replace(
        inputs,
        hindsight=Hindsight(
            deployed.query_new,
            deployed.gallery_new,
            deployed.query_old,
            deployed.gallery_old,
            data.relevance,
            steps,
            data.metric,
            method.merge,
            old.success[0, 0],
            method.purchases,
        ),
    )
    if orders.read(names, "method_uncertainty"):
        inputs = replace(inputs, method_uncertainty=uncertainty(method, embedded.gallery_old))
    walked = {
        name: orders.order(name, inputs, np.random.default_rng(derive_seed("order", seed)))
        for name in names
    }
    found = rows(method, old, deployed, data, walked, steps)
    name, order = next(iter(walked.items()))
    return found, flips.collect(method, embedded, deployed, data, found, name, order)


def search_old(embedded: Embedded, data: RetrievalData) -> backfill.Curve:
    """Evaluate the old system: what every method that replaces it is compared with."""
    return backfill.search(
        embedded.query_old,
        embedded.gallery_old,
        data.relevance,
        data.metric,
        SUCCESS_AT,
    )


def rows(
    method: Method,
    old: backfill.Curve,
    deployed: Embedded,
    data: RetrievalData,
    walked: dict[str, NDArray[np.int64]],
    shares: NDArray[np.float64],
) -> pd.DataFrame:
    """Evaluate the refreshed system at every share in each backfill order, beside the old one.

    `walked` holds gallery rows [N] by the name of the order, `old` is what `search_old` found, and
    `deployed` what `deploy` made of the embeddings.
    """
    ids = np.array(data.query.ids)
    frames = [
        records.frame(ids, np.array([np.nan]), old.ap, old.success, "old", groups=data.groups)
    ]
    for name, order in walked.items():
        refreshed = backfill.hot_refresh(
            deployed.query_new,
            deployed.gallery_new,
            deployed.query_old,
            deployed.gallery_old,
            data.relevance,
            order,
            shares,
            data.metric,
            SUCCESS_AT,
            method.merge,
            purchases=method.purchases,
        )
        frames.append(
            records.frame(
                ids,
                refreshed.shares,
                refreshed.ap,
                refreshed.success,
                "refreshed",
                name,
                data.groups,
                refreshed.purchases,
            )
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
        frames.append(
            records.frame(
                ids, np.array([np.nan]), found.ap, found.success, system, groups=data.groups
            )
        )
    return pd.concat(frames, ignore_index=True)
