"""Evaluation of an upgrade from embeddings alone: what a hot refresh would do to its users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from bench import metrics
from bench.backfill import Curve, backfill_steps, hot_refresh, search
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.retrieval import exact_scores, normalise, unit_rows
from bench.stats import hierarchical_interval
from bench.vectors import Vectors

Array = NDArray[np.float64]
SLOTS = 10
_SLOT_SHARES = 11
_SAMPLED_PAIRS = 20_000
_BLOCK = 4096


@dataclass(frozen=True)
class Upgrade:
    """Embeddings of the same queries and gallery under the new model and, if at hand, the old."""

    queries_new: Vectors
    gallery_new: Vectors
    gallery_old: Vectors
    queries_old: Vectors | None = None

    def __post_init__(self) -> None:
        """Raise BenchError, naming both files, where widths do not fit."""
        pairs = [(self.queries_new, self.gallery_new), (self.queries_new, self.gallery_old)]
        if self.queries_old is not None:
            pairs.append((self.queries_old, self.gallery_old))
        for queries, gallery in pairs:
            if queries.width != gallery.width:
                raise BenchError(
                    f"{queries.path} has width {queries.width} but {gallery.path} has width "
                    f"{gallery.width}: they are compared during the refresh; expected equal "
                    "widths, embed with a compatible model or project one to the other's width"
                )


def evaluate(
    upgrade: Upgrade,
    relevance: Relevance,
    order: NDArray[np.int64],
    shares: Array,
    metric: str,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Walk the backfill and return curves, scalars, intervals and flipped queries, ready for JSON.

    What needs the old system is None without the old queries.
    """
    curve = hot_refresh(
        upgrade.queries_new.rows,
        upgrade.gallery_new.rows,
        upgrade.queries_new.rows,
        upgrade.gallery_old.rows,
        relevance,
        order,
        shares,
        metric,
    )
    evaluated = curve.evaluated
    mean = curve.ap[:, evaluated].mean(1)
    found: dict[str, Any] = {
        "metric": metric,
        "queries": len(evaluated),
        "queries_evaluated": int(evaluated.sum()),
        "gallery": len(upgrade.gallery_old),
        "widths": {"old": upgrade.gallery_old.width, "new": upgrade.gallery_new.width},
        "shares": shares,
        "mAP": mean,
        "AUC_mAP": metrics.area(shares, mean),
        "M_old_old": None,
        "M_new_old": _mean_ap(upgrade.queries_new, upgrade.gallery_old, relevance, metric),
        "M_old_new": None,
        "M_new_new": _mean_ap(upgrade.queries_new, upgrade.gallery_new, relevance, metric),
        "worst_share_mAP": metrics.worst_share(shares, mean),
        "falling_steps": metrics.falling_steps(mean),
        **_slots(upgrade, backfill_steps(order, shares), shares),
        **_score_shift(upgrade, relevance, generator),
    }
    if upgrade.queries_old is not None:
        found |= _against_old(upgrade, upgrade.queries_old, relevance, curve, metric, generator)
    plain: dict[str, Any] = _plain(found)
    return plain


def _mean_ap(queries: Vectors, gallery: Vectors, relevance: Relevance, metric: str) -> float:
    return float(np.nanmean(search(queries.rows, gallery.rows, relevance, metric).ap))


def _against_old(
    upgrade: Upgrade,
    queries_old: Vectors,
    relevance: Relevance,
    curve: Curve,
    metric: str,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Flips, gains and intervals against old queries on the old gallery."""
    old = search(queries_old.rows, upgrade.gallery_old.rows, relevance, metric)
    evaluated, shares = curve.evaluated, curve.shares
    old_ap, ap = old.ap[0, evaluated], curve.ap[:, evaluated]
    before, mean = float(old_ap.mean()), ap.mean(1)
    found: dict[str, Any] = {
        "M_old_old": before,
        "compatible": metrics.compatible(float(mean[0]), before) if shares[0] == 0 else None,
        "first_share_above_old": metrics.first_share_above(shares, mean, before),
        "share_of_95_percent_gain": metrics.cost_to_gain(shares, mean, before),
    }
    if queries_old.width == upgrade.gallery_new.width:
        found["M_old_new"] = _mean_ap(queries_old, upgrade.gallery_new, relevance, metric)
    for position, k in enumerate(curve.success_at):
        right = old.success[0, position, evaluated]
        now = curve.success[:, position][:, evaluated]
        negative = metrics.negative_flip_rate(right, now)
        found |= {
            f"NFR_at_{k}": negative,
            f"relative_NFR_at_{k}": metrics.relative_negative_flip_rate(right, now),
            f"PFR_at_{k}": metrics.positive_flip_rate(right, now),
            f"AUC_NFR_at_{k}": metrics.area(shares, negative),
            f"worst_share_NFR_at_{k}": metrics.worst_share(shares, negative, largest=True),
        }
    flips = old.success[:, 0, evaluated] & ~curve.success[:, 0][:, evaluated]
    names = [upgrade.queries_new.name(row) for row in np.flatnonzero(evaluated).tolist()]
    found["flipped_queries"] = [
        {"query": names[query], "wrong_at_shares": shares[flips[:, query]]}
        for query in np.flatnonzero(flips.any(0))
    ]
    found["intervals"] = {
        "level": 0.95,
        "covers": "queries; the two models are held fixed",
        "largest_NFR_at_1": _interval(flips.T.astype(float), generator, largest=True),
        "gain": _interval((ap[-1] - old_ap)[:, None], generator),
    }
    return found


def _interval(
    values: Array, generator: np.random.Generator, largest: bool = False
) -> dict[str, float]:
    """Bootstrap interval over queries of the mean of [Q, C], or of the largest of C means."""
    pick = (lambda means: means.max(-1, keepdims=True)) if largest else None
    interval = hierarchical_interval(values[None], generator, pick)
    return {
        "estimate": float(interval.estimate[0]),
        "low": float(interval.low[0]),
        "high": float(interval.high[0]),
    }


def _slots(upgrade: Upgrade, steps: NDArray[np.int64], shares: Array) -> dict[str, Any]:
    """Share of the first ten places that old items hold, at no more than eleven of the shares."""
    chosen = np.unique(np.linspace(0, len(shares) - 1, _SLOT_SHARES).round().astype(int))
    query = torch.from_numpy(normalise(upgrade.queries_new.rows, "queries"))
    size, step = len(upgrade.gallery_old), torch.from_numpy(steps)
    places = min(SLOTS, size)
    best = torch.full((len(chosen), len(query), places), -np.inf)
    is_old = torch.zeros(best.shape, dtype=torch.bool)
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        old, new = (
            query @ unit_rows(gallery.rows[rows], str(gallery.path), start).T
            for gallery in (upgrade.gallery_old, upgrade.gallery_new)
        )
        for position, share in enumerate(chosen.tolist()):
            waiting = (step[rows] > share).expand_as(old)
            scores = torch.cat([best[position], torch.where(waiting, old, new)], 1)
            kind = torch.cat([is_old[position], waiting], 1)
            best[position], index = scores.topk(places, dim=1)
            is_old[position] = kind.gather(1, index)
    return {
        "slot_shares": shares[chosen],
        f"old_share_of_top_{places}": is_old.double().mean((1, 2)).numpy(),
    }


def _score_shift(
    upgrade: Upgrade, relevance: Relevance, generator: np.random.Generator
) -> dict[str, float | None]:
    """Kolmogorov-Smirnov distance between scores with old and with new items, on the same pairs."""
    counts = relevance.relevant.counts()
    answers = np.stack([np.repeat(np.arange(len(counts)), counts), relevance.relevant.rows])
    if answers.shape[1] > _SAMPLED_PAIRS:
        answers = answers[:, generator.choice(answers.shape[1], _SAMPLED_PAIRS, replace=False)]
    sizes = np.array([[len(counts)], [len(upgrade.gallery_old)]])
    query = torch.from_numpy(normalise(upgrade.queries_new.rows, "queries"))
    found: dict[str, float | None] = {}
    others = generator.integers(0, sizes, (2, _SAMPLED_PAIRS))
    for name, pairs in (("relevant", answers), ("any", others)):
        of, item = (torch.from_numpy(row) for row in pairs)
        old, new = (
            exact_scores(query, gallery.rows, of, item).numpy()
            for gallery in (upgrade.gallery_old, upgrade.gallery_new)
        )
        found[f"score_shift_KS_{name}"] = float(scipy_stats.ks_2samp(old, new).statistic)
    return found


@dataclass(frozen=True)
class Verdict:
    """Go only if the limits hold at the unfavourable end of the 95 % intervals."""

    go: bool
    reasons: tuple[str, ...]


def judge(found: dict[str, Any], max_nfr: float | None, min_gain: float | None) -> Verdict | None:
    """Hold intervals against limits: the largest NFR@1 of the curve, and M(n,n) − M(o,o).

    None without limits. Raises BenchError for limits that the old queries are needed for.
    """
    if max_nfr is None and min_gain is None:
        return None
    if "intervals" not in found:
        raise BenchError(
            "--max-nfr and --min-gain compare with the old system, which needs the old embeddings "
            "of the queries: give them with --queries-old"
        )
    checks = []
    if max_nfr is not None:
        interval = found["intervals"]["largest_NFR_at_1"]
        words = f"largest NFR@1 {_words(interval)}, limit at most {max_nfr:g}"
        checks.append((interval["high"] <= max_nfr, interval["low"] > max_nfr, words))
    if min_gain is not None:
        interval = found["intervals"]["gain"]
        words = f"gain {_words(interval)}, limit at least {min_gain:g}"
        checks.append((interval["low"] >= min_gain, interval["high"] < min_gain, words))
    reasons = []
    for holds, fails, words in checks:
        state = "holds" if holds else "fails" if fails else "cannot be told with these queries"
        reasons.append(f"{words}: {state}")
    return Verdict(all(holds for holds, _, _ in checks), tuple(reasons))


def _words(interval: dict[str, float]) -> str:
    return f"{interval['estimate']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _plain(value: Any) -> Any:
    """Turn arrays into lists and NaN into None, for JSON."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
