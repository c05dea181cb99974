"""What a step of a rehearsal found, and all of them as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["passed", "failed", "left out"]
MARKS: dict[State, str] = {"passed": "✓", "failed": "✗", "left out": "–"}
COLOURS: dict[State, str] = {"passed": "green", "failed": "red", "left out": "yellow"}


@dataclass(frozen=True)
class Finding:
    """What a step found, in a sentence, with the numbers behind it."""

    state: State
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


def judged(good: bool, words: str, **figures: Any) -> Finding:
    """State a finding that is good or not."""
    return Finding("passed" if good else "failed", words, figures)


@dataclass(frozen=True)
class Verdict:
    """A finding with its step, the seconds it took, and the peak of any of its processes."""

    step: str
    finding: Finding
    seconds: float
    peak_bytes: int

    def json(self) -> dict[str, Any]:
        """As JSON content."""
        found = asdict(self.finding)
        return {"step": self.step, **found, "seconds": self.seconds, "peak_bytes": self.peak_bytes}


def failed(verdicts: Sequence[Verdict]) -> list[str]:
    """Names of the steps that failed."""
    return [each.step for each in verdicts if each.finding.state == "failed"]
