"""How much the backfill order matters: a table per scenario, and a few sentences per suite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bench.analysis import stats, suite_records
from bench.analysis.orders import QUANTITIES, Change, OrderComparison, OrderLine, compare_orders
from bench.analysis.quantities import ALPHA, Quantity
from bench.analysis.suite_records import EVERYTHING, Choice
from bench.evaluation import records
from bench.report.table import Cell, Column, Table

WARNING = "reads the queries"
COLUMNS = (
    Column("method"),
    Column("order"),
    *(
        column
        for each in QUANTITIES
        for column in (
            Column(each.label, 3, each.better),
            Column(f"{each.label}: difference", 4, signed=True),
        )
    ),
)
READS_QUERIES = (
    f'"{WARNING}": this order reads the neighbourhoods of gallery items, and the queries are '
    "gallery items here (or the records do not say that they are not), so that it reads what will "
    "be asked. It shows nothing about a system whose queries are not in its gallery, and nothing "
    "is claimed."
)
READS_TRUTH = (
    "{orders} read the answers, which no system can; they are not tested. oracle-mAP and "
    "oracle-flips are bounds of what the other orders reach in AUC mAP and in AUC NFR@1, not of "
    "what could be reached."
)
# What better and worse are called, by quantity.
_WORDS = {
    "AUC_mAP": ("more", "less"),
    "AUC_NFR_at_1": ("fewer", "more"),
    "share_to_gain": ("sooner", "later"),
}


def order_comparisons(
    results: Path, suite: str, choice: Choice = EVERYTHING
) -> list[OrderComparison]:
    """Compare the backfill orders of a suite's records; nothing where there is one order only."""
    return _compared(results, suite, suite_records.suite_key(results, suite, choice), choice)


@cache
def _compared(results: Path, suite: str, key: str, choice: Choice) -> list[OrderComparison]:
    """Compare once per process for the same records, which `key` names."""
    notes = [records.read_note(path) for path in suite_records.suite_paths(results, suite, choice)]
    orders = list(dict.fromkeys(name for note in notes for name in note.settings.orders))
    if len(orders) < 2:
        return []
    read = {order: suite_records.read_suite(results, suite, order, choice)[0] for order in orders}
    return compare_orders(read, notes)


def order_tables(results: Path, suite: str, choice: Choice = EVERYTHING) -> list[Table]:
    """Make the table of each scenario's backfill orders; none where there is one order only."""
    return [order_table(each) for each in order_comparisons(results, suite, choice)]


def order_table(comparison: OrderComparison) -> Table:
    """Make the table of one scenario: a row per method and order."""
    rows = tuple(
        (
            Cell(line.method),
            Cell(f"{line.order} ({WARNING})" if line.reads_queries else line.order),
            *(cell for each in QUANTITIES for cell in _cells(line.changes[each.key])),
        )
        for line in comparison.lines
    )
    return Table(
        title=f"Backfill orders in {comparison.scenario} on {comparison.dataset}",
        columns=COLUMNS,
        rows=rows,
        caption=_caption(comparison),
        notes=tuple(_notes(comparison.lines)),
    )


def _cells(change: Change) -> tuple[Cell, Cell]:
    return (
        Cell(change.value),
        Cell(change.difference, change.low, change.high, best=change.claimed),
    )


def _caption(comparison: OrderComparison) -> str:
    return (
        f"Means over {comparison.seeds} seed{'s' * (comparison.seeds != 1)} and "
        f"{comparison.groups:,} groups of queries ({comparison.queries:,} queries). Differences "
        f"are those to the order '{comparison.reference}' on the same models and queries, with "
        f"95 % intervals (hierarchical bootstrap over {_covered(comparison)}). Bold: significant, "
        "tested by exchanging the two orders in whole groups of queries, two-sided, Holm over "
        f"the {len(comparison.tested)} comparisons of a column, α = {ALPHA}"
        + ("; the interval excludes 0, too. " if _covers_seeds(comparison) else ". ")
        + '"95 % at" is the share of the gallery that has to be backfilled before mAP has risen by '
        "95 % of M(n,n) − M(o,o), in steps of the curve. A dash: nothing is gained, or the bounds "
        "are not known."
    )


def _covers_seeds(comparison: OrderComparison) -> bool:
    return comparison.seeds >= stats.LEAST_SEEDS


def _covered(comparison: OrderComparison) -> str:
    if _covers_seeds(comparison):
        return "seeds, then groups of queries"
    return "groups of queries alone: fewer than 3 seeds say nothing about other trainings"


def _notes(lines: Sequence[OrderLine]) -> list[str]:
    """Warn of orders that read the queries, and say which ones read the answers."""
    knowing = dict.fromkeys(line.order for line in lines if line.reads_truth)
    notes = [READS_QUERIES] if any(line.reads_queries for line in lines) else []
    return notes + ([READS_TRUTH.format(orders=", ".join(knowing))] if knowing else [])


# ---------------------------------------------------------------------------------- sentences


def order_sentences(comparisons: Sequence[OrderComparison]) -> list[str]:
    """State for each order that a system could follow which methods it helps or harms, and in what.

    For each order but the first, a sentence on each of mAP, flips and the share to 95 % of the gain
    in which methods differ, and one on those in which none does.
    """
    if not comparisons:
        return []
    orders = dict.fromkeys(line.order for each in comparisons for line in each.tested)
    return [
        sentence
        for order in orders
        for sentence in _sentences(order, comparisons[0].reference, comparisons)
    ]


def _sentences(order: str, reference: str, comparisons: Sequence[OrderComparison]) -> list[str]:
    lines = [line for each in comparisons for line in each.tested if line.order == order]
    if any(line.reads_queries for line in lines):
        return [f"{order}: no claim, it reads the gallery, and the gallery holds the queries."]
    against = f"{order} against {reference}"
    subjects = {
        "AUC_mAP": "AUC mAP",
        "AUC_NFR_at_1": "flips (AUC NFR@1)",
        "share_to_gain": "share to 95 % of the gain",
    }
    told = {subjects[each.key]: _told(each, lines) for each in QUANTITIES}
    found = [f"{against}, {subject}: {text}." for subject, text in told.items() if text]
    if alike := [subject for subject, text in told.items() if not text]:
        found.append(f"{against}, {', '.join(alike)}: no significant difference with any method.")
    return found


def _told(quantity: Quantity, lines: Sequence[OrderLine]) -> str:
    """State which methods differ significantly, in how many scenarios, and or nothing."""
    better, worse = _WORDS[quantity.key]
    scenarios: dict[str, list[Change]] = {}
    for line in lines:
        scenarios.setdefault(line.method, []).append(line.changes[quantity.key])
    parts, apart = [], set()
    for word, sign in ((better, quantity.better), (worse, -quantity.better)):
        named = []
        for method, changes in scenarios.items():
            found = [c.difference for c in changes if c.claimed and c.difference * sign > 0]
            if found:
                apart.add(method)
                where = f" in {len(found)} of {len(changes)} scenarios" if len(changes) > 1 else ""
                named.append(f"{method} ({_range(found)}{where})")
        if named:
            parts.append(f"{word} with {', '.join(named)}")
    rest = [method for method in scenarios if method not in apart]
    if rest and apart:
        parts.append(f"no significant difference with {', '.join(rest)}")
    return "; ".join(parts)


def _range(differences: Sequence[float]) -> str:
    low, high = min(differences), max(differences)
    shown = f"{low:+.3f}" if len(differences) == 1 else f"{low:+.3f} to {high:+.3f}"
    return shown.replace("-", "−")
