"""Metrics on ranks and per-query arrays, under the definitions that every output shares.

Ranks count from 1, among items that are not junk. Flat arrays of ranks hold the relevant items of
query 0 first, then those of query 1 and so on; `counts` [Q] says how many each query has.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bench.errors import BenchError

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
Values = float | Array
SUCCESS_AT = (1, 5)  # the K of success@K and NFR@K


# ------------------------------------------------------------------------------- average precision


RANKED = ("AP", "nDCG", "Recall", "MRR", "P")


def cutoff(metric: str) -> int | None:
    """Return k of a metric such as "AP@k" or "nDCG@k", None for "AP" and "AP-trapezoidal".

    Raises BenchError for any other name.
    """
    if metric in ("AP", "AP-trapezoidal"):
        return None
    found = re.fullmatch(rf"(?:{'|'.join(RANKED)})@([1-9]\d{{0,8}})", metric)
    if found is None:
        raise BenchError(
            f"unknown metric '{metric}'; expected 'AP', 'AP-trapezoidal', or one with a cut: "
            f"{', '.join(f'{name}@10' for name in RANKED)}"
        )
    return int(found[1])


def per_query(ranks: Rows, counts: Rows, metric: str, gains: Array | None = None) -> Array:
    """Evaluate a metric on ranks [P, S], in the order of the relevant pairs: values [S, Q].

    `gains` [P] grade the relevant items; only nDCG reads them, without them all are 1.

    "nDCG@k": Σ gain / log2(1 + rank) up to rank k over the same sum of the best ranking, with
    linear gains as trec_eval's ndcg_cut (Järvelin and Kekäläinen, TOIS 2002). "Recall@k": relevant
    items up to rank k over all relevant items. "P@k": the same over k. "MRR@k": 1 / rank of the
    first relevant item, 0 beyond k. NaN for a query without relevant items. Raises BenchError for
    an unknown metric.
    """
    cut, name = cutoff(metric), metric.partition("@")[0]
    if name.startswith("AP"):
        return average_precision(sort_within_queries(ranks, counts), counts, metric)
    assert cut is not None
    within = ranks <= cut
    if name == "nDCG":
        graded = np.ones(len(ranks)) if gains is None else np.asarray(gains, dtype=np.float64)
        reached = _query_sums(np.where(within, graded[:, None] / np.log2(1 + ranks), 0.0), counts)
        shares: Array = reached / _ideal_gain(graded, counts, cut)
        return shares
    if name == "MRR":
        best = np.full((ranks.shape[1], len(counts)), np.nan)
        answered = counts > 0
        if answered.any():
            starts = (np.cumsum(counts) - counts)[answered]
            first = np.minimum.reduceat(ranks, starts, axis=0).T
            best[:, answered] = np.where(first <= cut, 1 / first, 0.0)
        return best
    found: Array = _query_sums(within.astype(np.float64), counts)
    return found / (cut if name == "P" else np.maximum(counts, 1))


def _query_sums(values: Array, counts: Rows) -> Array:
    """Sum values [P, S] over the relevant items of each query: [S, Q], NaN where it has none."""
    sums = np.full((values.shape[1], len(counts)), np.nan)
    answered = counts > 0
    if answered.any():
        starts = (np.cumsum(counts) - counts)[answered]
        sums[:, answered] = np.add.reduceat(values, starts, axis=0).T
    return sums


def _ideal_gain(gains: Array, counts: Rows, cut: int) -> Array:
    """Discounted gain [Q] of the best ranking up to rank `cut`."""
    query = np.repeat(np.arange(len(counts)), counts)
    best_first = np.lexsort((-gains, query))
    rank = np.arange(len(gains)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    ideal = np.where(rank <= cut, gains[best_first] / np.log2(1 + rank), 0.0)
    best: Array = _query_sums(ideal[:, None], counts)[0]
    return best


def sort_within_queries(ranks: Rows, counts: Rows) -> Rows:
    """Sort the ranks [P, S] of each query in ascending order."""
    query = np.repeat(np.arange(len(counts)), counts)[:, None]
    stride = int(ranks.max(initial=0)) + 1
    sorted_: Rows = np.sort(query * stride + ranks, axis=0) - query * stride
    return sorted_


def average_precision(ranks: Rows, counts: Rows, metric: str = "AP") -> Array:
    """Average precision [S, Q] of ranks [P, S] that ascend within each query.

    "AP": mean over the relevant items of the precision at their rank. "AP@k": the same up to rank
    k, divided by min(number relevant, k), as in the Google Landmarks v2 evaluation.
    "AP-trapezoidal": area under the precision-recall points joined by straight lines, as in the
    revisited Oxford and Paris evaluation (Radenović et al., CVPR 2018). NaN for a query without
    relevant items. Raises BenchError for an unknown metric.
    """
    cut = cutoff(metric)
    # How many relevant items stand at or before each one.
    found = (np.arange(len(ranks)) - np.repeat(np.cumsum(counts) - counts, counts) + 1)[:, None]
    gain = found / ranks
    if metric == "AP-trapezoidal":
        before = np.divide(found - 1, ranks - 1, out=np.ones(ranks.shape), where=ranks > 1)
        gain = (gain + before) / 2
    if cut is not None:
        gain = np.where(ranks <= cut, gain, 0.0)
    total = counts if cut is None else np.minimum(counts, cut)
    answered = counts > 0
    result = np.full((ranks.shape[1], len(counts)), np.nan)
    if answered.any():
        starts = (np.cumsum(counts) - counts)[answered]
        result[:, answered] = np.add.reduceat(gain, starts, axis=0).T / total[answered]
    return result


def success(ranks: Rows, counts: Rows, k: int) -> Bools:
    """Return whether the best relevant item is in the first k: [S, Q] of sorted ranks [P, S]."""
    result = np.zeros((ranks.shape[1], len(counts)), dtype=bool)
    answered = counts > 0
    best = ranks[(np.cumsum(counts) - counts)[answered]].T
    result[:, answered] = best <= k
    return result


# ------------------------------------------------------------------------------------------- flips


def negative_flip_rate(old: Bools, now: Bools) -> Array:
    """Share of all queries that were right in the old system [Q] and are wrong now [..., Q].

    The denominator is this project's definition; `relative_negative_flip_rate` has the other one.
    """
    rate: Array = (old & ~now).mean(axis=-1, dtype=np.float64)
    return rate


def relative_negative_flip_rate(old: Bools, now: Bools) -> Array:
    """Negative flips divided by the queries the old system got right; NaN where it got none."""
    flips = (old & ~now).sum(axis=-1)
    rate: Array = np.divide(
        flips, old.sum(), out=np.full(np.shape(flips), np.nan), where=bool(old.any())
    )
    return rate


def positive_flip_rate(old: Bools, now: Bools) -> Array:
    """Share of all queries that were wrong in the old system [Q] and are right now [..., Q]."""
    rate: Array = (~old & now).mean(axis=-1, dtype=np.float64)
    return rate


# ------------------------------------------------------------------------------------------ curves


def area(shares: Array, values: Array) -> Any:
    """Mean of a curve [..., S] over the shares [S] it spans, by trapezoids: AUC_mAP, AUC_NFR.

    A curve of one share has that value.
    """
    if len(shares) == 1:
        return values[..., 0]
    return np.trapezoid(values, shares, axis=-1) / (shares[-1] - shares[0])


def worst_share(shares: Array, values: Array, largest: bool = False) -> float:
    """First share with the lowest value (or with the largest one, for flip rates)."""
    return float(shares[np.argmax(values) if largest else np.argmin(values)])


def first_share_above(shares: Array, values: Array, level: float) -> float:
    """First share from which the curve stays above `level`; NaN if it ends at or below it."""
    below = np.flatnonzero(~(values > level))
    if not len(below):
        return float(shares[0])
    return float(shares[below[-1] + 1]) if below[-1] + 1 < len(shares) else float("nan")


def falling_steps(values: Array) -> int:
    """Number of steps at which the curve falls."""
    return int((np.diff(values) < 0).sum())


def cost_to_gain(shares: Array, values: Array, old: Values, part: float = 0.95) -> Any:
    """First share at which curves [..., S] reach `part` of the gain M(n,n) − M(o,o) over `old`.

    NaN where nothing is gained. Times the gallery's size it is the number of images to embed again.
    """
    gain = values[..., -1] - old
    reached = values >= np.asarray(old + part * gain)[..., None]
    return np.where(gain > 0, shares[reached.argmax(-1)], np.nan)[()]


# --------------------------------------------------------------------------------- compatibility


def compatible(new_old: float, old_old: float) -> bool:
    """M(n,o) > M(o,o), strictly: the empirical criterion of BCT (Shen et al., CVPR 2020)."""
    return new_old > old_old


def update_gain(new_old: Values, old_old: Values, reference: Values) -> Any:
    """(M(n,o) − M(o,o)) / (M(*,*) − M(o,o)) of BCT; NaN if the reference gains nothing."""
    gain = np.subtract(reference, old_old)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gain != 0, np.subtract(new_old, old_old) / gain, np.nan)[()]


def compatibility_tax(new_new: Values, reference: Values) -> Any:
    """M(*,*) − M(n,n): accuracy given up for compatibility."""
    return np.subtract(reference, new_new)


def p_up(new_new: Values, reference: Values) -> Any:
    """σ((M(n,n) − M(*,*)) / M(*,*)), σ the logistic function (AdvBCT, Pan et al., CVPR 2023)."""
    return expit(np.subtract(new_new, reference) / reference)


def p_comp(new_old: Values, old_old: Values, reference: Values) -> Any:
    """σ(update gain), σ the logistic function (AdvBCT)."""
    return expit(update_gain(new_old, old_old, reference))


def p_1(up: Values, comp: Values) -> Any:
    """Harmonic mean of P_up and P_comp (AdvBCT)."""
    return 2 * up * comp / (up + comp)


# ------------------------------------------------------------------------------------------ chains


def average_compatibility(matrix: Array) -> float:
    """AC: share of the pairs i > j with M_ij > M_jj (CoReS, Biondi et al., TPAMI 2023).

    `matrix` [T, T] holds M(query model i, gallery model j) for j ≤ i. Strict, like the criterion
    of BCT; the code of CL²R also counts equality.
    """
    later, earlier = np.tril_indices(len(matrix), -1)
    return float((matrix[later, earlier] > matrix[earlier, earlier]).mean())


def average_multimodel_accuracy(matrix: Array) -> float:
    """AM: mean of the lower triangle with its diagonal (CoReS)."""
    return float(matrix[np.tril_indices(len(matrix))].mean())


def backward_compatibility(matrix: Array) -> float:
    """BC: mean over earlier versions j of M_Tj − M_jj, T the last one.

    As in the code of CL²R (Biondi et al., ACM TOMM 2023).
    """
    return float((matrix[-1, :-1] - np.diagonal(matrix)[:-1]).mean())


def forward_compatibility(matrix: Array) -> float:
    """FC: mean over upgrades i of M_i,i−1 − M_ii, what new queries lose on the gallery before.

    As in the code of CL²R (Biondi et al., ACM TOMM 2023).
    """
    return float((np.diagonal(matrix, -1) - np.diagonal(matrix)[1:]).mean())


def chain_scalars(matrix: Array) -> dict[str, float]:
    """Summarise a compatibility matrix by AC, AM, BC and FC.

    Raises BenchError for fewer than two versions.
    """
    if len(matrix) < 2:
        raise BenchError(f"a chain of {len(matrix)} version has no upgrade; expected two or more")
    return {
        "AC": average_compatibility(matrix),
        "AM": average_multimodel_accuracy(matrix),
        "BC": backward_compatibility(matrix),
        "FC": forward_compatibility(matrix),
    }
