"""How the time of statistics, and of a whole report, grows with what it is made of.

    python -m tests.scale.growth [--queries 1000,…] [--methods 5,…] [--seeds 5]

Made-up records. Statistics are those of one scenario with four methods and three seeds, by queries;
a report (tables, figures, page) is of three scenarios and 731 queries, by methods. The slope is
that of the logarithms: 1 where twice as much takes twice as long.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.analysis.scenarios import summarise
from bench.report import build
from tests.bench.conftest import make_suite, store_suite

SCENARIOS = ("extended-data", "extended-class", "enhanced-backbone")
QUERIES = 731
QUERY_SIZES, METHOD_SIZES = "1000,2000,4000,8000,16000,32000", "5,10,20,26"


def seconds(act: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def statistics(queries: int) -> float:
    """Time everything that is known about one scenario."""
    rows, notes = make_suite(queries=queries)
    return seconds(lambda: summarise(rows, notes))


def report(methods: int, seeds: int) -> float:
    """Time a report, the reading of its records included."""
    strengths = {
        f"method_{number:02d}": (0.02 * number - 1, 0.3 + 0.01 * number)
        for number in range(methods - 1)
    }
    strengths["independent"] = (-3.5, 0.55)
    with tempfile.TemporaryDirectory() as folder:
        suite = make_suite(SCENARIOS, strengths, range(seeds), queries=QUERIES, training=0.2)
        store_suite(Path(folder), *suite)
        return seconds(lambda: build(Path(folder), "made-up"))


def table(what: str, sizes: Sequence[int], taken: Sequence[float]) -> str:
    """State seconds by size, and the slope of their logarithms, as Markdown."""
    slope = np.polyfit(np.log(sizes), np.log(taken), 1)[0]
    rows = [f"| {size:,} | {each:.2f} |" for size, each in zip(sizes, taken, strict=True)]
    return "\n".join([f"| {what} | s |", "|---:|---:|", *rows, f"\nslope {slope:.2f}\n"])


def main() -> None:
    """Time both at all sizes and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", default=QUERY_SIZES)
    parser.add_argument("--methods", default=METHOD_SIZES)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    queries, methods = (
        [int(size) for size in sizes.split(",")] for sizes in (options.queries, options.methods)
    )
    statistics(queries[0])  # imports are not what grows
    print(table("queries", queries, [statistics(size) for size in queries]), flush=True)
    print(table("methods", methods, [report(size, options.seeds) for size in methods]))


if __name__ == "__main__":
    main()
