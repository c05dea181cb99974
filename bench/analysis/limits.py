"""The one verdict: an interval held against a limit. Suites and `evaluate` both judge by it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from typing import Literal

from bench.analysis.stats import Interval

State = Literal["pass", "fail", "undecided"]
UNDECIDED = "the 95 % CI straddles the limit (use more queries, of other groups)"


@dataclass(frozen=True)
class Bound:
    """A number with its 95 % bounds, NaN where they cannot be told; all one where it is exact."""

    estimate: float
    low: float = nan
    high: float = nan

    @classmethod
    def of(cls, interval: Interval, column: int = 0) -> Bound:
        """Take one column of an interval."""
        parts = (interval.estimate, interval.low, interval.high)
        return cls(*(float(part[column]) for part in parts))

    @classmethod
    def exact(cls, value: float) -> Bound:
        """Take what was counted or measured as it is: another sample is not what is asked for."""
        return cls(value, value, value)

    @property
    def known(self) -> bool:
        """Whether there are bounds."""
        return not (isnan(self.low) or isnan(self.high))

    def __str__(self) -> str:
        if not self.known:
            return f"{self.estimate:.4f}, 95 % CI cannot be told"
        if self.low == self.high:
            return f"{self.estimate:.4f}"
        return f"{self.estimate:.4f}, 95 % CI [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Limit:
    """A number that must not be exceeded ("at most") or must be reached ("at least").

    `what` names the quantity as a reader is to see it, with its formula.
    """

    what: str
    kind: Literal["at most", "at least"]
    bound: float


@dataclass(frozen=True)
class Judged:
    """A limit with what is known and the state that it leads to."""

    limit: Limit
    found: Bound
    state: State

    @property
    def words(self) -> str:
        """State the estimate, its interval and the limit."""
        sign = "≤" if self.limit.kind == "at most" else "≥"
        return f"{self.limit.what}: {self.found}; required {sign} {self.limit.bound:g}"

    @property
    def sentence(self) -> str:
        """State the words and the outcome."""
        why = f": {UNDECIDED}" if self.state == "undecided" and self.found.known else ""
        return f"{self.words}: {self.state}{why}"


def judge(limit: Limit, found: Bound) -> Judged:
    """Judge a limit: it passes or fails where the whole interval says so, else it is undecided.

    Bounds that cannot be told (NaN) decide nothing.
    """
    within, beyond = (
        (found.high <= limit.bound, found.low > limit.bound)
        if limit.kind == "at most"
        else (found.low >= limit.bound, found.high < limit.bound)
    )
    state: State = "pass" if within else "fail" if beyond else "undecided"
    return Judged(limit, found, state if found.known else "undecided")


def direction(found: Bound) -> int:
    """Return on which side of 0 a difference lies: +1, −1, or 0 where that cannot be told."""
    if not found.known:
        return 0
    return int(found.low > 0) - int(found.high < 0)
