"""The verdict says what the numbers and tests say, and no more."""

import re

import pytest

from bench.report.scenarios import summarise
from bench.report.tables import rankings
from bench.report.verdict import leading, scenario_verdict, suite_verdict

APART = {"independent": (-3.0, 0.6), "good": (0.5, 0.6), "bad": (-1.2, -0.4)}


def test_a_clear_winner_is_named_with_its_lead(suite):
    scenario = summarise(*suite(methods=APART, queries=200))[0]
    text = " ".join(scenario_verdict(scenario))
    closest = min(
        (each for each in scenario.comparisons["AUC_mAP"] if each.first == "good"),
        key=lambda each: each.advantage,
    )
    value, lead = scenario.value("AUC_mAP", "good"), closest.advantage
    assert f"AUC mAP {value:.3f}, {lead:.3f} more than {closest.second}, the next best" in text
    assert text.startswith("good searches best over the whole backfill")
    assert "It beats every other method." in text
    assert "Fewest queries regress with good" in text
    rate = scenario.value("AUC_NFR_at_1", "independent")
    assert f"Without any compatibility (independent) it is {rate:.1%}" in text
    assert "M(n,o) > M(o,o), with good." in text


def test_what_cannot_be_told_apart_is_not(suite):
    methods = {"independent": (-3.0, 0.5), "one": (0.0, 0.2), "two": (0.001, 0.2)}
    scenario = summarise(*suite(methods=methods, training=0.3))[0]
    leaders = leading(scenario, "AUC_mAP")
    assert set(leaders) == {"one", "two"}
    text = " ".join(scenario_verdict(scenario))
    assert f"no difference to {leaders[1]} stands the corrected test" in text
    assert "beats every other method" not in text


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_how_sure_it_is_depends_on_the_seeds(suite, seeds):
    scenarios = summarise(*suite(seeds=seeds))
    sure = scenario_verdict(scenarios[0])[-1]
    assert ("over other trainings" in sure) == (len(seeds) == 3)
    assert ("with so few seeds" in sure) == (len(seeds) == 1)
    assert ("fewer than 3 seeds" in " ".join(suite_verdict(scenarios, []))) == (len(seeds) == 1)


def test_the_suite_names_the_leaders_of_every_scenario_and_the_ranks(default_suite):
    scenarios = summarise(*default_suite)
    text = " ".join(suite_verdict(scenarios, rankings(scenarios)))
    for scenario in scenarios:
        assert re.search(rf"\w+ lead(s| together) in {scenario.name}", text)
    assert (
        "Over 3 scenarios, ract has the best mean rank by AUC mAP (1.00; Friedman p = 0.0" in text
    )
    assert "tell it apart from independent." in text


def test_a_method_that_ran_alone_wins_nothing(suite):
    scenarios = summarise(*suite(methods={"independent": (-3.0, 0.5)}))
    text = " ".join([*suite_verdict(scenarios, []), *scenario_verdict(scenarios[0])])
    assert "independent was run alone" in text
    assert "best" not in text
    assert "leads" not in text
