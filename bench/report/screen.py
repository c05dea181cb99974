"""The last screen of a command: what was run and what it says, within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench.analysis import stats
from bench.analysis.quantities import ALPHA
from bench.analysis.scenarios import Scenario
from bench.report.table import Screen
from bench.report.verdict import fewest_flips, price

COLUMNS = 80
LONGEST_METHOD = 22
FLIPS = ("AUC_NFR_at_1",)
ACCURACY = ("M_new_old", "AUC_mAP", "M_new_new")


def screen(scenarios: Sequence[Scenario], further: Sequence[str] = ()) -> Screen:
    """Show negative flips and accuracy of every method, which of them are best, and a verdict.

    `further` are sentences that stand below the verdict.
    """
    names = [method for scenario in scenarios for method in scenario.methods]
    width = max(len("backfilled: "), *(min(len(name), LONGEST_METHOD) for name in names)) + 2
    body = [line for scenario in scenarios for line in _scenario(scenario, width)]
    sentences = [*fewest_flips(scenarios), *price(scenarios), *further]
    lines = [*_heading(width), *body, *_footnote(scenarios), ""]
    return Screen(_what(scenarios), (*lines, *(part for text in sentences for part in _wrap(text))))


def _what(scenarios: Sequence[Scenario]) -> str:
    runs = sum(len(seeds) for scenario in scenarios for seeds in scenario.seeds.values())
    seeds = {seed for scenario in scenarios for each in scenario.seeds.values() for seed in each}
    counted = {(scenario.queries, scenario.groups) for scenario in scenarios}
    parts = [_count(runs, "run"), _count(len(seeds), "seed")]
    if len(counted) == 1:
        ((queries, groups),) = counted
        grouped = f" in {groups:,} groups" if groups < queries else ""
        parts.append(f"{queries:,} queries{grouped}")
    return f"{' · '.join(dict.fromkeys(s.dataset for s in scenarios))} · {', '.join(parts)}"


def _heading(width: int) -> Iterator[str]:
    blank = " " * width
    yield f"{blank}  negative flips, NFR@1 %       mAP at backfilled share".rstrip()
    yield f"{blank}  mean  [95 % CI]       max      0 %    mean   100 %".rstrip()


def _scenario(scenario: Scenario, width: int) -> Iterator[str]:
    old = scenario.estimates["M_old_old"].value
    level = f"old system {old[0]:.3f}" if float(old.max() - old.min()) < 5e-4 else ""
    yield f"{scenario.name:<{width + 32}}{level:>20}".rstrip()
    flips = scenario.estimates[FLIPS[0]]
    for row in flips.value.argsort(kind="stable"):
        method = scenario.methods[row]
        interval = f"[{100 * flips.low[row]:.1f}, {100 * flips.high[row]:.1f}]"
        worst = scenario.curves["NFR_at_1"].value[row].max()
        accuracies = "".join(
            f"  {scenario.value(key, method):.3f}{_star(scenario, key, method)}" for key in ACCURACY
        )
        yield (
            f"  {_short(method):<{width - 2}} {100 * flips.value[row]:5.1f}"
            f"{_star(scenario, FLIPS[0], method)} {interval:<13} {100 * worst:5.1f}  {accuracies}"
        ).rstrip()


def _star(scenario: Scenario, key: str, method: str) -> str:
    """Mark a method that no other one is significantly better than."""
    compared = scenario.comparisons.get(key)
    return "*" if compared and method in scenario.unbeaten(key) else " "


def _footnote(scenarios: Sequence[Scenario]) -> Iterator[str]:
    if any(any(scenario.comparisons.values()) for scenario in scenarios):
        yield f"* no other method is significantly better (column-wise, Holm, α = {ALPHA})"
    if min(scenario.fewest_seeds for scenario in scenarios) < stats.LEAST_SEEDS:
        yield "  fewer than 3 seeds: tests hold these trained models fixed"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_METHOD else f"{name[: LONGEST_METHOD - 1]}…"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
