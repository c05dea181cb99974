"""Seconds of work that is repeated, its warm-up left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


def repeated(work: Callable[[], Any], repeats: int = 5, budget: float = math.inf) -> list[float]:
    """Seconds of each repetition of `work`, after one that is not counted.

    Once they have taken `budget` seconds together, no further one is begun.
    """
    work()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < budget:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds
