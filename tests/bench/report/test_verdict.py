"""The verdict says what the numbers and tests say, and no more."""

import re
from dataclasses import replace

import pytest

from bench.analysis.rankings import rankings
from bench.analysis.scenarios import summarise
from bench.report.verdict import (
    fewest_flips,
    leading,
    price,
    scenario_verdict,
    suite_verdict,
)

APART = {"independent": (-3.0, 0.6), "good": (0.5, 0.6), "bad": (-1.2, -0.4)}


def test_a_clear_winner_is_named_with_its_lead(suite):
    scenario = summarise(*suite(methods=APART, queries=200))[0]
    text = " ".join(scenario_verdict(scenario))
    closest = min(
        (each for each in scenario.comparisons["AUC_mAP"] if each.first == "good"),
        key=lambda each: each.advantage,
    )
    value, lead = scenario.value("AUC_mAP", "good"), closest.advantage
    opening = f"Highest mean mAP over the backfill: good, {value:.3f}, {lead:.3f} above"
    assert text.startswith(f"{opening} {closest.second}, the next best")
    assert "significantly better than every other method" in text
    flips = scenario.value("AUC_NFR_at_1", "good")
    assert f"Fewest negative flips: good, mean NFR@1 {100 * flips:.1f} % (maximum" in text
    rate = scenario.value("AUC_NFR_at_1", "independent")
    assert f"Without compatible training (independent): {100 * rate:.1f} %" in text
    found = scenario.against_old[scenario.methods.index("good")].difference
    assert (
        "Backward compatible, M(n,o) − M(o,o) > 0 (tested by 67 groups of queries (200 queries), "
        f"Holm over 3 methods): good {found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    ) in text
    assert "; significantly below 0: " in text


def test_what_new_queries_gain_is_told_by_its_test_alone(suite):
    """One mean lies beside M(o,o) by luck."""
    methods = {"independent": (-3.0, 0.5), "sure": (0.6, 0.6), "lucky": (-0.26, 0.6)}
    scenario = summarise(*suite(methods=methods))[0]
    sides = {each.method: each.side for each in scenario.against_old}
    assert sides == {"sure": 1, "lucky": 0, "independent": -1}
    lucky = scenario.value("M_new_old", "lucky") - scenario.value("M_old_old", "lucky")
    assert abs(lucky) > 1e-4
    text = " ".join(scenario_verdict(scenario))
    assert re.search(
        r"> 0 \(.*?\): sure \+\S+ \[.*?\]; not significantly different from 0: lucky .*?; "
        r"significantly below 0: independent −",
        text,
    )


@pytest.mark.parametrize(
    ("end", "words"), [(0.5, "not significantly different from"), (2.0, "above")]
)
def test_the_price_of_compatibility_is_tested(suite, end, words):
    methods = {"independent": (-3.0, 0.5), "good": (0.5, end)}
    text = " ".join(scenario_verdict(summarise(*suite(methods=methods, training=0.1))[0]))
    assert re.search(rf"good reaches mAP 0\.\d+, {words} the independently trained", text)


def test_what_is_not_significant_is_not_claimed(suite):
    methods = {"independent": (-3.0, 0.5), "one": (0.0, 0.2), "two": (0.001, 0.2)}
    scenario = summarise(*suite(methods=methods, training=0.3))[0]
    leaders = leading(scenario, "AUC_mAP")
    assert set(leaders) == {"one", "two"}
    text = " ".join(scenario_verdict(scenario))
    assert f"its lead over {leaders[1]} is not significant" in text
    assert "better than every other method" not in text


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_how_sure_it_is_depends_on_the_seeds(suite, seeds):
    scenarios = summarise(*suite(seeds=seeds))
    sure = scenario_verdict(scenarios[0])[-1]
    assert ("when retraining variance is included" in sure) == (len(seeds) == 3)
    assert ("with so few seeds" in sure) == (len(seeds) == 1)
    assert ("Fewer than 3 seeds" in " ".join(suite_verdict(scenarios, []))) == (len(seeds) == 1)


def test_the_suite_names_the_leaders_of_every_scenario_and_the_ranks(default_scenarios):
    scenarios = default_scenarios
    text = " ".join(suite_verdict(scenarios, rankings(scenarios)))
    for scenario in scenarios:
        assert re.search(rf"\w+ in {scenario.name}", text)
    assert "Best mean rank by AUC mAP over 3 scenarios: ract, 1.00 (Friedman p = 0.0" in text
    assert "it ranks significantly better than independent (Nemenyi" in text


def flips(scenario, method):
    return scenario.value("AUC_NFR_at_1", method)


def test_the_suite_says_who_regresses_least_and_at_what_price(suite):
    methods = {"independent": (-3.0, 0.6), "same": (0.5, 0.3), "twin": (0.501, 0.3), "bad": (-2, 0)}
    scenarios = summarise(*suite(("extended-data", "open-class"), methods=methods, queries=240))
    (fewest,), (cost,) = fewest_flips(scenarios), price(scenarios)
    order = sorted(("same", "twin"), key=lambda method: flips(scenarios[0], method))
    assert fewest == (
        f"Fewest flips: {order[0]} and {order[1]} (not significantly different in any scenario)."
    )
    for method in order:
        gained = [
            one.value("M_new_new", method) - one.value("M_new_new", "independent")
            for one in scenarios
        ]
        sure = sum(
            method in one.beaten("M_new_new", "independent")
            or "independent" in one.beaten("M_new_new", method)
            for one in scenarios
        )
        span = f"{method} {min(gained):+.3f} to {max(gained):+.3f} (significant in {sure} of 2)"
        assert span.replace("-", "−") in cost


def test_a_price_in_one_scenario_is_a_signed_difference_and_may_be_a_gain(suite):
    methods = {"independent": (-3.0, 0.2), "better": (1.0, 0.6)}
    (text,) = price(summarise(*suite(methods=methods, queries=240)))
    assert re.fullmatch(
        r"Price, in final mAP against independent: better \+0\.\d{3} \(significant\)\.", text
    )


def test_who_regresses_least_may_differ_between_scenarios_or_not_be_known(suite):
    one = summarise(*suite(methods={"independent": (-3.0, 0.5), "a": (1.0, 0.3), "b": (-1, 0.3)}))
    other = summarise(*suite(methods={"independent": (-3.0, 0.5), "a": (-1.0, 0.3), "b": (1, 0.3)}))
    (text,) = fewest_flips([one[0], replace(other[0], name="open-class")])
    assert text == (
        "Fewest flips (no method has significantly fewer): a in extended-class; b in open-class."
    )
    assert list(fewest_flips(one)) == ["Fewest flips: a (no method has significantly fewer)."]
    alike = summarise(*suite(methods={"a": (0.2, 0.3), "b": (0.2, 0.3)}))
    assert list(fewest_flips(alike)) == ["Fewest flips: no two methods differ significantly."]
    assert list(price(alike)) == []  # without the reference nothing is known of it


def test_a_method_that_ran_alone_wins_nothing(suite):
    scenarios = summarise(*suite(methods={"independent": (-3.0, 0.5)}))
    text = " ".join([*suite_verdict(scenarios, []), *scenario_verdict(scenarios[0])])
    assert "independent was run alone" in text
    assert "best" not in text.lower()
    assert "Fewest" not in text
    assert "Highest" not in text
