"""Per-query records → what is known about each scenario: estimates, intervals, comparisons.

Every table, figure and sentence of the report is made from these numbers and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis import circumstances
from bench.analysis.circumstances import Architecture
from bench.analysis.comparisons import AgainstOld, Comparison, against_old, compare
from bench.analysis.estimates import Estimates, estimate
from bench.analysis.quantities import Quantity
from bench.analysis.scenario_cells import ScenarioCells

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """What the records say about one scenario on one dataset; methods by AUC mAP, best first.

    `training_rates` [M] are images per second; `limits` those that each part of a training step
    would reach alone.
    """

    dataset: str
    name: str
    metric: str
    order: str
    queries: int
    groups: int
    shares: Array
    quantities: tuple[Quantity, ...]
    methods: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    estimates: dict[str, Estimates]
    curves: dict[str, Estimates]
    training_rates: Array
    architectures: list[Architecture]
    devices: tuple[str, ...]
    limits: dict[str, float]
    comparisons: dict[str, list[Comparison]]
    against_old: list[AgainstOld]
    notes: tuple[str, ...]

    @property
    def fewest_seeds(self) -> int:
        """Seeds of the method that has fewest."""
        return min(len(seeds) for seeds in self.seeds.values())

    def beaten(self, key: str, method: str) -> list[str]:
        """Methods that `method` beats in a quantity, by a difference that stands."""
        found = self.comparisons.get(key, [])
        return [each.second for each in found if each.first == method and each.claimed]

    def unbeaten(self, key: str) -> list[str]:
        """Methods that no other one beats in a quantity, in the order of `methods`."""
        beaten = {each.second for each in self.comparisons.get(key, []) if each.claimed}
        return [method for method in self.methods if method not in beaten]

    def best(self, key: str) -> str | None:
        """Return the method that beats every other one in a quantity, if there is one."""
        others = len(self.methods) - 1
        winners = [m for m in self.methods if len(self.beaten(key, m)) == others > 0]
        return winners[0] if winners else None

    def comparison(self, key: str, one: str, two: str) -> Comparison | None:
        """Return the comparison of two methods; None where they share no seed."""
        found = self.comparisons.get(key, [])
        return next((each for each in found if {each.first, each.second} == {one, two}), None)

    def value(self, key: str, method: str) -> float:
        """Mean of a quantity for a method."""
        return float(self.estimates[key].value[self.methods.index(method)])


def summarise(records: pd.DataFrame, metadata: pd.DataFrame) -> list[Scenario]:
    """Summarise every (dataset, scenario) of a suite's records, as `records.read_suite` has them.

    Raises BenchError where cells of one scenario have other shares or other queries.
    """
    return [
        _summarised(ScenarioCells(rows), metadata[_is(metadata, dataset, name)])
        for (dataset, name), rows in records.groupby(["dataset", "scenario"], sort=False)
    ]


def _is(metadata: pd.DataFrame, dataset: str, scenario: str) -> Any:
    return (metadata["dataset"] == dataset) & (metadata["scenario"] == scenario)


def _summarised(cells: ScenarioCells, metadata: pd.DataFrame) -> Scenario:
    found = estimate(cells)
    order = np.argsort(-found.scalars["AUC_mAP"].value, kind="stable")
    methods = tuple(cells.methods[position] for position in order)
    seeds = {method: cells.seeds[method] for method in methods}
    rates = circumstances.training_rates(metadata)
    old = {each.method: each for each in against_old(cells)}
    return Scenario(
        dataset=cells.dataset,
        name=cells.name,
        metric=str(metadata["metric"].iloc[0]),
        order=cells.order,
        queries=cells.queries,
        groups=len(cells.sizes),
        shares=cells.shares,
        quantities=cells.quantities,
        methods=methods,
        seeds=seeds,
        estimates={key: _reordered(each, order) for key, each in found.scalars.items()},
        curves={name: _reordered(each, order) for name, each in found.curves.items()},
        training_rates=np.array([rates[method] for method in methods]),
        architectures=circumstances.architectures(metadata),
        devices=circumstances.devices(metadata),
        limits=circumstances.training_limits(metadata),
        comparisons=compare(cells),
        against_old=[old[method] for method in methods],
        notes=circumstances.notes(
            metadata, seeds, tuple(m for m in methods if m in found.without_ratio)
        ),
    )


def _reordered(estimates: Estimates, order: NDArray[np.int64]) -> Estimates:
    return Estimates(estimates.value[order], estimates.low[order], estimates.high[order])
