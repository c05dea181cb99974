"""From records to table: what a reader sees, worked out a second time from the raw rows."""

import itertools

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from bench.analysis.scenarios import summarise
from bench.cli import commands
from bench.cli.commands import app
from bench.errors import BenchError
from bench.report import build
from bench.report.cached import scenario_tables
from bench.report.tables import comparison_table, scenario_table
from tests.bench.conftest import make_suite, store_suite

METHODS = {"independent": (-3.5, 0.55), "l2": (-0.3, 0.0), "bct": (-0.6, 0.4), "ract": (0.1, 0.45)}


@pytest.fixture(scope="module")
def made():
    rows, notes = make_suite(methods=METHODS, queries=36)  # 12 groups: all signs can be tried
    return rows, notes, summarise(rows, notes)[0]


def flips_by_group(rows, method):
    """Net flips at 0 % of each group, summed over seeds, straight from the rows."""
    own = rows[rows["method"] == method]
    old = own[own["system"] == "old"].set_index(["seed", "query"])["success_at_1"]
    now = own[(own["system"] == "refreshed") & (own["share"] == 0)].set_index(["seed", "query"])
    flipped = old & ~now["success_at_1"].reindex(old.index)
    return flipped.groupby(now["group"].reindex(old.index)).sum()


def all_signs_p(sums):
    signs = np.array(list(itertools.product([1, -1], repeat=len(sums))))
    return float((np.abs(signs @ sums) >= abs(sums.sum())).mean())


def test_p_values_are_of_whole_groups_over_all_seeds_and_corrected_for_the_family(made):
    rows, _, scenario = made
    flips = {method: flips_by_group(rows, method) for method in METHODS}
    found = scenario.comparisons["NFR_at_1@0%"]
    assert len(found) == 6
    expected = [all_signs_p((flips[c.first] - flips[c.second]).to_numpy()) for c in found]
    assert [c.p for c in found] == pytest.approx(expected)
    corrected = multipletests(expected, method="holm")[1]
    assert [c.corrected_p for c in found] == pytest.approx(list(corrected))
    assert len({round(p, 6) for p in expected}) > 2
    assert any(one != two for one, two in zip(expected, corrected, strict=True))
    for each, p in zip(found, corrected, strict=True):
        assert each.claimed == (p <= 0.05 and each.low > 0 and each.corrected_p_trainings <= 0.05)
    over = [each.p_trainings for each in found]
    assert [c.corrected_p_trainings for c in found] == pytest.approx(
        list(multipletests(over, method="holm")[1])
    )


def test_p_values_of_areas_are_of_whole_groups_over_all_seeds(made):
    rows, _, scenario = made
    refreshed = rows[rows["system"] == "refreshed"]
    curve = refreshed.pivot_table(
        index=["method", "seed", "group", "query"], columns="share", values="AP"
    )
    area = pd.Series(
        np.trapezoid(curve.to_numpy(), curve.columns.to_numpy(), axis=1), index=curve.index
    )
    sums = area.groupby(["method", "group"]).sum().unstack(0)
    for each in scenario.comparisons["AUC_mAP"]:
        exact = all_signs_p((sums[each.first] - sums[each.second]).to_numpy())
        assert each.p == pytest.approx(exact, abs=0.02)  # 10,000 of 4,096 possible signs


def test_the_pair_table_has_each_number_in_its_own_column(made):
    _, _, scenario = made
    (quantity,) = [each for each in scenario.quantities if each.key == "AUC_NFR_at_1"]
    frame = comparison_table(scenario, quantity).frame()
    by_pair = {(c.first, c.second): c for c in scenario.comparisons[quantity.key]}
    for _, row in frame.iterrows():
        each = by_pair[row["better"], row["than"]]
        assert row["p"] == each.p
        assert row["p (Holm)"] == each.corrected_p
        assert row["p over trainings (Holm)"] == each.corrected_p_trainings
        assert row["by"] == each.advantage
        assert (row["by low"], row["by high"]) == (each.low, each.high)
    assert (frame["p"] < frame["p (Holm)"]).any()


def test_letters_are_those_of_the_claims(made):
    _, _, scenario = made
    table = scenario_table(scenario)
    letters = {row[0].value: row[0].letter for row in table.rows}
    place = [column.name for column in table.columns].index("NFR@1 0%")
    claims = {(c.first, c.second) for c in scenario.comparisons["NFR_at_1@0%"] if c.claimed}
    assert claims
    for row in table.rows:
        beaten = {second for first, second in claims if first == row[0].value}
        assert set(row[place].marks) == {letters[name] for name in beaten}


def test_throughput_stands_in_the_row_of_its_method(made):
    _, notes, scenario = made
    table = scenario_table(scenario)
    place = [column.name for column in table.columns].index("train img/s")
    of = {
        method: np.mean([cell["train_images_per_s"] for cell in cells["rates"]])
        for method, cells in notes.groupby("method")
    }
    assert len(set(of.values())) > 1
    for row in table.rows:
        assert row[place].value == pytest.approx(of[row[0].value])


@pytest.fixture
def stored(made, tmp_path):
    store_suite(tmp_path, *made[:2])
    return tmp_path


@pytest.mark.parametrize("against", [None, "l2", "bct"])
def test_the_reference_reaches_the_files_of_a_report(stored, made, against):
    options = [] if against is None else ["--against", against]
    done = CliRunner().invoke(
        app, ["report", "--suite", "made-up", "--results", str(stored), *options]
    )
    assert done.exit_code == 0, done.output
    reference = against or made[2].methods[0]
    (path,) = (stored / "reports" / "made-up" / "tables").glob("*/Differences-to-*.csv")
    assert path.stem == f"Differences-to-{reference}-in-extended-class-on-icons"
    shown = pd.read_csv(path)
    assert set(shown["method"]) == set(METHODS) - {reference}
    assert f"Differences to {reference} in" in (path.parents[2] / "report.html").read_text()


def test_tables_of_another_reference_are_not_those_kept(stored):
    for against in ("l2", "bct", "l2"):
        titles = [table.title for table in scenario_tables(stored, "made-up", against=against)]
        assert titles[1] == f"Differences to {against} in extended-class on icons"


@pytest.mark.parametrize("of", [build, scenario_tables])
def test_a_reference_without_records_is_named(stored, of):
    with pytest.raises(BenchError, match="--against bcr: there are no records"):
        of(stored, "made-up", against="bcr")


def test_a_run_refuses_a_reference_before_it_trains():
    done = CliRunner().invoke(app, ["all", "--smoke", "--methods", "ract", "--against", "bct"])
    assert isinstance(done.exception, BenchError)
    assert "--against bct is not a method of this run; expected one of ract" in str(done.exception)


def test_the_reference_reaches_a_run(monkeypatch):
    seen = []
    monkeypatch.setattr(
        commands, "_run", lambda suite, options, full, against: seen.append(against)
    )
    done = CliRunner().invoke(app, ["all", "--smoke", "--against", "bct"])
    assert (done.exit_code, seen) == (0, ["bct"]), done.output
