"""Numbers of the summaries against pandas, and what is claimed against what is true."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench.analysis import stats
from bench.analysis.comparisons import _side
from bench.analysis.limits import Bound
from bench.analysis.scenarios import summarise
from bench.errors import BenchError


def logistic(value):
    return 1 / (1 + np.exp(-value))


def naive(rows, method):
    """Every scalar of a method by group-bys, mean over seeds."""
    found = []
    ends = rows[rows["share"] == 1].groupby(["method", "seed"])["AP"].mean()
    for seed, cell in rows[rows["method"] == method].groupby("seed"):
        old = cell[cell["system"] == "old"].set_index("query")
        curve, nfr = {}, {}
        for share, now in cell[cell["system"] == "refreshed"].groupby("share"):
            now = now.set_index("query").loc[old.index]
            curve[share] = now["AP"].mean()
            nfr[share] = (old["success_at_1"] & ~now["success_at_1"]).mean()
        m_oo, m_no, m_nn = old["AP"].mean(), curve[0.0], curve[1.0]
        top = ends["independent", seed]
        gain = (m_no - m_oo) / (top - m_oo)
        up, comp = logistic((m_nn - top) / top), logistic(gain)
        found.append(
            {
                "M_old_old": m_oo,
                "M_new_old": m_no,
                "M_new_new": m_nn,
                "AUC_mAP": np.trapezoid(list(curve.values()), list(curve)),
                "NFR_at_1@20%": nfr[0.2],
                "NFR_at_1@100%": nfr[1.0],
                "AUC_NFR_at_1": np.trapezoid(list(nfr.values()), list(nfr)),
                "compatibility_tax": top - m_nn,
                "update_gain": gain,
                "P_1": 2 * up * comp / (up + comp),
            }
        )
    return pd.DataFrame(found).mean()


def test_every_number_agrees_with_group_bys(default_suite, default_scenarios):
    for scenario in default_scenarios:
        rows = default_suite[0]
        rows = rows[rows["scenario"] == scenario.name]
        for method in scenario.methods:
            for key, expected in naive(rows, method).items():
                assert scenario.value(key, method) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_curves_end_in_the_scalars_and_bounds_hold_them(default_scenarios):
    scenario = default_scenarios[0]
    curve = scenario.curves["mAP"]
    assert curve.value[:, -1] == pytest.approx(scenario.estimates["M_new_new"].value, rel=1e-12)
    assert (curve.low < curve.value).all()
    assert (curve.value < curve.high).all()


def test_methods_come_best_first(default_scenarios):
    for scenario in default_scenarios:
        assert (np.diff(scenario.estimates["AUC_mAP"].value) <= 0).all()
        assert scenario.methods[-1] == "independent"


def test_a_large_difference_is_claimed_and_its_size_is_true(suite):
    rows, notes = suite(methods={"independent": (-3.0, 0.5), "good": (0.5, 0.5), "bad": (-1.0, 0)})
    scenario = summarise(rows, notes)[0]
    assert scenario.best("AUC_mAP") == "good"
    assert scenario.best("AUC_NFR_at_1") == "good"
    assert scenario.beaten("M_new_old", "good") == ["independent", "bad"] or scenario.beaten(
        "M_new_old", "good"
    ) == ["bad", "independent"]
    for key, comparisons in scenario.comparisons.items():
        for each in comparisons:
            gap = abs(scenario.value(key, each.first) - scenario.value(key, each.second))
            assert each.advantage == pytest.approx(gap, abs=1e-12)
            assert each.effect.mean == pytest.approx(each.advantage, abs=1e-12)
            assert each.low <= each.advantage <= each.high
            assert 0 < each.p <= each.corrected_p <= 1


def test_equal_methods_are_never_told_apart(suite):
    rows, notes = suite(methods={"independent": (-3.0, 0.5)})
    twin_rows, twin_notes = rows.assign(method="twin"), notes.assign(method="twin")
    scenario = summarise(pd.concat([rows, twin_rows]), pd.concat([notes, twin_notes]))[0]
    for comparisons in scenario.comparisons.values():
        assert [(each.p, each.claimed, each.advantage) for each in comparisons] == [(1, False, 0)]
    assert scenario.best("AUC_mAP") is None


def test_luck_in_training_is_not_claimed(suite):
    """Two equal methods whose trainings differ much: queries alone would tell them apart."""
    trials, naive_claims, claims = 40, 0, 0
    for trial in range(trials):
        methods = {f"one-{trial}": (0.0, 0.2), f"two-{trial}": (0.0, 0.2)}
        scenario = summarise(*suite(methods=methods, training=0.5, queries=50))[0]
        comparison = scenario.comparisons["M_new_new"][0]
        naive_claims += comparison.corrected_p <= 0.05
        claims += comparison.claimed
    assert naive_claims > trials / 4
    assert claims <= scipy_stats.binom.ppf(0.999, trials, 0.05)


def test_with_one_seed_claims_are_about_the_models_at_hand(suite):
    methods = {"good": (0.5, 0.5), "bad": (-1.0, 0)}
    scenario = summarise(*suite(methods=methods, seeds=[4]))[0]
    assert scenario.fewest_seeds == 1
    assert scenario.best("M_new_old") == "good"
    assert np.isnan(scenario.comparisons["M_new_old"][0].detectable.over_training)


def test_without_the_reference_there_is_no_tax_and_a_note_says_so(suite):
    scenario = summarise(*suite(methods={"good": (0.5, 0.5), "bad": (-1.0, 0)}))[0]
    assert np.isnan(scenario.estimates["compatibility_tax"].value).all()
    assert np.isnan(scenario.estimates["P_1"].value).all()
    assert "need the method 'independent', which was not run" in scenario.notes[0]


def test_methods_are_compared_on_the_seeds_they_share(suite):
    rows, notes = suite(seeds=[0, 1, 2, 3])
    late = rows["method"].eq("ract") & rows["seed"].lt(1)
    late_notes = notes["method"].eq("ract") & notes["seed"].lt(1)
    scenario = summarise(rows[~late], notes[~late_notes])[0]
    for each in scenario.comparisons["AUC_mAP"]:
        assert each.seeds == (3 if "ract" in (each.first, each.second) else 4)
    assert len(scenario.comparisons["AUC_mAP"]) == 6
    assert any("ract: 1, 2, 3" in note for note in scenario.notes)
    shared = rows[rows["seed"].ge(1) & rows["share"].eq(1)].groupby("method")["AP"].mean()
    for each in scenario.comparisons["M_new_new"]:
        if "ract" in (each.first, each.second):
            assert each.advantage == pytest.approx(shared[each.first] - shared[each.second])


def test_methods_without_a_common_seed_are_not_compared(suite):
    one, two = suite(methods={"bct": (0, 0)}, seeds=[0]), suite(methods={"l2": (0, 0)}, seeds=[1])
    scenario = summarise(pd.concat([one[0], two[0]]), pd.concat([one[1], two[1]]))[0]
    assert scenario.comparisons["AUC_mAP"] == []
    assert scenario.best("AUC_mAP") is None


def test_digits_repeat_and_do_not_depend_on_other_scenarios(suite, default_scenarios):
    again = {scenario.name: scenario for scenario in default_scenarios}
    alone = summarise(*suite(("extended-class",)))[0]
    for key, estimates in alone.estimates.items():
        other = again["extended-class"].estimates[key]
        assert np.array_equal(estimates.low, other.low, equal_nan=True)
        assert np.array_equal(estimates.high, other.high, equal_nan=True)
    assert alone.comparisons == again["extended-class"].comparisons


def test_cells_of_other_queries_are_refused(suite):
    rows, notes = suite()
    gone = rows["method"].eq("l2") & rows["query"].eq("query-0007")
    with pytest.raises(BenchError, match="different queries: l2/seed-0 is not like"):
        summarise(rows[~gone], notes)


def test_cells_of_other_shares_are_refused(suite):
    rows, notes = suite()
    gone = rows["method"].eq("l2") & rows["share"].eq(0.5)
    with pytest.raises(BenchError, match="different shares: l2/seed-0 is not like"):
        summarise(rows[~gone], notes)


def test_no_interval_of_a_rate_is_without_width(suite):
    """Nobody flips: the bounds are those of 40 groups of equal size."""
    rows, notes = suite(methods={"independent": (6.0, 9.0), "good": (8.0, 9.0)})
    scenario = summarise(rows, notes)[0]
    for key in ("NFR_at_1@0%", "AUC_NFR_at_1"):
        found = scenario.estimates[key]
        assert (found.value == 0).all()
        assert (found.low == 0).all()
        assert found.high == pytest.approx(scipy_stats.beta.ppf(0.975, 1, 40), abs=1e-9)
    curve = scenario.curves["NFR_at_1"]
    assert (curve.high > 0.08).all()
    (each,) = scenario.comparisons["AUC_NFR_at_1"]
    assert each.low < 0 < each.high
    assert not each.claimed


def test_ratios_are_shown_only_where_their_divisor_is_not_zero(suite):
    rows, notes = suite(methods={"independent": (-3.0, -0.3), "good": (0.5, 0.5)}, training=0.2)
    scenario = summarise(rows, notes)[0]
    for key in ("update_gain", "P_1"):
        found = scenario.estimates[key]
        assert np.isnan([found.value, found.low, found.high]).all()
    assert np.isfinite(scenario.estimates["compatibility_tax"].value).all()
    (note,) = [each for each in scenario.notes if "divisor" in each]
    assert "M(*,*) − M(o,o) cannot be told from 0: good, independent." in note
    told = summarise(*suite())[0]
    assert np.isfinite(told.estimates["update_gain"].low).all()
    assert not any("divisor" in each for each in told.notes)


def test_the_gain_over_the_old_system_is_tested_by_groups(suite):
    rows, notes = suite(queries=36)  # 12 groups: all signs can be tried
    scenario = summarise(rows, notes)[0]
    frame = rows[(rows["system"] == "old") | (rows["share"] == 0)]
    wide = frame.pivot_table(
        index=["method", "seed", "group", "query"], columns="system", values="AP"
    )
    gain = (wide["refreshed"] - wide["old"]).groupby(["method", "group"]).sum()
    signs = np.array(list(itertools.product([1, -1], repeat=12)))
    exact = []
    for each in scenario.against_old:
        sums = gain[each.method].to_numpy()
        exact.append((np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean())
        assert each.difference.estimate == pytest.approx(sums.sum() / 108)
        assert each.p == pytest.approx(exact[-1], abs=0.02)
    corrected = stats.holm([each.p for each in scenario.against_old])
    assert [each.corrected_p for each in scenario.against_old] == pytest.approx(list(corrected))


def test_differences_between_whole_groups_have_the_intervals_of_as_many_queries(suite):
    """Three copies of a query in one group say no more than the query alone."""
    rows, notes = suite(queries=36)
    alone = rows[rows["query"].str[-4:].astype(int) % 3 == 0]
    copies = [alone.assign(query=alone["query"] + suffix) for suffix in ("a", "b", "c")]
    one, three = summarise(alone, notes)[0], summarise(pd.concat(copies), notes)[0]
    widths = set()
    for key in ("AUC_mAP", "M_new_old", "AUC_NFR_at_1"):
        for mine, theirs in zip(one.comparisons[key], three.comparisons[key], strict=True):
            assert (mine.first, mine.second) == (theirs.first, theirs.second)
            assert (theirs.low, theirs.high) == pytest.approx((mine.low, mine.high), abs=1e-9)
            widths.add(round(mine.high - mine.low, 6))
    assert len(widths) > 3


def test_nothing_is_claimed_whose_interval_holds_zero():
    above, about, below = Bound(0.1, 0.02, 0.2), Bound(0.1, -0.1, 0.3), Bound(-0.1, -0.2, -0.02)
    assert [_side((0.01, 0.01), each) for each in (above, about, below)] == [1, 0, -1]
    assert [_side((0.01, np.nan), each) for each in (above, about, below)] == [1, 1, -1]
    assert _side((0.2, 0.01), above) == _side((0.01, 0.2), above) == 0
