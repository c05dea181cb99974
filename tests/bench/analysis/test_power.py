"""Power against variances that are known, against other libraries, and against what is claimed."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower
from typer.testing import CliRunner

from bench.analysis import power, stats
from bench.analysis.quantities import quantities
from bench.analysis.scenario_cells import ScenarioCells
from bench.analysis.scenarios import summarise
from bench.cli.commands import app
from bench.errors import BenchError
from bench.report.power import power_tables

AUC = next(each for each in quantities([0.0, 1.0]) if each.key == "AUC_mAP")


def drawn(random, seeds, sizes, training, groups, both, difference=0.0):
    """Sums [S, G] with standard deviations of a seed, a group, and a seed in a group."""
    means = difference + training * random.normal(size=(seeds, 1))
    means = means + groups * random.normal(size=len(sizes))
    return (means + both * random.normal(size=(seeds, len(sizes)))) * sizes


def test_components_are_those_that_made_the_data():
    random, sizes = np.random.default_rng(0), np.random.default_rng(1).integers(1, 9, 150) * 1.0
    found = [
        power.components(drawn(random, 6, sizes, 0.05, 0.4, 0.3, 0.2), sizes) for _ in range(150)
    ]
    share = (sizes**2).sum() / sizes.sum() ** 2  # of a group's variance in that of the mean
    assert np.mean([each.difference for each in found]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([each.groups for each in found]) == pytest.approx(0.16 * share, rel=0.1)
    assert np.mean([each.both for each in found]) == pytest.approx(0.09 * share, rel=0.1)
    assert np.mean([each.training for each in found]) == pytest.approx(0.0025, rel=0.15)


def test_power_of_one_source_is_that_of_its_t_test():
    only_groups = power.Components(0.0, 0.0, 0.01, 0.0, 40.0)
    expected = TTestPower().power(0.3 / 0.1 / np.sqrt(40), 40, 0.05 / 3, alternative="two-sided")
    assert only_groups.power(5, 1.0, 3, 0.3) == pytest.approx(expected, abs=1e-6)
    only_seeds = power.Components(0.0, 0.04, 1e-12, 0.0, 1e6)
    known = TTestPower().power(0.3 / 0.2, 5, 0.025, alternative="larger")
    assert only_seeds.power(5, 1.0, 1, 0.3) == pytest.approx(known, abs=1e-4)
    assert only_seeds.power(5, 1.0, 1, 30.0) == pytest.approx(1)  # far out, by approximation


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(0.05, 0.3, 0.3), (0.01, 0.6, 0.2), (0.1, 0.2, 0.2)])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_what_is_predicted_is_claimed_as_often(spread, seeds):
    """Claims of a true difference: the test over groups, and the interval over seeds."""
    random, sizes, trials, difference = np.random.default_rng(seeds), np.ones(100), 300, 0.12
    training, groups, both = spread
    parts = power.Components(difference, training**2, groups**2 / 100, both**2 / 100, number=100.0)
    claimed = 0
    for _ in range(trials):
        sums = drawn(random, seeds, sizes, *spread, difference)
        p = stats.sign_flip_p(sums.sum(0), random, 999)[0]
        found = stats.hierarchical_interval(sums[..., None], random, resamples=599)
        claimed += p <= 0.05 and found.low[0] > 0
    predicted = parts.power(seeds, 1.0, 1, difference)
    assert claimed / trials == pytest.approx(predicted, abs=0.12)


@pytest.fixture
def close(suite):
    """Two methods that differ by little, of which training varies more than groups do."""
    methods = {"independent": (-3.0, 0.5), "one": (0.05, 0.25), "two": (0.0, 0.2)}
    return suite(methods=methods, training=0.05)


def test_what_is_needed_would_be_enough_and_one_less_would_not(close):
    cells = ScenarioCells(close[0])
    found = power.needs(cells, AUC)
    assert {frozenset((each.first, each.second)) for each in found} == {
        frozenset(pair) for pair in (("one", "two"), ("one", "independent"), ("two", "independent"))
    }
    near = next(each for each in found if {each.first, each.second} == {"one", "two"})
    far = next(each for each in found if each.first == "one" and each.second == "independent")
    assert far.advice == "enough of both"
    assert far.power > 0.99 > 0.8 > near.power
    assert near.advice in ("seeds", "groups", "both")
    assert near.seeds is None or near.seeds > 3
    gap = summarise(*close)[0].comparison("AUC_mAP", "one", "two").advantage
    assert near.difference == pytest.approx(gap)


def test_a_larger_true_difference_needs_less(close):
    cells = ScenarioCells(close[0])
    small, large = (power.needs(cells, AUC, difference=each) for each in (0.02, 0.2))
    assert {each.difference for each in large} == {0.2}
    assert min(each.power for each in large) > max(0.5, min(each.power for each in small))
    strict = power.needs(cells, AUC, power=0.99, difference=0.05)
    usual = power.needs(cells, AUC, power=0.5, difference=0.05)
    by_pair = {(each.first, each.second): each.seeds or 999 for each in usual}
    assert all((each.seeds or 999) >= by_pair[each.first, each.second] for each in strict)


def test_one_seed_tells_nothing_of_training(suite, stored_suite):
    with pytest.raises(BenchError, match=r"power got 1 seed"):
        power.components(np.ones((1, 5)), np.ones(5))
    cells = ScenarioCells(suite(seeds=[0])[0])
    assert power.needs(cells, AUC) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantity": "mAP"}, "--quantity mAP is not tested; expected one of M_new_old"),
        ({"against": "bcr"}, "--against bcr: no records of it; expected one of bct"),
    ],
)
def test_what_has_no_power_is_refused(stored_suite, options, words):
    with pytest.raises(BenchError, match=words):
        power_tables(stored_suite, "made-up", **options)


def test_the_command_shows_what_is_asked_for(stored_suite):
    options = ["--suite", "made-up", "--results", str(stored_suite), "--against", "l2"]
    options += ["--quantity", "AUC_NFR_at_1", "--power", "0.9", "--difference", "0.02"]
    done = CliRunner().invoke(app, ["power", *options])
    assert done.exit_code == 0, done.output
    tables = power_tables(stored_suite, "made-up", "AUC_NFR_at_1", 0.9, 0.02, "l2")
    assert len(tables) == 2
    for table in tables:
        assert all("l2" in (row[0].value, row[1].value) for row in table.rows)
        assert {row[2].value for row in table.rows} == {0.02}
        assert "for a power of 90%" in table.caption
        assert "Holm's first step over 6 pairs" in table.caption
        console = Console(file=io.StringIO(), width=80)
        console.print(table.rich())
        assert console.file.getvalue().splitlines()[1] in done.output


@pytest.mark.parametrize("family", [1, 10])
def test_with_few_seeds_power_is_that_of_the_test_at_the_first_step_of_holm(family):
    """By scipy's noncentral t: two seeds have neither an interval nor a test over trainings."""
    parts = power.Components(0.05, training=0.0, groups=4e-4, both=2e-4, number=30.0)
    critical = scipy_stats.t.ppf(1 - 0.05 / family / 2, 29)
    expected = scipy_stats.nct.sf(critical, 29, 0.05 / np.sqrt(4e-4 + 2e-4 / 2))
    assert 0.05 < expected < 0.95
    assert parts.power(2, 1.0, family, 0.05) == pytest.approx(expected, abs=1e-6)
