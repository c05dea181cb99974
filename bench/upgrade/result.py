"""What an evaluated upgrade says: a table of bridges, a verdict, a page, numbers for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.evaluation import metrics
from bench.report.table import Cell, Column, Table
from bench.upgrade.bridges import COLD
from bench.upgrade.evaluate import Evaluation, Measured
from bench.upgrade.judge import BridgeVerdict, Limits, Verdict, bounds, verdict

if TYPE_CHECKING:
    from bench.analysis.limits import Bound


@dataclass(frozen=True)
class Prices:
    """Embedded items per second and what an hour of it costs; None where nobody said."""

    items_per_second: float | None = None
    per_hour: float | None = None

    def __post_init__(self) -> None:
        for number in (self.items_per_second, self.per_hour):
            if number is not None and not 0 <= number < math.inf:
                raise BenchError(f"a rate or price is {number}; expected a finite one from 0")
        if self.per_hour is not None and not self.items_per_second:
            raise BenchError(
                "--price-per-hour needs hours: say how fast the new model embeds with "
                "--items-per-second"
            )

    def words(self, items: float) -> str:
        """Time and money of embedding so many items."""
        if not self.items_per_second:
            return f"{items:,.0f} items"
        hours = items / self.items_per_second / 3600
        money = f", {hours * self.per_hour:,.2f} in money" if self.per_hour is not None else ""
        return f"{items:,.0f} items, {hours:,.2f} h{money}"


@dataclass(frozen=True)
class UpgradeTables:
    """An evaluated upgrade."""

    found: Evaluation
    prices: Prices
    pairs_from_gallery: bool
    fitted_queries: int = 0

    @property
    def metric(self) -> str:
        """Name of the mean of the chosen metric."""
        return "mAP" if self.found.metric == "AP" else self.found.metric

    def verdict(self, limits: Limits) -> Verdict:
        """Hold every bridge against limits; raises BenchError for limits that cannot be told."""
        return verdict(self.found, limits)

    def table(self, limits: Limits | None = None) -> Table:
        """Bridges side by side, cheapest first, with their verdicts if there are limits."""
        judged = {}
        if limits:
            judged = {each.bridge: each for each in self.verdict(limits).bridges}
        rows = []
        for bridge in sorted(self.found.bridges, key=lambda b: (b.name != COLD, b.costs.rank())):
            cells = [Cell(bridge.name), *self._quality(bridge), *self._costs(bridge)]
            if limits:
                each = judged.get(bridge.name)
                word = "–" if each is None else "go" if each.go else "no-go"
                if each is not None and each.retrained is not None and each.retrained.go > each.go:
                    word = "no-go as served, go after retraining"
                cells.append(Cell(word))
            rows.append(tuple(cells))
        columns = [Column("bridge"), *self._columns()]
        if limits:
            columns.append(Column("verdict"))
        return Table(
            f"Upgrade of {self.found.size:,} items, {len(self.found.queries):,} queries",
            tuple(columns),
            tuple(rows),
            self._caption(),
            tuple(self._notes()),
        )

    def _columns(self) -> list[Column]:
        costs = [
            Column("encodings per query", 0, -1),
            Column("items embedded per query", 0, -1),
            Column("searches per query", 0, -1),
            Column("bytes per item", 0, -1),
            Column("pairs to fit", 0, -1),
            Column("s to fit", 1, -1),
            Column("search ms", 3, -1),
        ]
        if not self.found.judged:
            first = f"overlap@{self._agreement_depth()}"
            return [
                Column(f"{first} with final", 3),
                Column("RBO with final", 3),
                Column(f"{first} with old", 3),
                Column("first answer changed", 3),
                *costs,
            ]
        quality = [
            Column(f"AUC {self.metric}", 3, 1),
            Column(f"lowest {self.metric}", 3, 1),
            Column("M(n,n)", 3, 1),
        ]
        if self.found.old_success is not None:
            quality += [Column("AUC NFR@1", 3, -1), Column("worst NFR@1", 3, -1)]
        served = [
            Column(f"served {self.metric}", 3, 1),
            *([Column("served worst NFR@1", 3, -1)] if self.found.old is not None else []),
            Column("recall", 3, 1),
            Column("p99 ms", 2, -1),
        ]
        return [*quality, *(served if self._is_served() else []), *costs]

    def _is_served(self) -> bool:
        return any(bridge.served is not None for bridge in self.found.bridges)

    def _agreement_depth(self) -> int:
        return next((b.agreement.depth for b in self.found.bridges if b.agreement is not None), 10)

    def curve(self, bridge: Measured, metric: str | None = None) -> Any:
        """Mean of a metric at every share [S]."""
        return self.found.sampling.mean(bridge.values[metric or self.found.metric])

    def flips(self, bridge: Measured, k: int = 0) -> Any:
        """NFR@1 (k = 0) or NFR@5 (k = 1) at every share [S]."""
        return self.found.sampling.mean(self.found.flips(bridge, k).astype(np.float64))

    def _quality(self, bridge: Measured) -> list[Cell]:
        found = self.found
        if not found.judged:
            told = bridge.agreement
            if told is None:
                return [Cell(math.nan)] * 4
            old, changed = told.overlap_old, told.first_changed
            return [
                Cell(float(told.overlap_final[0])),
                Cell(float(told.rbo_final[0])),
                Cell(math.nan if old is None else float(old[0])),
                Cell(math.nan if changed is None else float(changed[0])),
            ]
        known, curve = bounds(found, bridge), self.curve(bridge)
        cells = [
            _bounded(known[f"AUC {found.metric}"]),
            _bounded(known[found.metric]),
            Cell(float(curve[-1])),
        ]
        if found.old_success is not None:
            cells += [_bounded(known["AUC NFR@1"]), _bounded(known["NFR@1"])]
        if self._is_served():
            cells += self._serving(bridge)
        return cells

    def _serving(self, bridge: Measured) -> list[Cell]:
        """What users of the index see: the metric after the backfill, worst flips, recall, p99."""
        found, served = self.found, bridge.served
        flips = found.old is not None
        if served is None:
            return [Cell(math.nan)] * (3 + flips)
        worst = [_bounded(bounds(found, bridge, served)["NFR@1"])] if flips else []
        return [
            Cell(float(found.sampling.mean(served.values)[-1])),
            *worst,
            Cell(float(served.recall.min())),
            Cell(served.p99_ms),
        ]

    def _costs(self, bridge: Measured) -> list[Cell]:
        c = bridge.costs
        numbers = (
            c.encodings,
            c.purchases,
            c.searches,
            c.bytes_per_item,
            c.fit_pairs,
            c.fit_seconds,
        )
        return [*(Cell(float(number)) for number in numbers), Cell(c.milliseconds)]

    def _caption(self) -> str:
        if not self.found.judged:
            return (
                "Agreement of answers at 0 % backfilled, not their quality: without relevance "
                "nobody knows which answers are right."
            )
        units = f"{self.found.sampling.groups:,} groups of queries"
        return (
            f"95 % intervals over {units}; the two models are held fixed. "
            f"Backfill order: {self.found.order}. Costs are those during the backfill; bytes at "
            "four a number; search ms in flat indexes of at most 20,000 stored items."
        )

    def _notes(self) -> list[str]:
        found, notes = self.found, []
        for name, reason in found.left_out.items():
            notes.append(f"Left out: {name}, {reason}.")
        fitted = max((b.costs.fit_pairs for b in found.bridges), default=0)
        if fitted and self.pairs_from_gallery:
            told = f"Pairs to fit are sampled from the gallery: {self.prices.words(fitted)}"
            if self.fitted_queries:
                told += f"; {self.fitted_queries:,} of them are queries, for every item is one"
            notes.append(f"{told}.")
        both = found.size * 4 * sum(found.widths)
        notes.append(
            f"Backfill: {self.prices.words(found.size)}; both copies take {both / 1e9:,.1f} GB."
        )
        if found.old is not None and found.judged:
            before = float(found.sampling.mean(found.old[found.metric]))
            notes.append(f"Old system: {self.metric} {before:.4f}.")
            for bridge in found.bridges:
                share = metrics.cost_to_gain(found.shares, self.curve(bridge), before)
                if not math.isnan(share):
                    told = self.prices.words(share * found.size)
                    notes.append(f"{bridge.name}: 95 % of the gain after {told}.")
        for bridge in found.bridges:
            served = bridge.served
            if served is None:
                continue
            told = f"{bridge.name} served from {served.factory}: {served.updates}, "
            told += (
                f"{served.rebuilds} rebuilds, {served.bytes_at_start:,.0f} bytes per item before "
                f"the backfill and at most {served.bytes_per_item:,.0f} during it"
            )
            if served.retrained is not None:
                last = [
                    float(found.sampling.mean(s.values)[-1]) for s in (served, served.retrained)
                ]
                told += (
                    f"; trained anew, {self.metric} at 100 % is {last[1]:.3f} and not {last[0]:.3f}"
                )
            notes.append(f"{told}.")
        cut = found.thresholds
        if cut:
            new = cut["new_cut"]
            shown = "no cut on the new scale" if new is None else f"cut {new:.3f} on the new scale"
            notes.append(
                f"Scores of relevant pairs move from {cut['median_relevant_old']:.3f} to "
                f"{cut['median_relevant_new']:.3f} (medians); {shown} keeps the precision that "
                f"{cut['old_cut']:.3f} had on the old one, on relevant and random pairs."
            )
        return notes

    def by_slice(self) -> Table | None:
        """Lowest metric and worst NFR@1 of each bridge in each slice."""
        if self.found.slices is None or not self.found.judged:
            return None
        names = np.array(self.found.slices)
        rows = []
        flips = self.found.old_success is not None
        for name in sorted(set(self.found.slices)):
            chosen = names == name
            sampling = self.found.sampling.take(chosen)
            for bridge in self.found.bridges:
                curve = sampling.mean(bridge.values[self.found.metric][:, chosen])
                cells = [
                    Cell(name),
                    Cell(bridge.name),
                    Cell(float(chosen.sum())),
                    Cell(float(curve.min())),
                ]
                if flips:
                    flipped = self.found.flips(bridge)[:, chosen].astype(np.float64)
                    cells.append(Cell(float(sampling.mean(flipped).max())))
                rows.append(tuple(cells))
        columns = [
            Column("slice"),
            Column("bridge"),
            Column("queries", 0),
            Column(f"lowest {self.metric}", 3, 1),
        ]
        if flips:
            columns.append(Column("worst NFR@1", 3, -1))
        return Table("Slices", tuple(columns), tuple(rows), "Who is worse off meanwhile.")

    def json(self, limits: Limits | None = None) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        found = self.found
        bridges = {}
        for bridge in found.bridges:
            entry: dict[str, Any] = {"costs": asdict(bridge.costs)}
            if bridge.values:
                entry["metrics"] = {m: self.curve(bridge, m) for m in bridge.values}
            if found.old_success is not None:
                entry |= {"NFR@1": self.flips(bridge), "NFR@5": self.flips(bridge, 1)}
                worst = found.flips(bridge)
                rows = np.flatnonzero(worst.any(0))
                entry["flipped_queries"] = [
                    {"query": found.queries[q], "wrong_at_shares": found.shares[worst[:, q]]}
                    for q in rows
                ]
            if found.judged:
                entry["intervals"] = {k: asdict(b) for k, b in bounds(found, bridge).items()}
            if bridge.agreement is not None:
                entry["agreement"] = asdict(bridge.agreement)
            if bridge.served is not None:
                entry["served"] = _served(self, bridge.served)
            bridges[bridge.name] = entry
        content: dict[str, Any] = {
            "metric": found.metric,
            "shares": found.shares,
            "order": found.order,
            "seed": found.seed,
            "gallery": found.size,
            "queries": found.all_queries,
            "queries_evaluated": len(found.queries),
            "groups": found.sampling.groups,
            "dimensions": {"old": found.widths[0], "new": found.widths[1]},
            "old_system": None
            if found.old is None
            else {m: float(found.sampling.mean(v)) for m, v in found.old.items()},
            "bridges": bridges,
            "left_out": found.left_out,
            "thresholds": found.thresholds,
        }
        if limits:
            judged = self.verdict(limits)
            content["verdict"] = {
                "go": judged.go,
                "cheapest": judged.cheapest,
                "after_retraining": judged.after_retraining,
                "bridges": {each.bridge: _judged(each) for each in judged.bridges},
            }
        plain: dict[str, Any] = _plain(content)
        return plain


def _served(result: UpgradeTables, served: Any) -> dict[str, Any]:
    mean = result.found.sampling.mean
    told = {
        "index": served.factory,
        "metric": mean(served.values),
        "recall": served.recall,
        "p50_ms": served.p50_ms,
        "p99_ms": served.p99_ms,
        "bytes_per_item": served.bytes_per_item,
        "bytes_per_item_at_start": served.bytes_at_start,
        "rebuilds": served.rebuilds,
        "updates": served.updates,
    }
    if served.old_values is not None:
        told["old_system"] = mean(served.old_values)
        told["NFR@1"] = mean((served.old_success & ~served.success[:, 0]).astype(np.float64))
    if served.retrained is not None:
        told["retrained"] = _served(result, served.retrained)
    return told


def _judged(verdict: BridgeVerdict) -> dict[str, Any]:
    checks = [
        {"words": c.words, "state": c.state, "limit": c.limit.bound, **asdict(c.found)}
        for c in verdict.checks
    ]
    again = None if verdict.retrained is None else _judged(verdict.retrained)
    return {"go": verdict.go, "checks": checks, "retrained": again}


def _bounded(bound: Bound) -> Cell:
    return Cell(bound.estimate, bound.low, bound.high)


def _plain(value: Any) -> Any:
    """Turn arrays into lists and NaN into None, for JSON."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
