"""An evaluated upgrade held against limits: which bridges keep them, cheapest first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.analysis.limits import Bound, Judged, Limit, judge
from bench.errors import BenchError
from bench.evaluation import metrics
from bench.seeds import derive_seed
from bench.upgrade.bridges import COLD
from bench.upgrade.evaluate import Evaluation, Measured
from bench.upgrade.served import Served


@dataclass(frozen=True)
class Limits:
    """What an upgrade must keep; None: no limit.

    `nfr`: most NFR@1 at any share; `gain`: least M(n,n) − M(o,o); `least`: least mean of a metric
    at any share; `recall` and `p99_ms` of the served index; `each_slice`: all of it in every slice.
    """

    nfr: float | None = None
    gain: float | None = None
    least: dict[str, float] = field(default_factory=dict)
    recall: float | None = None
    p99_ms: float | None = None
    each_slice: bool = False

    def __post_init__(self) -> None:
        numbers = [self.nfr, self.gain, self.recall, self.p99_ms, *self.least.values()]
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise BenchError("a limit is not a finite number; expected one such as 0.02")
        for metric in self.least:
            metrics.cutoff(metric)
        if self.each_slice and not self:
            raise BenchError(
                "--each-slice holds limits in every slice; give one, such as --max-nfr"
            )

    def __bool__(self) -> bool:
        return any(
            limit is not None for limit in (self.nfr, self.gain, self.recall, self.p99_ms)
        ) or bool(self.least)


@dataclass(frozen=True)
class BridgeVerdict:
    """Whether one bridge keeps all limits; `retrained`: with an index that is trained anew."""

    bridge: str
    checks: tuple[Judged, ...]
    retrained: BridgeVerdict | None = None

    @property
    def go(self) -> bool:
        """Whether every limit is kept."""
        return all(check.state == "pass" for check in self.checks)


@dataclass(frozen=True)
class Verdict:
    """Verdicts of all bridges, cheapest first; go if one that refreshes hot keeps all limits."""

    bridges: tuple[BridgeVerdict, ...]

    @property
    def go(self) -> bool:
        """Whether a bridge keeps every limit."""
        return any(each.go for each in self.bridges if each.bridge != COLD)

    @property
    def cheapest(self) -> str | None:
        """The cheapest bridge that keeps all limits."""
        return next((b.bridge for b in self.bridges if b.go and b.bridge != COLD), None)

    @property
    def after_retraining(self) -> str | None:
        """The cheapest bridge that keeps all limits once its index is trained anew."""
        kept = (b.bridge for b in self.bridges if b.retrained is not None and b.retrained.go)
        return next(kept, None)


def verdict(found: Evaluation, limits: Limits) -> Verdict:
    """Hold the unfavourable ends of 95 % intervals against limits.

    Raises BenchError without limits, and for limits that need what is not at hand.
    """
    if not limits:
        raise BenchError("no limit is given; expected one such as --max-nfr 0.02")
    if not found.judged:
        raise BenchError("limits need relevance: without it agreement is known, not quality")
    if found.old is None and (limits.nfr is not None or limits.gain is not None):
        raise BenchError(
            "--max-nfr and --min-gain compare with the old system, which needs the old embeddings "
            "of the queries: give them with --queries-old"
        )
    served = any(bridge.served is not None for bridge in found.bridges)
    if not served and (limits.recall is not None or limits.p99_ms is not None):
        raise BenchError("--min-recall and --max-p99-ms need a served index: give it with --index")
    evaluated = {found.metric} if served else set(found.bridges[0].values)
    for metric in set(limits.least) - evaluated:
        hint = "a served index is judged by --metric" if served else "or name it in `further`"
        raise BenchError(
            f"no {metric} was evaluated to hold its limit against; expected "
            f"{', '.join(evaluated)} ({hint})"
        )
    if limits.each_slice and found.slices is None:
        raise BenchError("--each-slice needs slices: give them with --groups")
    judged = []
    for bridge in sorted(found.bridges, key=lambda b: (b.name == COLD, b.costs.rank())):
        if served and bridge.served is None and bridge.name != COLD:
            continue
        checks = _checks(found, bridge, limits, bridge.served)
        again = None
        if bridge.served is not None and bridge.served.retrained is not None:
            again = BridgeVerdict(
                bridge.name, _checks(found, bridge, limits, bridge.served.retrained)
            )
        judged.append(BridgeVerdict(bridge.name, checks, again))
    return Verdict(tuple(judged))


def _checks(
    found: Evaluation, bridge: Measured, limits: Limits, served: Served | None
) -> tuple[Judged, ...]:
    everywhere = np.ones(len(found.queries), dtype=bool)
    parts = [("", everywhere)]
    if limits.each_slice and found.slices is not None:
        names = np.array(found.slices)
        parts += [(f"slice '{name}': ", names == name) for name in sorted(set(found.slices))]
    checks = [
        check
        for words, chosen in parts
        for check in _part(found, bridge, limits, served, words, chosen)
    ]
    if served is not None and limits.recall is not None:
        lowest = Bound.exact(float(served.recall.min()))
        checks.append(judge(Limit("lowest recall", "at least", limits.recall), lowest))
    if served is not None and limits.p99_ms is not None:
        slowest = Limit("p99 in ms", "at most", limits.p99_ms)
        checks.append(judge(slowest, Bound.exact(served.p99_ms)))
    return tuple(checks)


def bounds(
    found: Evaluation,
    bridge: Measured,
    served: Served | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> dict[str, Bound]:
    """Bound worst NFR@1, gain, areas under curves and each lowest mean, of some queries."""
    chosen = np.ones(len(found.queries), dtype=bool) if chosen is None else chosen
    key = bridge.name, id(served), chosen.tobytes()
    if key not in found.known:
        found.known[key] = _bounds(found, bridge, served, chosen)
    return found.known[key]


def _bounds(
    found: Evaluation, bridge: Measured, served: Served | None, chosen: NDArray[np.bool_]
) -> dict[str, Bound]:
    sampling = found.sampling.take(chosen)
    generator = np.random.default_rng(derive_seed("bounds", bridge.name, found.seed))
    values = bridge.values if served is None else {found.metric: served.values}
    success = bridge.success[:, 0] if served is None else served.success[:, 0]
    result = {m: sampling.lowest(v[:, chosen], generator) for m, v in values.items()}
    curve = values[found.metric]
    area = metrics.area(found.shares, curve.T)[None]
    result[f"AUC {found.metric}"] = sampling.lowest(area[:, chosen], generator)
    old = found.old[found.metric] if found.old is not None else None
    right = found.old_success[0] if found.old_success is not None else None
    if served is not None and served.old_values is not None:
        old, right = served.old_values, served.old_success
    if old is not None and right is not None:
        gain = values[found.metric][-1:] - old
        result["gain"] = sampling.lowest(gain[:, chosen], generator, least=-1)
        flips = right & ~success
        result["NFR@1"] = sampling.largest_rate(flips[:, chosen])
        area = metrics.area(found.shares, flips.T.astype(np.float64))[None]
        result["AUC NFR@1"] = sampling.lowest(area[:, chosen], generator)
    return result


def _part(
    found: Evaluation,
    bridge: Measured,
    limits: Limits,
    served: Served | None,
    words: str,
    chosen: NDArray[np.bool_],
) -> list[Judged]:
    known = bounds(found, bridge, served, chosen)
    name = "mAP" if found.metric == "AP" else found.metric
    checks = []
    if limits.nfr is not None:
        checks.append(judge(Limit(f"{words}worst NFR@1", "at most", limits.nfr), known["NFR@1"]))
    if limits.gain is not None:
        told = f"{words}{name} gain after full backfill, M(n,n) − M(o,o)"
        checks.append(judge(Limit(told, "at least", limits.gain), known["gain"]))
    for metric, least in limits.least.items():
        told = f"{words}lowest {metric} at any backfill share"
        checks.append(judge(Limit(told, "at least", least), known[metric]))
    return checks
