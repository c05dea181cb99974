"""What is known about the scenarios of a suite → tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import pandas as pd

from bench import stats
from bench.records import REFERENCE_METHOD
from bench.report.scenarios import (
    ALPHA,
    RATES,
    Comparison,
    Quantity,
    Scenario,
    summarise,
)
from bench.report.table import P_COLUMNS, Cell, Column, Table


def suite_tables(records: pd.DataFrame, metadata: pd.DataFrame) -> list[Table]:
    """Make the tables of a suite from what `records.read_suite` returned.

    One per (dataset, scenario); then the ranks over scenarios, where there are enough of them.
    """
    return tables_of(summarise(records, metadata))


def tables_of(scenarios: Sequence[Scenario]) -> list[Table]:
    """Make the tables of summarised scenarios."""
    return [*map(scenario_table, scenarios), *ranking_tables(scenarios)]


def scenario_table(scenario: Scenario) -> Table:
    """Make the table of one scenario: a row per method, its marks saying which ones it beats."""
    marks = _marks(scenario.methods)
    columns = [Column("method")]
    columns += [Column(each.label, 3, each.better) for each in scenario.quantities]
    columns += [Column(each.label, 0, each.better) for each in RATES]
    rows = []
    for position, method in enumerate(scenario.methods):
        row = [Cell(method, marks=marks[method])]
        for quantity in scenario.quantities:
            found = scenario.estimates[quantity.key]
            beaten = sorted(scenario.beaten(quantity.key, method), key=scenario.methods.index)
            row.append(
                Cell(
                    float(found.value[position]),
                    float(found.low[position]),
                    float(found.high[position]),
                    ("," if len(marks) > 26 else "").join(marks[other] for other in beaten),
                    tuple(beaten),
                    scenario.best(quantity.key) == method,
                )
            )
        row += [Cell(float(scenario.rates[rate.key][position])) for rate in RATES]
        rows.append(tuple(row))
    return Table(
        title=f"{scenario.name} on {scenario.dataset}",
        columns=tuple(columns),
        rows=tuple(rows),
        caption=_caption(scenario),
        notes=(*_claims(scenario), *scenario.notes),
    )


def _marks(methods: Sequence[str]) -> dict[str, str]:
    """Letters of methods: a … z, then aa, ab, …"""
    found = {}
    for position, method in enumerate(methods):
        lead = ascii_lowercase[position // 26 - 1] if position >= 26 else ""
        found[method] = lead + ascii_lowercase[position % 26]
    return found


def _caption(scenario: Scenario) -> str:
    """Say what the numbers are, what was tested, and what is not known."""
    return " ".join(
        [
            f"Means over {_seed_counts(scenario)} and {scenario.queries:,} queries, "
            f"{scenario.metric}, backfill order {scenario.order}; ± half of the 95 % interval "
            f"(hierarchical bootstrap over {_covered(scenario)}).",
            _family(scenario),
            *_limits(scenario),
            "NFR@1: share of all queries right at rank 1 in the old system and wrong in the "
            "refreshed one. Tax: M(*,*) − M(n,n); gain: (M(n,o) − M(o,o)) / (M(*,*) − M(o,o)), "
            f"with M(*,*) of '{REFERENCE_METHOD}'; no claim is made about tax, gain, P_1 and "
            "throughput.",
            f"Throughput on {'; '.join(scenario.devices)}.",
            *_bottleneck(scenario),
        ]
    )


def _bottleneck(scenario: Scenario) -> Iterator[str]:
    """Say what limits the speed of training, so that one knows where more hardware would help."""
    if scenario.limits:
        (slowest, rate), *others = scenario.limits.items()
        listed = ", ".join(f"{part} {each:,.0f}" for part, each in others)
        alone = f"{rate:,.0f} images/s alone" + (f"; {listed}" if listed else "")
        yield f"Training is limited by {slowest} ({alone})."


def _seed_counts(scenario: Scenario) -> str:
    counts = sorted({len(seeds) for seeds in scenario.seeds.values()})
    shown = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{shown} seed{'s' if counts[-1] > 1 else ''}"


def _covered(scenario: Scenario) -> str:
    enough = [len(seeds) >= stats.LEAST_SEEDS for seeds in scenario.seeds.values()]
    if all(enough):
        return "seeds and queries"
    if not any(enough):
        return "queries alone"
    return "seeds and queries, or queries alone where a method has fewer than 3 seeds"


def _family(scenario: Scenario) -> str:
    """Name the tests, the family of comparisons, and the rule for a claim."""
    comparisons = next(iter(scenario.comparisons.values()), [])
    if not comparisons:
        return "No two methods share a seed, so that nothing is compared."
    pairs = f"{len(comparisons)} pair{'s' if len(comparisons) > 1 else ''}"
    text = (
        "Letters name the methods that are beaten, bold the one that beats all others: sign-flip "
        "permutation of each query's AP or area, exact McNemar on flips, Holm-corrected over the "
        f"{pairs} of methods in a column, α = {ALPHA}"
    )
    if max(each.seeds for each in comparisons) >= stats.LEAST_SEEDS:
        text += "; with 3 seeds or more, the interval of the difference over seeds excludes 0, too"
    return f"{text}."


def _limits(scenario: Scenario) -> Iterator[str]:
    if scenario.fewest_seeds < stats.LEAST_SEEDS:
        yield (
            "With fewer than 3 seeds nothing can be said about the variance of training: "
            "such intervals and claims hold the trained models fixed."
        )


def _claims(scenario: Scenario) -> Iterator[str]:
    """State each bold number's lead over the next best method, with its effect size."""
    for quantity in scenario.quantities:
        best = scenario.best(quantity.key)
        if best is None:
            continue
        found = [each for each in scenario.comparisons[quantity.key] if each.first == best]
        yield f"{quantity.label}: {describe(min(found, key=lambda each: each.advantage))}."


def describe(comparison: Comparison) -> str:
    """Say who leads whom by how much, with the corrected p-value and effect size."""
    return (
        f"{comparison.first} leads {comparison.second} by {comparison.advantage:.3f} "
        f"[{comparison.low:.3f}, {comparison.high:.3f}], p {p_text(comparison.corrected_p)}, "
        f"d_z {comparison.effect.cohen_dz:.2f}"
    )


def p_text(p: float) -> str:
    """Write a p-value with its relation sign."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.4f}"


def curve_table(scenario: Scenario, name: str) -> Table:
    """Make the table of a curve: methods by backfilled share, at most 11 shares."""
    label = name.replace("_at_", "@")
    found = scenario.curves[name]
    step = max(1, (len(scenario.shares) - 1) // 10)
    places = range(0, len(scenario.shares), step)
    rows = [
        (
            Cell(method),
            *(
                Cell(
                    float(found.value[row, place]),
                    float(found.low[row, place]),
                    float(found.high[row, place]),
                )
                for place in places
            ),
        )
        for row, method in enumerate(scenario.methods)
    ]
    return Table(
        title=f"{label} by backfilled share in {scenario.name} on {scenario.dataset}",
        columns=(Column("method"), *(Column(f"{scenario.shares[p]:.0%}") for p in places)),
        rows=tuple(rows),
        caption=f"{label} at each backfilled share of the gallery, ± half of the 95 % interval.",
    )


def comparison_table(scenario: Scenario, quantity: Quantity) -> Table:
    """Make the table of every pair of methods in one tested quantity."""
    comparisons = sorted(scenario.comparisons[quantity.key], key=lambda each: -each.advantage)
    rows = [
        (
            Cell(each.first),
            Cell(each.second),
            Cell(each.advantage, each.low, each.high, best=each.claimed),
            Cell(each.effect.cohen_dz),
            Cell(each.effect.rank_biserial),
            Cell(f"{each.effect.wins} / {each.effect.ties} / {each.effect.losses}"),
            Cell(each.p),
            Cell(each.corrected_p),
            Cell(each.detectable.models_fixed),
            Cell(each.detectable.over_training),
        )
        for each in comparisons
    ]
    return Table(
        title=f"{quantity.label} in {scenario.name} on {scenario.dataset}: all pairs",
        columns=(
            *(Column("better"), Column("than")),
            *(Column("by", 4), Column("d_z", 2), Column("rank-biserial", 2)),
            Column("wins / ties / losses"),
            *(Column(name, 4) for name in P_COLUMNS),
            *(Column("detectable, these models", 4), Column("detectable, other trainings", 4)),
        ),
        rows=tuple(rows),
        caption=(
            f"In bold: differences that stand. Test: {_test_name(quantity)}, two-sided; "
            f"Holm over these {len(rows)} pairs. d_z: mean divided by standard deviation of the "
            "queries' differences. Detectable: the smallest true difference of this pair found "
            f"with a power of 80 %, with these trained models over other queries at α = {ALPHA} / "
            f"{len(rows)}, and over other trainings at α = {ALPHA}."
        ),
    )


def _test_name(quantity: Quantity) -> str:
    if quantity.test == "McNemar":
        return "exact McNemar, flipping whole queries over all seeds"
    return f"sign-flip permutation of whole queries, at least {stats.RESAMPLES:,} resamples"


# ------------------------------------------------------------------------------------ rankings

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


def ranking_tables(scenarios: Sequence[Scenario]) -> list[Table]:
    """Make one table of the mean ranks over scenarios, in each quantity that ranks methods."""
    found = rankings(scenarios)
    if not found:
        return []
    first = found[0].ranking
    order = sorted(range(len(found[0].methods)), key=lambda place: first.mean_ranks[place])
    rows = [
        (
            Cell(found[0].methods[place]),
            *(Cell(float(each.ranking.mean_ranks[place])) for each in found),
        )
        for place in order
    ]
    tests = "; ".join(f"{each.quantity.label}: p {p_text(each.ranking.p)}" for each in found)
    return [
        Table(
            title=f"Mean rank over {first.scenarios} scenarios",
            columns=(
                Column("method"),
                *(Column(f"rank by {each.quantity.label}", 2) for each in found),
            ),
            rows=tuple(rows),
            caption=(
                f"1 is best. Friedman's test over scenarios, {tests}. Methods whose mean ranks "
                f"differ by less than {first.critical_difference:.2f} are not told apart (Nemenyi, "
                f"α = {ALPHA}). Scenarios on one dataset share its queries, so that they are not "
                "independent."
            ),
        )
    ]
