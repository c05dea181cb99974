"""One table, five outputs: the same numbers, the same claims, names escaped."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.quantities import ARCHITECTURE_RATES
from bench.analysis.scenarios import summarise
from bench.errors import BenchError
from bench.report.table import Cell, Column, Table
from bench.report.tables import (
    architecture_table,
    comparison_table,
    difference_tables,
    ranking_tables,
    scenario_table,
)

HOSTILE = 'a_b & <script>alert("x")</script> | 50% $x$ `c`'
TABLE = Table(
    "title with 100 % & <b>",
    (Column("method"), Column("M(n,n)", 3, 1), Column("NFR@1 20%", 2, -1), Column("img/s", 0)),
    (
        (
            Cell(HOSTILE, letter="a"),
            Cell(0.12345, 0.1, 0.15, "b", ("ract",), True),
            *(Cell(0.5),) * 2,
        ),
        (Cell("ract", letter="b"), Cell(0.1), Cell(float("nan")), Cell(1234.5)),
    ),
    "caption ± 5 %",
    ("a note <i>",),
)


def tables_of(scenarios):
    """The tables of scenarios, then those of ranks over them."""
    return [
        *map(scenario_table, scenarios),
        *difference_tables(scenarios),
        *ranking_tables(scenarios),
    ]


def suite_tables(rows, metadata):
    return tables_of(summarise(rows, metadata))


def printed(table, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(table.rich())
    return console.file.getvalue()


class Cells(HTMLParser):
    """The text of every cell, and the tags seen."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.rows = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_all_outputs_show_the_same_numbers(default_suite):
    for table in suite_tables(*default_suite):
        shown = [[value for value, _, _ in row] for row in table.texts()]
        page = Cells(table.html())
        markdown = [
            [
                re.sub(r"<sup>.*?</sup>|\*\*|\\", "", cell).split(" [")[0].strip()
                for cell in line.strip("| ").split(" | ")
            ]
            for line in table.markdown().splitlines()
            if line.startswith("|")
        ]
        latex = [
            re.sub(r"\\textsuperscript{\w*}|\\textbf{([^}]*)}", r"\1", line).rstrip("\\ ")
            for line in table.latex().splitlines()
            if line.count(" & ") == len(table.columns) - 1
        ]
        plain = printed(table, 400)
        for number, row in enumerate(shown):
            assert markdown[number + 2] == row
            assert [re.match(r"[^{]*", c)[0].strip() for c in latex[number + 1].split(" & ")] == [
                text.replace("_", r"\_").replace("–", "--") for text in row
            ]
            for text, cell in zip(row, page.rows[number + 1], strict=True):
                assert cell.startswith(text)
            for text in row:
                assert text in plain


def test_csv_has_every_digit_and_the_names_of_who_is_beaten():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[0]["method"] == HOSTILE
    assert (rows[0]["M(n,n)"], rows[0]["M(n,n) low"]) == ("0.12345", "0.1")
    assert rows[0]["M(n,n) beats"] == "ract"
    assert rows[1]["img/s"] == "1234.5"


def test_names_are_escaped_in_html():
    page = Cells(TABLE.html())
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.rows[1][0] == f"{HOSTILE} (a)"
    assert page.tags.count("strong") == 1


def test_nothing_in_html_waits_for_a_pointer():
    """Bounds and the names of who is beaten are text, for keyboards, touch and screen readers."""
    assert "title=" not in TABLE.html()
    assert Cells(TABLE.html()).rows[1][1] == "0.123b better than ract [0.100, 0.150]"


def test_columns_are_chosen_by_name_in_the_order_given():
    table = TABLE.only(["NFR@1 20%", "M(n,n)"])
    assert [column.name for column in table.columns] == ["method", "NFR@1 20%", "M(n,n)"]
    assert [cell.value for cell in table.rows[0]] == [HOSTILE, 0.5, 0.12345]
    assert TABLE.only(None) == TABLE
    with pytest.raises(BenchError, match=r"unknown column 'M\(n,m\)'; did you mean 'M\(n,n\)'"):
        TABLE.only(["M(n,m)"])


def test_names_are_escaped_in_markdown_and_latex():
    row = TABLE.markdown().splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(TABLE.columns) + 1
    assert "**0.123**<sup>b</sup> [0.100, 0.150]" in row
    row = next(line for line in TABLE.latex().splitlines() if line.startswith("a\\_b"))
    assert len(re.findall(r"(?<!\\)&", row)) == len(TABLE.columns) - 1
    assert r"50\% \$x\$" in row
    assert r"\textbf{0.123}\textsuperscript{b} {\scriptsize [0.100, 0.150]}" in row


def test_latex_is_a_booktabs_table():
    source = TABLE.latex()
    for name in ("toprule", "midrule", "bottomrule", "end{tabular}", "end{table}", "caption"):
        assert source.count(f"\\{name}") == 1
    assert source.count("{") - source.count(r"\{") == source.count("}") - source.count(r"\}")


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_the_terminal_shows_every_column_within_its_width(default_suite, width):
    table = suite_tables(*default_suite)[0]
    text = printed(table, width)
    assert all(len(line) <= width for line in text.splitlines())
    values = [value for row in table.texts() for value, _, _ in row[1:]]
    assert all(value in text for value in values)


def test_the_caption_names_test_family_queries_seeds_and_what_is_covered(suite):
    table = suite_tables(*suite())[0]
    for part in (
        "3 seeds and 40 groups of queries (120 queries)",
        "95 % bootstrap confidence intervals (seeds, then groups of queries)",
        "both by whole groups of queries",
        "sign-flip permutation",
        "exact McNemar",
        "Holm over the 6 pairs",
        "backfill order random",
        "cpu (a processor), 1 thread(s), float32 (embedding, training)",
    ):
        assert part in table.caption
    table = suite_tables(*suite(seeds=[0, 1]))[0]
    assert "Fewer than 3 seeds: intervals and tests reflect query sampling only" in table.caption
    assert "Means over 2 seeds" in table.caption
    assert "confidence intervals (groups of queries alone)" in table.caption
    table = suite_tables(*suite(methods={"bct": (0, 0)}))[0]
    assert "nothing is compared" in table.caption


def test_what_is_bold_beats_all_others_and_says_by_how_much(default_scenarios):
    scenarios = default_scenarios
    for scenario, table in zip(scenarios, tables_of(scenarios), strict=False):
        letters = {row[0].value: row[0].letter for row in table.rows}
        bold = 0
        for place, quantity in enumerate(scenario.quantities, start=1):
            for row in table.rows:
                cell = row[place]
                assert cell.marks == "".join(letters[name] for name in cell.beats)
                claims = [
                    each
                    for each in scenario.comparisons.get(quantity.key, [])
                    if each.first == row[0].value and each.claimed
                ]
                assert {each.second for each in claims} == set(cell.beats)
                assert all(each.corrected_p <= 0.05 and each.low > 0 for each in claims)
                assert cell.best == (len(cell.beats) == len(table.rows) - 1)
                bold += cell.best
        assert bold == sum("d_z" in note for note in table.notes)


def test_ranks_over_scenarios(default_scenarios):
    scenarios = default_scenarios
    table = tables_of(scenarios)[-1]
    assert table.title == "Mean rank over 3 scenarios"
    for row in table.rows:
        places = [scenario.methods.index(row[0].value) + 1 for scenario in scenarios]
        assert row[1].value == pytest.approx(sum(places) / 3)
    assert "Scenarios on one dataset share its queries" in table.caption
    assert len(tables_of(scenarios[:1])) == 2


def test_more_methods_than_letters(suite):
    methods = {f"method-{number:02d}": (number / 10, number / 10) for number in range(28)}
    shares = np.array([0.0, 1.0])
    table = suite_tables(*suite(methods=methods, seeds=[0], queries=9, shares=shares))[0]
    marks = [row[0].letter for row in table.rows]
    assert marks[:2] == ["a", "b"]
    assert marks[-2:] == ["aa", "ab"]
    assert len(set(marks)) == 28


def test_all_pairs_are_listed_with_effect_sizes(default_scenarios):
    scenario = default_scenarios[0]
    quantity = next(each for each in scenario.quantities if each.key == "AUC_mAP")
    table = comparison_table(scenario, quantity)
    assert len(table.rows) == 6
    assert "Holm over these 6 pairs" in table.caption
    for row in table.rows:
        wins, ties, losses = map(int, row[5].value.split(" / "))
        assert wins + ties + losses == 40


def test_the_caption_says_what_limits_training(default_suite):
    table = suite_tables(*default_suite)[0]
    assert (
        "Training bottleneck: forward and backward pass (830 images/s; augmentation 20,000, "
        "reading 90,000)."
    ) in table.caption


# ------------------------------------------------------------------------------------ differences


def test_differences_are_those_of_the_same_queries_to_the_reference(
    default_suite, default_scenarios
):
    rows, _ = default_suite
    scenarios = default_scenarios
    for table, scenario in zip(difference_tables(scenarios, "bct"), scenarios, strict=True):
        assert table.title == f"Differences to bct in {scenario.name} on icons"
        assert {row[0].value for row in table.rows} == {"independent", "l2", "ract"}
        own = rows[rows["scenario"] == scenario.name]
        end = own[own["share"] == 1].groupby("method")["AP"].mean()
        place = [column.name for column in table.columns].index("M(n,n)")
        for row in table.rows:
            cell = row[place]
            assert cell.value == pytest.approx(end[row[0].value] - end["bct"])
            assert cell.low < cell.value < cell.high


def test_a_difference_of_flips_keeps_its_sign_and_is_bold_where_it_stands(default_scenarios):
    scenario = default_scenarios[0]
    for reference in scenario.methods:
        (table,) = difference_tables([scenario], reference)
        for place, quantity in enumerate(each for each in scenario.quantities if each.test):
            for row in table.rows:
                method, cell = row[0].value, row[place + 1]
                gap = scenario.value(quantity.key, method) - scenario.value(quantity.key, reference)
                assert cell.value == pytest.approx(gap, abs=1e-12)
                claimed = reference in scenario.beaten(
                    quantity.key, method
                ) or method in scenario.beaten(quantity.key, reference)
                assert cell.best == claimed
                if claimed:
                    assert cell.low > 0 or cell.high < 0


def test_the_reference_is_the_best_by_default_and_where_the_named_one_was_not_run(suite):
    with_bct, without = summarise(
        *map(
            pd.concat,
            zip(
                suite(("extended-data",)),
                suite(("extended-class",), {"l2": (-0.1, 0.0), "ract": (0.1, 0.45)}),
                strict=True,
            ),
        )
    )
    tables = difference_tables([with_bct, without], "bct")
    assert "to bct in extended-data" in tables[0].title
    assert "to ract in extended-class" in tables[1].title
    assert f"to {with_bct.methods[0]} in" in difference_tables([with_bct])[0].title
    with pytest.raises(BenchError, match=r"--against bcr: .*expected one of .*bct"):
        difference_tables([with_bct, without], "bcr")


def test_intervals_and_signs_are_the_same_in_every_format(default_scenarios):
    table = difference_tables(default_scenarios[:1])[0]
    value, interval, cell = next(table.texts())[1]
    assert value == f"{cell.value:+.3f}"
    assert interval == f"[{cell.low:+.3f}, {cell.high:+.3f}]"
    for text in (table.markdown(), table.latex(), table.html(), printed(table, 400)):
        assert value in text
        assert interval in text
    first = next(csv.DictReader(io.StringIO(table.csv())))
    name = table.columns[1].name
    assert (float(first[f"{name} low"]), float(first[f"{name} high"])) == (cell.low, cell.high)
    assert "Holm over the 6 pairs of methods in a column" in table.caption


def test_a_difference_that_is_shown_as_zero_has_no_sign():
    table = Table("t", (Column("a"), Column("b", 3, signed=True)), (), "")
    row = (Cell("x"), Cell(-0.0001, -0.0004, 0.0004))
    (texts,) = Table(table.title, table.columns, (row,), "").texts()
    assert texts[1][:2] == ("0.000", "[0.000, 0.000]")


def test_rates_of_an_architecture_stand_once(suite):
    rows, notes = suite()
    scenario = summarise(rows, notes)[0]
    names = [column.name for column in scenario_table(scenario).columns]
    assert "train img/s" in names
    assert not {"embed img/s", "searches/s", "backfill img/s"} & set(names)
    table = architecture_table([scenario])
    assert len(table.rows) == 1
    for rate, cell in zip(ARCHITECTURE_RATES, table.rows[0][2:], strict=False):
        assert cell.value == np.median([each[rate.key] for each in notes["rates"]])
    wide = notes["method"].eq("l2")
    recipes = [
        {**each, "new_recipe": {"backbone": "test_resnet", "width": 256 if w else 128}}
        for each, w in zip(notes["settings"], wide, strict=True)
    ]
    table = architecture_table(summarise(rows, notes.assign(settings=recipes)))
    assert {row[0].value for row in table.rows} == {
        "test_resnet, 128 dimensions",
        "test_resnet, 256 dimensions",
    }
    assert [row[-1].value for row in table.rows if "256" in row[0].value] == [3]
