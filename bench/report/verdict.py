"""What the numbers say, in plain words: which method, in which scenario, and how sure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench import metrics, stats
from bench.records import REFERENCE_METHOD
from bench.report.scenarios import Comparison, Scenario
from bench.report.tables import SuiteRanking, p_text


def suite_verdict(scenarios: Sequence[Scenario], ranked: Sequence[SuiteRanking]) -> list[str]:
    """Say in a few sentences what the suite as a whole shows."""
    sentences = [_leaders(scenarios)]
    for each in ranked[:1]:
        order = np.argsort(each.ranking.mean_ranks, kind="stable")
        best = each.methods[order[0]]
        apart = [
            each.methods[place]
            for place in order[1:]
            if each.ranking.mean_ranks[place] - each.ranking.mean_ranks[order[0]]
            > each.ranking.critical_difference
        ]
        told = (
            f"its ranks tell it apart from {_listed(apart)}"
            if apart
            else "which is too few scenarios to tell it apart from any other by ranks alone"
        )
        sentences.append(
            f"Over {each.ranking.scenarios} scenarios, {best} has the best mean rank by "
            f"{each.quantity.label} ({each.ranking.mean_ranks[order[0]]:.2f}; Friedman "
            f"p {p_text(each.ranking.p)}); {told}."
        )
    if min(scenario.fewest_seeds for scenario in scenarios) < stats.LEAST_SEEDS:
        sentences.append(
            "Some results rest on fewer than 3 seeds: they speak of the trained models at hand, "
            "not of what another training of the same methods would give."
        )
    return sentences


def _leaders(scenarios: Sequence[Scenario]) -> str:
    """Name the leading methods of every scenario in one sentence."""
    parts = []
    for scenario in scenarios:
        if len(scenario.methods) == 1:
            parts.append(f"{scenario.methods[0]} was run alone in {scenario.name}")
            continue
        leaders = leading(scenario, "AUC_mAP")
        verb = "leads" if len(leaders) == 1 else "lead together"
        parts.append(f"{_listed(leaders)} {verb} in {scenario.name}")
    return f"Search during the backfill (AUC mAP): {'; '.join(parts)}."


def leading(scenario: Scenario, key: str) -> list[str]:
    """Return the method with the best mean, and those that it does not beat."""
    better = {each.key: each.better for each in scenario.quantities}[key]
    values = better * scenario.estimates[key].value
    first = scenario.methods[int(np.argmax(values))]
    beaten = scenario.beaten(key, first)
    return [first, *(m for m in scenario.methods if m != first and m not in beaten)]


def scenario_verdict(scenario: Scenario) -> list[str]:
    """Say in a few sentences what one scenario shows."""
    return [
        _lead(scenario),
        _flips(scenario),
        *_compatible(scenario),
        *_price(scenario),
        *_certainty(scenario),
    ]


def _lead(scenario: Scenario) -> str:
    leaders = leading(scenario, "AUC_mAP")
    first = leaders[0]
    value = scenario.value("AUC_mAP", first)
    if len(scenario.methods) == 1:
        return f"{first} was run alone: AUC mAP {value:.3f}."
    if len(leaders) > 1:
        return (
            f"{first} has the best mean precision over the whole backfill (AUC mAP {value:.3f}), "
            f"but no difference to {_listed(leaders[1:])} stands the corrected test."
        )
    found = [each for each in scenario.comparisons["AUC_mAP"] if each.first == first]
    closest = min(found, key=lambda each: each.advantage)
    return (
        f"{first} searches best over the whole backfill: AUC mAP {value:.3f}, "
        f"{_versus(scenario, closest)}. It beats every other method."
    )


def _versus(scenario: Scenario, comparison: Comparison) -> str:
    second = comparison.second
    return (
        f"{comparison.advantage:.3f} more than {second}, the next best (95 % interval "
        f"{comparison.low:.3f} to {comparison.high:.3f}, corrected p "
        f"{p_text(comparison.corrected_p)})"
    )


def _flips(scenario: Scenario) -> str:
    leaders = leading(scenario, "AUC_NFR_at_1")
    first = leaders[0]
    position = scenario.methods.index(first)
    worst = scenario.curves["NFR_at_1"].value[position].max()
    opening = "Fewest queries regress" if len(scenario.methods) > 1 else "Queries regress"
    text = (
        f"{opening} with {first}: averaged over the backfill "
        f"{scenario.value('AUC_NFR_at_1', first):.1%} of all queries lose the right answer that "
        f"the old system had at rank 1, at worst {worst:.1%}"
    )
    if len(leaders) > 1:
        text += f"; {_listed(leaders[1:])} cannot be told apart from it"
    if REFERENCE_METHOD in scenario.methods and first != REFERENCE_METHOD:
        rate = scenario.value("AUC_NFR_at_1", REFERENCE_METHOD)
        text += f". Without any compatibility ({REFERENCE_METHOD}) it is {rate:.1%}"
    return text + "."


def _compatible(scenario: Scenario) -> Iterator[str]:
    """Say which methods meet BCT's criterion in their means."""
    found = [
        method
        for method in scenario.methods
        if metrics.compatible(
            scenario.value("M_new_old", method), scenario.value("M_old_old", method)
        )
    ]
    if found:
        yield (
            "New queries find old embeddings better than old queries did, "
            f"M(n,o) > M(o,o), with {_listed(found)}."
        )
    else:
        yield "With no method do new queries find old embeddings better than old queries did."


def _price(scenario: Scenario) -> Iterator[str]:
    """Say what the leading method gives up at the end of the backfill."""
    first = leading(scenario, "AUC_mAP")[0]
    if REFERENCE_METHOD not in scenario.methods or first == REFERENCE_METHOD:
        return
    tax = scenario.value("compatibility_tax", first)
    if not np.isfinite(tax):
        return
    end = f"Once all is backfilled, {first} reaches M(n,n) {scenario.value('M_new_new', first):.3f}"
    relation = "below" if tax > 0 else "above"
    yield f"{end}, {abs(tax):.3f} {relation} a model trained without any regard to the old one."


def _certainty(scenario: Scenario) -> Iterator[str]:
    """Say what differences the data could have shown."""
    comparisons = scenario.comparisons.get("AUC_mAP", [])
    if not comparisons:
        return
    fixed = float(np.median([each.detectable.models_fixed for each in comparisons]))
    trained = float(np.median([each.detectable.over_training for each in comparisons]))
    text = (
        f"How sure: with {scenario.queries:,} queries, a typical pair of methods must differ by "
        f"{fixed:.3f} in AUC mAP to be told apart as trained here (with a chance of 80 %)"
    )
    if np.isfinite(trained):
        yield f"{text}, and by {trained:.3f} to be told apart over other trainings."
    else:
        yield f"{text}; what another training would give cannot be said with so few seeds."


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
