"""What each method of a scenario costs to serve, over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import mean, median

from bench.storage.metadata import RunMetadata, ServingCosts

Place = tuple[str, str]  # dataset, scenario


@dataclass(frozen=True)
class MethodCosts:
    """Costs of a method at each of `shares`; times are means over seeds, the rest is the same."""

    one: ServingCosts
    milliseconds: list[float]
    search_ms: list[float]
    fit_seconds: float

    @property
    def mean_milliseconds(self) -> float:
        """Milliseconds of a query, averaged over the backfill."""
        return mean(self.milliseconds)

    def at(self, share: float) -> int:
        """Place of the share that is nearest to this one."""
        return min(range(len(self.one.shares)), key=lambda s: abs(self.one.shares[s] - share))


def method_costs(notes: Iterable[RunMetadata]) -> dict[Place, dict[str, MethodCosts]]:
    """Collect costs by (dataset, scenario) and method; records of older versions have none."""
    found: dict[Place, dict[str, list[ServingCosts]]] = {}
    for note in notes:
        if note.costs is not None:
            methods = found.setdefault((note.dataset, note.scenario), {})
            methods.setdefault(note.method, []).append(note.costs)
    return {place: dict(_methods(methods)) for place, methods in found.items()}


def _methods(methods: dict[str, list[ServingCosts]]) -> Iterator[tuple[str, MethodCosts]]:
    """Average each method over seeds; an image takes the same time to embed for all of them.

    Their models are of one architecture, so that what tells their speeds apart is noise.
    """
    every = [one.encoder_ms for costs in methods.values() for one in costs]
    encoder_ms = {age: median(one[age] for one in every) for age in every[0]}
    for name, costs in methods.items():
        yield name, _over_seeds(costs, encoder_ms)


def _over_seeds(costs: list[ServingCosts], encoder_ms: dict[str, float]) -> MethodCosts:
    times = (one.milliseconds(encoder_ms) for one in costs)
    return MethodCosts(
        costs[0],
        [mean(each) for each in zip(*times, strict=True)],
        [mean(each) for each in zip(*(one.search_ms for one in costs), strict=True)],
        mean(one.fit_seconds for one in costs),
    )
