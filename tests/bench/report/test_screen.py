"""The last screen of a command: 80 columns, the numbers of the tables, tested stars."""

import re

import numpy as np
import pytest

from bench.analysis.scenarios import summarise
from bench.report.screen import screen
from tests.bench.conftest import make_suite


@pytest.fixture(scope="module")
def scenarios(default_scenarios):
    return default_scenarios


def rows(shown):
    """Numbers and stars of each method's line, by (scenario, method)."""
    found, scenario = {}, ""
    for line in shown.lines[2:]:
        if not line.strip():
            break
        if not line.startswith(" "):
            scenario = line.split()[0]
        elif not line.startswith(("*", "  fewer")):
            method, rest = line.split(maxsplit=1)
            found[scenario, method] = re.findall(r"[\d.]+\*?", rest)
    return found


def test_it_fits_80_columns_and_says_what_was_run(scenarios):
    shown = screen(scenarios)
    assert max(map(len, shown.lines)) <= 80
    assert shown.what == "icons · 36 runs, 3 seeds, 120 queries in 40 groups"
    assert len(shown.lines) < 40


def test_its_numbers_are_those_of_the_scenarios_fewest_flips_first(scenarios):
    found = rows(screen(scenarios))
    assert len(found) == 12
    for scenario in scenarios:
        for method in scenario.methods:
            numbers = [float(text.rstrip("*")) for text in found[scenario.name, method]]
            place = scenario.methods.index(method)
            flips = scenario.estimates["AUC_NFR_at_1"]
            expected = [100 * part[place] for part in (flips.value, flips.low, flips.high)]
            expected.append(100 * scenario.curves["NFR_at_1"].value[place].max())
            assert numbers[:4] == pytest.approx(expected, abs=0.0501)
            expected = [
                scenario.value(key, method) for key in ("M_new_old", "AUC_mAP", "M_new_new")
            ]
            assert numbers[4:] == pytest.approx(expected, abs=0.000501)
        listed = [method for name, method in found if name == scenario.name]
        flips = [scenario.value("AUC_NFR_at_1", method) for method in listed]
        assert flips == sorted(flips)


def test_a_star_says_that_no_other_method_is_significantly_better(scenarios):
    found = rows(screen(scenarios))
    keys = {0: "AUC_NFR_at_1", 4: "M_new_old", 5: "AUC_mAP", 6: "M_new_new"}
    stars = set()
    for scenario in scenarios:
        for method in scenario.methods:
            for place, key in keys.items():
                beaten = any(
                    each.claimed and each.second == method for each in scenario.comparisons[key]
                )
                starred = found[scenario.name, method][place].endswith("*")
                assert starred != beaten
                stars.add(starred)
    assert stars == {True, False}


def test_one_method_has_neither_stars_nor_verdict():
    shown = screen(summarise(*make_suite(methods={"bct": (0.1, 0.2)}, queries=12, seeds=[0])))
    text = "\n".join(shown.lines)
    assert "*" not in text
    assert "Fewest" not in text
    assert "fewer than 3 seeds" in text
    assert shown.what == "icons · 1 run, 1 seed, 12 queries in 4 groups"


def test_long_names_and_many_methods_fit(scenarios):
    methods = {f"a_method_with_a_name_of_{n:02d}_letters": (n / 9, n / 9) for n in range(9)}
    made = summarise(*make_suite(methods=methods, queries=12, shares=np.array([0.0, 1.0])))
    shown = screen(made, ["a sentence of another part that is long " * 4])
    assert max(map(len, shown.lines)) <= 80
    assert any("sentence of another part" in line for line in shown.lines)
