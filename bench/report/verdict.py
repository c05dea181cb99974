"""What the numbers say in plain words: which method, in which scenario, how certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.analysis import stats
from bench.analysis.limits import Bound
from bench.analysis.quantities import ALPHA
from bench.analysis.rankings import SuiteRanking
from bench.analysis.scenarios import Scenario
from bench.evaluation.records import REFERENCE_METHOD
from bench.report.tables import p_text, sampled


def suite_verdict(scenarios: Sequence[Scenario], ranked: Sequence[SuiteRanking]) -> list[str]:
    """State in a few sentences who regresses least in the whole suite, and at what price."""
    sentences = [*fewest_flips(scenarios), *price(scenarios), *_leaders(scenarios)]
    for each in ranked[:1]:
        order = np.argsort(each.ranking.mean_ranks, kind="stable")
        best = each.methods[order[0]]
        apart = [
            each.methods[place]
            for place in order[1:]
            if each.ranking.mean_ranks[place] - each.ranking.mean_ranks[order[0]]
            > each.ranking.critical_difference
        ]
        worse = (
            f"it ranks significantly better than {_listed(apart)} (Nemenyi, α = {ALPHA})"
            if apart
            else f"none of its leads in rank is significant with {each.ranking.scenarios} scenarios"
        )
        sentences.append(
            f"Best mean rank by {each.quantity.label} over {each.ranking.scenarios} scenarios: "
            f"{best}, {each.ranking.mean_ranks[order[0]]:.2f} (Friedman "
            f"p {p_text(each.ranking.p)}); {worse}."
        )
    if min(scenario.fewest_seeds for scenario in scenarios) < stats.LEAST_SEEDS:
        sentences.append(
            "Fewer than 3 seeds: some intervals and tests reflect query sampling only, not "
            "training variance."
        )
    return sentences


def fewest_flips(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """State which methods regress least: those that no other one beats in mean NFR@1."""
    key, compared = (
        "AUC_NFR_at_1",
        [one for one in scenarios if one.comparisons.get("AUC_NFR_at_1")],
    )
    if not compared:
        return
    if not any(each.claimed for one in compared for each in one.comparisons[key]):
        yield "Fewest flips: no two methods differ significantly."
        return
    found = _least_regressing(compared)
    several = len(compared) > 1
    if len(found) > 1:
        where = " in any scenario" if several else ""
        yield f"Fewest flips: {_listed(found)} (not significantly different{where})."
    elif found:
        where = " in every scenario" if several else ""
        yield f"Fewest flips{where}: {found[0]} (no method has significantly fewer)."
    else:
        parts = [f"{_listed(_by_flips(one))} in {one.name}" for one in compared]
        yield f"Fewest flips (no method has significantly fewer): {'; '.join(parts)}."


def _by_flips(scenario: Scenario) -> list[str]:
    """Methods that none has significantly fewer flips than, the one with the fewest first."""
    key = "AUC_NFR_at_1"
    return sorted(scenario.unbeaten(key), key=lambda method: scenario.value(key, method))


def _least_regressing(scenarios: Sequence[Scenario]) -> list[str]:
    """Methods that none has significantly fewer flips than, in all of some scenarios."""
    first, *others = map(_by_flips, scenarios)
    return [method for method in first if all(method in other for other in others)]


def price(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """State how much final accuracy the methods that regress least give up, and how surely.

    The difference in M(n,n) to the reference method, and in how many scenarios it is significant.
    """
    key = "M_new_new"
    compared = [one for one in scenarios if one.comparisons.get(key)]
    if not compared or not all(REFERENCE_METHOD in one.methods for one in compared):
        return
    named = {method for one in compared for method in _by_flips(one)} - {REFERENCE_METHOD}
    methods = [m for m in _least_regressing(compared) if m in named] or sorted(named)
    parts = []
    for method in methods:
        there = [one for one in compared if method in one.methods]
        gained = [one.value(key, method) - one.value(key, REFERENCE_METHOD) for one in there]
        sure = sum(
            REFERENCE_METHOD in one.beaten(key, method)
            or method in one.beaten(key, REFERENCE_METHOD)
            for one in there
        )
        bounds = dict.fromkeys(
            f"{bound:+.3f}".replace("-", "−") for bound in (min(gained), max(gained))
        )
        significant = f"significant in {sure} of {len(there)}"
        if len(there) == 1:
            significant = "significant" if sure else "not significant"
        parts.append(f"{method} {' to '.join(bounds)} ({significant})")
    if parts:
        yield f"Price, in final mAP against {REFERENCE_METHOD}: {', '.join(parts)}."


def _leaders(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """Name the methods with the highest mAP in each scenario, and those that were run alone."""
    compared = [one for one in scenarios if len(one.methods) > 1]
    if compared:
        parts = [f"{_listed(leading(one, 'AUC_mAP'))} in {one.name}" for one in compared]
        yield f"Highest mean mAP during the backfill: {'; '.join(parts)}."
    for one in scenarios:
        if len(one.methods) == 1:
            yield f"{one.methods[0]} was run alone in {one.name}."


def leading(scenario: Scenario, key: str) -> list[str]:
    """Return the method with the best mean, and those that it does not beat."""
    better = {each.key: each.better for each in scenario.quantities}[key]
    values = better * scenario.estimates[key].value
    first = scenario.methods[int(np.argmax(values))]
    beaten = scenario.beaten(key, first)
    return [first, *(m for m in scenario.methods if m != first and m not in beaten)]


def scenario_verdict(scenario: Scenario) -> list[str]:
    """State in a few sentences what one scenario shows."""
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
        return f"{first} was run alone: mean mAP over the backfill {value:.3f}."
    opening = f"Highest mean mAP over the backfill: {first}, {value:.3f}"
    if len(leaders) > 1:
        return f"{opening}; its lead over {_listed(leaders[1:])} is not significant."
    found = [each for each in scenario.comparisons["AUC_mAP"] if each.first == first]
    if not found:
        return f"{opening}; it shares no seed with another method."
    closest = min(found, key=lambda each: each.advantage)
    return (
        f"{opening}, {closest.advantage:.3f} above {closest.second}, the next best (95 % CI "
        f"[{closest.low:.3f}, {closest.high:.3f}], Holm-corrected p "
        f"{p_text(closest.corrected_p)}); significantly better than every other method."
    )


def _flips(scenario: Scenario) -> str:
    leaders = leading(scenario, "AUC_NFR_at_1")
    first = leaders[0]
    position = scenario.methods.index(first)
    worst = scenario.curves["NFR_at_1"].value[position].max()
    opening = "Fewest negative flips" if len(scenario.methods) > 1 else "Negative flips"
    text = (
        f"{opening}: {first}, mean NFR@1 {_percent(scenario.value('AUC_NFR_at_1', first))} "
        f"(maximum {_percent(worst)})"
    )
    if len(leaders) > 1:
        text += f"; not significantly fewer than {_listed(leaders[1:])}"
    if REFERENCE_METHOD in scenario.methods and first != REFERENCE_METHOD:
        rate = _percent(scenario.value("AUC_NFR_at_1", REFERENCE_METHOD))
        text += f". Without compatible training ({REFERENCE_METHOD}): {rate}"
    return text + "."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _compatible(scenario: Scenario) -> Iterator[str]:
    """State of which methods BCT's criterion is met, missed, or cannot be told."""
    found = scenario.against_old
    better, worse, open_ = (
        ", ".join(
            f"{each.method} {_signed(each.difference)}" for each in found if each.side == side
        )
        for side in (1, -1, 0)
    )
    family = f", Holm over {len(found)} methods" if len(found) > 1 else ""
    text = (
        f"Backward compatible, M(n,o) − M(o,o) > 0 (tested by {sampled(scenario)}{family}): "
        f"{better or 'none'}"
    )
    text += f"; not significantly different from 0: {open_}" if open_ else ""
    yield f"{text}; significantly below 0: {worse}." if worse else f"{text}."


def _signed(found: Bound) -> str:
    """Write a difference with its interval."""
    if not found.known:
        text = f"{found.estimate:+.3f} (CI unknown)"
    else:
        text = f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return text.replace("-", "−")


def _price(scenario: Scenario) -> Iterator[str]:
    """State what the leading method gives up at the end of the backfill."""
    first = leading(scenario, "AUC_mAP")[0]
    if REFERENCE_METHOD not in scenario.methods or first == REFERENCE_METHOD:
        return
    compared = scenario.comparison("M_new_new", first, REFERENCE_METHOD)
    if compared is None:
        return
    found = compared.between(first, REFERENCE_METHOD, 1)
    relation = (
        "not significantly different from"
        if not compared.claimed
        else "above"
        if found.estimate > 0
        else "below"
    )
    yield (
        f"After full backfill, {first} reaches mAP {scenario.value('M_new_new', first):.3f}, "
        f"{relation} the independently trained model's (difference {_signed(found)})."
    )


def _certainty(scenario: Scenario) -> Iterator[str]:
    """State what differences the data could have shown."""
    comparisons = scenario.comparisons.get("AUC_mAP", [])
    if not comparisons:
        return
    fixed = float(np.median([each.detectable.models_fixed for each in comparisons]))
    trained = float(np.median([each.detectable.over_training for each in comparisons]))
    text = (
        f"Minimum detectable difference in AUC mAP with {sampled(scenario)} (80 % power, median "
        f"pair): {fixed:.3f} for these trained models"
    )
    if np.isfinite(trained):
        yield f"{text}; {trained:.3f} when retraining variance is included."
    else:
        yield f"{text}; unknown for retrained models with so few seeds."


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
