"""Evaluation of an upgrade from embeddings alone: every bridge side by side, with what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from bench.analysis.limits import Bound
from bench.data.embedding_files import EmbeddingTable
from bench.evaluation.backfill import (
    Curve,
    backfill_steps,
    curve_of_ranks,
    depth_of,
    refresh_ranks,
    search,
)
from bench.evaluation.metrics import SUCCESS_AT
from bench.evaluation.scores import exact_scores, normalise
from bench.relevance import Relevance
from bench.seeds import derive_seed
from bench.upgrade.answers import Agreement, agreement, best_answers, bridge_answers
from bench.upgrade.bounds import Sampling
from bench.upgrade.bridges import COLD, Bridge, Costs, cold_costs, make_bridges
from bench.upgrade.served import Served, serve
from bench.upgrade.systems import Upgrade

Array = NDArray[np.float64]
_SAMPLED_PAIRS = 20_000
_RANKED_ANEW = 1 << 30  # scores that are sorted at every share
SHOWN = 10  # answers shown of each list
EXAMPLES = 12


def silent(step: str) -> None:
    """Show nothing of the step that begins."""


@dataclass(frozen=True)
class Measured:
    """One bridge along the backfill: of each metric [S, Q], success [S, K, Q], and agreement."""

    name: str
    costs: Costs
    values: dict[str, Array]
    success: NDArray[np.bool_]
    agreement: Agreement | None = None
    served: Served | None = None


@dataclass(frozen=True)
class Example:
    """A query that flips: its best answers in the old and the refreshed system, with relevance."""

    query: str
    share: float
    old: tuple[tuple[str, bool], ...]
    refreshed: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Evaluation:
    """All that was measured; per-query arrays hold the evaluated queries only.

    `known` keeps bounds that were resampled once.
    """

    metric: str
    shares: Array
    order: str
    seed: int
    size: int
    widths: tuple[int, int]
    queries: tuple[str, ...]
    all_queries: int
    sampling: Sampling
    slices: tuple[str, ...] | None
    bridges: tuple[Measured, ...]
    left_out: dict[str, str]
    old: dict[str, Array] | None = None
    old_success: NDArray[np.bool_] | None = None
    examples: dict[str, tuple[Example, ...]] = field(default_factory=dict)
    thresholds: dict[str, float | None] = field(default_factory=dict)
    known: dict[object, dict[str, Bound]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def judged(self) -> bool:
        """Whether relevance was at hand."""
        return bool(self.bridges) and bool(self.bridges[0].values)

    def flips(self, bridge: Measured, k: int = 0) -> NDArray[np.bool_]:
        """Queries [S, Q] right in the old system and wrong in the refreshed one."""
        assert self.old_success is not None
        found: NDArray[np.bool_] = self.old_success[k] & ~bridge.success[:, k]
        return found


def evaluate(
    upgrade: Upgrade,
    order: NDArray[np.int64],
    shares: Array,
    metric: str = "AP",
    further: Sequence[str] = (),
    bridges: Sequence[str] | None = None,
    order_name: str = "random",
    seed: int = 0,
    index: str | None = None,
    index_parameters: str = "",
    report: Callable[[str], None] = silent,
) -> Evaluation:
    """Walk the backfill with every bridge, on the evaluation functions of the suites.

    `further` names more metrics to evaluate from the same ranks. With `index`, each bridge is also
    served from FAISS. `report` receives each step that begins. Raises BenchError for metrics,
    bridges and indexes that are not known.
    """
    report("searching the old system")
    wanted = list(dict.fromkeys([metric, *further]))
    depth = depth_of(wanted, SUCCESS_AT)
    steps = backfill_steps(order, shares)
    relevance = upgrade.relevance
    old_queries = None if upgrade.queries_old is None else upgrade.queries_old.rows
    made = make_bridges(
        old_queries,
        upgrade.gallery_old.rows,
        upgrade.queries_new.rows,
        upgrade.gallery_new.rows,
        upgrade.pairs,
        seed,
        bridges,
        report,
    )
    count = len(upgrade.queries_new)
    sampling = upgrade.sampling or Sampling(np.arange(count), np.ones(count))
    chosen = np.ones(count, bool) if relevance is None else relevance.relevant.counts() > 0
    old, old_success = _old_system(upgrade, wanted, chosen)
    measured, left_out, examples = [], {}, {}
    if old is not None or relevance is None:
        report("searching the new system")
        cold = _cold(upgrade, shares, wanted, chosen, old, old_success)
        measured += [cold] if cold is not None else []
    for bridge in made:
        if isinstance(bridge, tuple):
            left_out[bridge[0]] = bridge[1]
            continue
        anew = bridge.merge is not None or bridge.purchases > 0
        if anew and not bridges and count * len(order) > _RANKED_ANEW:
            left_out[bridge.name] = (
                "all its scores are ranked anew at every share, which takes long with so many: "
                "name it in --bridges to have it"
            )
            continue
        report(f"searching with {bridge.name} at every share")
        values: dict[str, Array] = {}
        success = np.zeros((len(shares), len(SUCCESS_AT), int(chosen.sum())), bool)
        told = None
        if relevance is not None:
            ranks = refresh_ranks(
                bridge.query_new,
                bridge.gallery_new,
                bridge.query_old,
                bridge.gallery_old,
                relevance,
                steps,
                len(shares),
                depth,
                bridge.merge,
                purchases=bridge.purchases,
            )
            curves = [curve_of_ranks(ranks, relevance, shares, m, SUCCESS_AT) for m in wanted]
            values = {m: c.ap[:, chosen] for m, c in zip(wanted, curves, strict=True)}
            success = curves[0].success[:, :, chosen]
        else:
            told = agreement(bridge, upgrade, steps, len(shares), SHOWN, sampling.weight)
        served = None
        if index is not None and relevance is not None:
            report(f"serving {bridge.name} from {index}")
            served = serve(
                index, index_parameters, bridge, upgrade, relevance, steps, shares, metric
            )
        found = Measured(bridge.name, bridge.costs, values, success, told, served)
        measured.append(found)
        if old_success is not None and relevance is not None:
            flips = old_success[0] & ~success[:, 0]
            examples[bridge.name] = _examples(upgrade, bridge, steps, shares, flips, chosen)
    rows = np.flatnonzero(chosen)
    return Evaluation(
        metric=metric,
        shares=shares,
        order=order_name,
        seed=seed,
        size=len(upgrade.gallery_old),
        widths=(upgrade.gallery_old.width, upgrade.gallery_new.width),
        queries=tuple(upgrade.queries_new.name(row) for row in rows.tolist()),
        all_queries=count,
        sampling=sampling.take(rows),
        slices=None if upgrade.slices is None else tuple(upgrade.slices[row] for row in rows),
        bridges=tuple(measured),
        left_out=left_out,
        old=old,
        old_success=old_success,
        examples=examples,
        thresholds=_thresholds(upgrade, seed),
    )


def _systems(
    queries: EmbeddingTable, gallery: EmbeddingTable, relevance: Relevance, wanted: Sequence[str]
) -> list[Curve]:
    return [search(queries.rows, gallery.rows, relevance, metric) for metric in wanted]


def _old_system(
    upgrade: Upgrade, wanted: Sequence[str], chosen: NDArray[np.bool_]
) -> tuple[dict[str, Array] | None, NDArray[np.bool_] | None]:
    if upgrade.queries_old is None or upgrade.relevance is None:
        return None, None
    curves = _systems(upgrade.queries_old, upgrade.gallery_old, upgrade.relevance, wanted)
    values = {m: c.ap[0, chosen] for m, c in zip(wanted, curves, strict=True)}
    return values, curves[0].success[0][:, chosen]


def _cold(
    upgrade: Upgrade,
    shares: Array,
    wanted: Sequence[str],
    chosen: NDArray[np.bool_],
    old: dict[str, Array] | None,
    old_success: NDArray[np.bool_] | None,
) -> Measured | None:
    """The old system until all is embedded anew, then the new one."""
    if upgrade.relevance is None or old is None or old_success is None:
        return None
    new = _systems(upgrade.queries_new, upgrade.gallery_new, upgrade.relevance, wanted)
    values = {}
    for metric, curve in zip(wanted, new, strict=True):
        values[metric] = np.repeat(old[metric][None], len(shares), axis=0)
        values[metric][-1] = curve.ap[0, chosen]
    success = np.repeat(old_success[None], len(shares), axis=0)
    success[-1] = new[0].success[0][:, chosen]
    costs = cold_costs(upgrade.gallery_old.rows, upgrade.gallery_new.rows)
    return Measured(COLD, costs, values, success)


def _examples(
    upgrade: Upgrade,
    bridge: Bridge,
    steps: NDArray[np.int64],
    shares: Array,
    flips: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> tuple[Example, ...]:
    """Both answer lists of queries that flip where most do."""
    assert upgrade.queries_old is not None
    assert upgrade.relevance is not None
    share = int(flips.sum(1).argmax())
    rows = np.flatnonzero(chosen)[np.flatnonzero(flips[share])[:EXAMPLES]]
    if not len(rows):
        return ()
    never = np.full_like(steps, len(shares))
    old = best_answers(
        [(upgrade.queries_old.rows[rows], upgrade.gallery_old.rows)], [never < 0], SHOWN
    )
    new = bridge_answers(bridge, steps <= share, SHOWN, rows)

    def named(query: int, answers: NDArray[np.int64]) -> tuple[tuple[str, bool], ...]:
        assert upgrade.relevance is not None
        junk = upgrade.relevance.junk[query]
        kept = [row for row in answers.tolist() if row not in junk]
        relevant = set(upgrade.relevance.relevant[query].tolist())
        return tuple((upgrade.gallery_old.name(row), row in relevant) for row in kept[:5])

    return tuple(
        Example(
            upgrade.queries_new.name(int(row)),
            float(shares[share]),
            named(int(row), old[place]),
            named(int(row), new[place]),
        )
        for place, row in enumerate(rows)
    )


def _thresholds(upgrade: Upgrade, seed: int) -> dict[str, float | None]:
    """How far scores shift, and the cut on the new scale that keeps the precision of the old one.

    From the scores of judged relevant pairs and of random pairs of queries and items: the old cut
    is the median score of the relevant ones, its precision is kept on the same pairs.
    """
    if upgrade.relevance is None or upgrade.queries_old is None:
        return {}
    generator = np.random.default_rng(derive_seed("thresholds", seed))
    counts = upgrade.relevance.relevant.counts()
    of, item = np.repeat(np.arange(len(counts)), counts), upgrade.relevance.relevant.rows
    if len(of) > _SAMPLED_PAIRS:
        kept = generator.choice(len(of), _SAMPLED_PAIRS, replace=False)
        of, item = of[kept], item[kept]
    other = generator.integers(0, [[len(counts)], [len(upgrade.gallery_old)]], (2, len(of)))
    scores = {}
    for name, queries, gallery in (
        ("old", upgrade.queries_old, upgrade.gallery_old),
        ("new", upgrade.queries_new, upgrade.gallery_new),
    ):
        unit = torch.from_numpy(normalise(queries.rows, f"{name} queries"))
        scores[name] = [
            exact_scores(unit, gallery.rows, torch.from_numpy(q), torch.from_numpy(i)).numpy()
            for q, i in ((of, item), (other[0], other[1]))
        ]
    cut = float(np.median(scores["old"][0]))
    precision = _precision(scores["old"], cut)
    candidates = np.unique(scores["new"][0])
    enough = [c for c in candidates if _precision(scores["new"], float(c)) >= precision]
    return {
        "median_relevant_old": cut,
        "median_relevant_new": float(np.median(scores["new"][0])),
        "median_random_old": float(np.median(scores["old"][1])),
        "median_random_new": float(np.median(scores["new"][1])),
        "old_cut": cut,
        "old_precision": precision,
        "new_cut": float(enough[0]) if enough else None,
    }


def _precision(scores: list[Array], cut: float) -> float:
    """Share of relevant pairs among the relevant and random ones at or above a cut."""
    hits, false = (int((part >= cut).sum()) for part in scores)
    return hits / max(1, hits + false)
