"""What is known about the scenarios of a suite → tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_lowercase

from bench.analysis import stats
from bench.analysis.comparisons import Comparison
from bench.analysis.quantities import ALPHA, ARCHITECTURE_RATES, TRAINING_RATE, Quantity
from bench.analysis.rankings import rankings
from bench.analysis.scenarios import Scenario
from bench.errors import BenchError
from bench.evaluation.records import REFERENCE_METHOD
from bench.report.table import P_COLUMNS, Cell, Column, Table

DIFFERENCES = "Differences to"  # the title of such a table begins so


def scenario_table(scenario: Scenario) -> Table:
    """Make the table of one scenario: a row per method, its marks saying which ones it beats."""
    marks = _marks(scenario.methods)
    columns = [Column("method")]
    columns += [Column(each.label, 3, each.better) for each in scenario.quantities]
    columns.append(Column(TRAINING_RATE.label, 0, TRAINING_RATE.better))
    rows = []
    for position, method in enumerate(scenario.methods):
        row = [Cell(method, letter=marks[method])]
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
        row.append(Cell(float(scenario.training_rates[position])))
        rows.append(tuple(row))
    return Table(
        title=f"{scenario.name} on {scenario.dataset}",
        columns=tuple(columns),
        rows=tuple(rows),
        caption=_caption(scenario),
        notes=(*_claims(scenario), *scenario.notes),
    )


def _marks(methods: Sequence[str]) -> dict[str, str]:
    """Letters of methods: a to z, then aa, ab and so on."""
    found = {}
    for position, method in enumerate(methods):
        lead = ascii_lowercase[position // 26 - 1] if position >= 26 else ""
        found[method] = lead + ascii_lowercase[position % 26]
    return found


def _caption(scenario: Scenario) -> str:
    """State what the numbers are, what was tested, and what is not known."""
    return " ".join(
        [
            f"Means over {_seed_counts(scenario)} and {sampled(scenario)}, {scenario.metric}, "
            f"backfill order {scenario.order}; 95 % bootstrap confidence intervals "
            f"({_covered(scenario)}); those of rates are no narrower than exact ones.",
            _family(scenario),
            *_limits(scenario),
            "NFR@1: share of all queries with a relevant item at rank 1 in the old system and none "
            "there in the refreshed one. Tax: M(*,*) − M(n,n); update gain: (M(n,o) − M(o,o)) / "
            f"(M(*,*) − M(o,o)), with M(*,*) of '{REFERENCE_METHOD}'. Tax, update gain, P_1 and "
            "throughput are not tested.",
            f"Throughput on {'; '.join(scenario.devices)}.",
            *_bottleneck(scenario),
        ]
    )


def _bottleneck(scenario: Scenario) -> Iterator[str]:
    """State what limits the speed of training, so that one knows where more hardware would help."""
    if scenario.limits:
        (slowest, rate), *others = scenario.limits.items()
        listed = ", ".join(f"{part} {each:,.0f}" for part, each in others)
        alone = f"{rate:,.0f} images/s" + (f"; {listed}" if listed else "")
        yield f"Training bottleneck: {slowest} ({alone})."


def sampled(scenario: Scenario) -> str:
    """Name what is sampled, and how many queries that is."""
    if scenario.groups == scenario.queries:
        return f"{scenario.queries:,} queries"
    return f"{scenario.groups:,} groups of queries ({scenario.queries:,} queries)"


def _seed_counts(scenario: Scenario) -> str:
    counts = sorted({len(seeds) for seeds in scenario.seeds.values()})
    shown = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{shown} seed{'s' if counts[-1] > 1 else ''}"


def _covered(scenario: Scenario) -> str:
    enough = [len(seeds) >= stats.LEAST_SEEDS for seeds in scenario.seeds.values()]
    if all(enough):
        return "seeds, then groups of queries"
    if not any(enough):
        return "groups of queries alone"
    return "seeds, then groups of queries, or groups alone where a method has fewer than 3 seeds"


def _family(scenario: Scenario) -> str:
    """Name the tests, the family of comparisons, and the rule for a claim."""
    comparisons = next(iter(scenario.comparisons.values()), [])
    if not comparisons:
        return "No two methods share a seed, so nothing is compared."
    text = (
        "Superscripts: letters of the methods that are significantly worse; bold: significantly "
        "better than all others. Tests: sign-flip permutation on AP or area, exact McNemar on "
        "flips, both by whole groups of queries; Holm over the "
        f"{_pairs(len(comparisons))} of methods in a column, α = {ALPHA}"
    )
    return f"{text}{_over_seeds(scenario)}."


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count > 1 else ''}"


def _over_seeds(scenario: Scenario) -> str:
    """State that claims over several trainings need a test and an interval over them, too."""
    comparisons = next(iter(scenario.comparisons.values()))
    if max((each.seeds for each in comparisons), default=0) < stats.LEAST_SEEDS:
        return ""
    return (
        "; with 3 seeds or more a t test over trainings and groups must also be significant (Holm "
        "likewise) and the 95 % CI of the difference exclude 0"
    )


def _limits(scenario: Scenario) -> Iterator[str]:
    if scenario.fewest_seeds < stats.LEAST_SEEDS:
        yield (
            "Fewer than 3 seeds: intervals and tests reflect query sampling only, not training "
            "variance."
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
    """State who is better than whom by how much, with the corrected p-value and effect size."""
    return (
        f"{comparison.first} is better than {comparison.second} by {comparison.advantage:.3f} "
        f"[{comparison.low:.3f}, {comparison.high:.3f}], p {p_text(comparison.corrected_p)}, "
        f"d_z {comparison.effect.cohen_dz:.2f}"
    )


def p_text(p: float) -> str:
    """Write a p-value with its relation sign."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.4f}"


# --------------------------------------------------------------------------------- differences


def difference_tables(scenarios: Sequence[Scenario], against: str | None = None) -> list[Table]:
    """Make one table per scenario of what each method differs by from a reference method.

    `against` names the reference, by default the best by AUC mAP of each scenario, which is taken
    as well where `against` was not run. Raises BenchError for a method that no scenario has.
    """
    known = list(dict.fromkeys(method for each in scenarios for method in each.methods))
    if against is not None and against not in known:
        raise BenchError(
            f"--against {against}: there are no records of that method; expected one of "
            f"{', '.join(known)}"
        )
    found = [
        difference_table(each, against if against in each.methods else each.methods[0])
        for each in scenarios
    ]
    return [table for table in found if table.rows]


def difference_table(scenario: Scenario, reference: str) -> Table:
    """Make the table of paired differences to a reference method, each with its interval."""
    tested = [quantity for quantity in scenario.quantities if quantity.test]
    rows = []
    for method in scenario.methods:
        compared = [scenario.comparison(each.key, method, reference) for each in tested]
        if method == reference or not any(compared):
            continue
        cells = [
            _difference(each, quantity, method, reference)
            for each, quantity in zip(compared, tested, strict=True)
        ]
        rows.append((Cell(method), *cells))
    pairs = len(scenario.comparisons[tested[0].key])
    return Table(
        title=f"{DIFFERENCES} {reference} in {scenario.name} on {scenario.dataset}",
        columns=(
            Column("method"),
            *(Column(each.label, 3, each.better, signed=True) for each in tested),
        ),
        rows=tuple(rows),
        caption=(
            f"Method minus {reference} on the same queries, old models, backfill order and seeds, "
            f"over {sampled(scenario)}, with the 95 % CI of the difference ({_covered(scenario)}). "
            f"Bold: significant, tested by whole groups of queries; Holm over the {_pairs(pairs)} "
            f"of methods in a column, α = {ALPHA}{_over_seeds(scenario)}. All others do "
            "not differ significantly from 0."
        ),
    )


def _difference(
    compared: Comparison | None, quantity: Quantity, method: str, reference: str
) -> Cell:
    if compared is None:
        return Cell(float("nan"))
    found = compared.between(method, reference, quantity.better)
    return Cell(found.estimate, found.low, found.high, best=compared.claimed)


def architecture_table(scenarios: Sequence[Scenario]) -> Table:
    """Make the table of what each architecture does per second, once for all its methods."""
    rows = {
        (scenario.name, each.name): (
            Cell(each.name),
            Cell(scenario.name),
            *(Cell(each.rates.get(rate.key, float("nan"))) for rate in ARCHITECTURE_RATES),
            Cell(float(each.cells)),
        )
        for scenario in scenarios
        for each in scenario.architectures
    }
    devices = dict.fromkeys(place for scenario in scenarios for place in scenario.devices)
    return Table(
        title="Throughput by architecture",
        columns=(
            Column("architecture of the new model"),
            Column("scenario"),
            *(Column(rate.label, 0, rate.better) for rate in ARCHITECTURE_RATES),
            Column("runs", 0),
        ),
        rows=tuple(rows.values()),
        caption=(
            "Medians over all runs of an architecture: methods that share one differ in these "
            f"rates by noise alone. Measured on {'; '.join(devices)}."
        ),
    )


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
        caption=f"{label} at each backfilled share of the gallery, with 95 % CI.",
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
            Cell(each.corrected_p_trainings),
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
            f"Bold: significant differences. Test: {_test_name(quantity)}, two-sided; "
            f"Holm over these {len(rows)} pairs. p over trainings (Holm): t test over trainings "
            "and groups, the variance of trainings pooled over pairs and no less than the pair's "
            "own. d_z: mean divided by standard deviation of the differences of groups; wins, ties "
            "and losses count groups of queries. Detectable: "
            "the smallest true difference of this pair found with a power of 80 %, with these "
            f"trained models over other groups of queries at α = {ALPHA} / {len(rows)}, and over "
            f"other trainings at α = {ALPHA}."
        ),
    )


def _test_name(quantity: Quantity) -> str:
    if quantity.test == "McNemar":
        return "exact McNemar, flipping whole groups of queries over all seeds"
    return (
        f"sign-flip permutation of whole groups of queries, at least {stats.RESAMPLES:,} resamples"
    )


# ------------------------------------------------------------------------------------ rankings


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
                f"differ by less than {first.critical_difference:.2f} do not differ "
                f"significantly (Nemenyi, α = {ALPHA}). Scenarios on one dataset share its "
                "queries, so they are not independent."
            ),
        )
    ]
