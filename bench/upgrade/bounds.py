"""How sure a mean or a rate of an upgrade is: groups of queries are what is sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.limits import Bound
from bench.analysis.rates import largest_rate_interval, with_width
from bench.analysis.stats import hierarchical_interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Group [Q] and weight [Q] of every query."""

    group: NDArray[np.int64]
    weight: Array

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(np.unique(self.group))

    def take(self, chosen: NDArray[Any]) -> Sampling:
        """The same for some of the queries."""
        return Sampling(self.group[chosen], self.weight[chosen])

    def mean(self, values: Array) -> Any:
        """Weighted mean of values [..., Q] over the queries."""
        return values @ self.weight / self.weight.sum()

    def lowest(self, values: Array, generator: np.random.Generator, least: float = 0.0) -> Bound:
        """Bound the lowest of C means of values [C, Q], between `least` and 1, the models fixed."""
        number = self._numbered()
        found = hierarchical_interval(
            values.T[None],
            generator,
            lambda means: means.min(-1, keepdims=True),
            groups=number,
            weights=self.weight,
        )
        row = int(np.argmin(self.mean(values)))
        column = values[row][:, None]
        known = with_width(found, column, number, self.weight, least)
        # Student's width of few groups may go beyond what a mean can be.
        return Bound.of(replace(known, low=known.low.clip(least), high=known.high.clip(None, 1)))

    def largest_rate(self, events: Array) -> Bound:
        """Bound the largest of C rates of events [C, Q], the models fixed."""
        return Bound.of(
            largest_rate_interval(
                events.T.astype(np.float64), self._numbered(), weights=self.weight
            )
        )

    def _numbered(self) -> NDArray[np.int64]:
        """Number the groups [Q] from 0."""
        return np.unique(self.group, return_inverse=True)[1]
