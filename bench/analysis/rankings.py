"""Methods ranked over the scenarios of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis import stats
from bench.analysis.quantities import ALPHA, Quantity
from bench.analysis.scenarios import Scenario

RANKED = ("AUC_mAP", "AUC_NFR_at_1")


@dataclass(frozen=True)
class SuiteRanking:
    """Methods that were run in every scenario, ranked over them by one quantity."""

    quantity: Quantity
    methods: tuple[str, ...]
    ranking: stats.Ranking


def rankings(scenarios: Sequence[Scenario]) -> list[SuiteRanking]:
    """Rank methods over scenarios; nothing with fewer than 2 scenarios or 3 methods in all."""
    if len(scenarios) < 2:
        return []
    common = [
        method
        for method in scenarios[0].methods
        if all(method in scenario.methods for scenario in scenarios)
    ]
    if len(common) < 3:
        return []
    found = []
    for quantity in scenarios[0].quantities:
        if quantity.key not in RANKED:
            continue
        scores = [
            [quantity.better * scenario.value(quantity.key, method) for method in common]
            for scenario in scenarios
        ]
        found.append(SuiteRanking(quantity, tuple(common), stats.rank_methods(scores, ALPHA)))
    return found
