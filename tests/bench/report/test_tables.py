"""One table, five outputs: the same numbers, the same claims, names escaped."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from bench.report.scenarios import summarise
from bench.report.table import Cell, Column, Table
from bench.report.tables import comparison_table, suite_tables, tables_of

HOSTILE = 'a_b & <script>alert("x")</script> | 50% $x$ `c`'
TABLE = Table(
    "title with 100 % & <b>",
    (Column("method"), Column("M(n,n)", 3, 1), Column("NFR@1 20%", 2, -1), Column("img/s", 0)),
    (
        (
            Cell(HOSTILE, marks="a"),
            Cell(0.12345, 0.1, 0.15, "b", ("ract",), True),
            *(Cell(0.5),) * 2,
        ),
        (Cell("ract", marks="b"), Cell(0.1), Cell(float("nan")), Cell(1234.5)),
    ),
    "caption ± 5 %",
    ("a note <i>",),
)


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
                re.sub(r"<sup>.*?</sup>|\*\*|\\", "", cell).split(" ±")[0].strip()
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
    assert page.rows[1][0] == f"{HOSTILE} a"
    assert page.tags.count("strong") == 1
    assert 'title="0.1000 to 0.1500; beats ract"' in TABLE.html()


def test_names_are_escaped_in_markdown_and_latex():
    row = TABLE.markdown().splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(TABLE.columns) + 1
    assert "**0.123**<sup>b</sup> ±0.025" in row
    row = next(line for line in TABLE.latex().splitlines() if line.startswith("a\\_b"))
    assert len(re.findall(r"(?<!\\)&", row)) == len(TABLE.columns) - 1
    assert r"50\% \$x\$" in row
    assert r"\textbf{0.123}\textsuperscript{b} {\scriptsize$\pm$0.025}" in row


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
        "3 seeds and 120 queries",
        "hierarchical bootstrap over seeds and queries",
        "sign-flip permutation",
        "exact McNemar",
        "Holm-corrected over the 6 pairs",
        "backfill order random",
        "cpu (a processor), 1 thread(s), float32 (embedding, training)",
    ):
        assert part in table.caption
    table = suite_tables(*suite(seeds=[0, 1]))[0]
    assert "fewer than 3 seeds nothing can be said about the variance of training" in table.caption
    assert "Means over 2 seeds" in table.caption
    assert "bootstrap over queries alone" in table.caption
    table = suite_tables(*suite(methods={"bct": (0, 0)}))[0]
    assert "nothing is compared" in table.caption


def test_what_is_bold_beats_all_others_and_says_by_how_much(default_suite):
    scenarios = summarise(*default_suite)
    for scenario, table in zip(scenarios, tables_of(scenarios), strict=False):
        letters = {row[0].value: row[0].marks for row in table.rows}
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


def test_ranks_over_scenarios(default_suite):
    scenarios = summarise(*default_suite)
    table = tables_of(scenarios)[-1]
    assert table.title == "Mean rank over 3 scenarios"
    for row in table.rows:
        places = [scenario.methods.index(row[0].value) + 1 for scenario in scenarios]
        assert row[1].value == pytest.approx(sum(places) / 3)
    assert "Scenarios on one dataset share its queries" in table.caption
    assert len(tables_of(scenarios[:1])) == 1


def test_more_methods_than_letters(suite):
    methods = {f"method-{number:02d}": (number / 10, number / 10) for number in range(28)}
    table = suite_tables(*suite(methods=methods, queries=40, shares=np.array([0.0, 1.0])))[0]
    marks = [row[0].marks for row in table.rows]
    assert marks[:2] == ["a", "b"]
    assert marks[-2:] == ["aa", "ab"]
    assert len(set(marks)) == 28


def test_all_pairs_are_listed_with_effect_sizes(default_suite):
    scenario = summarise(*default_suite)[0]
    quantity = next(each for each in scenario.quantities if each.key == "AUC_mAP")
    table = comparison_table(scenario, quantity)
    assert len(table.rows) == 6
    assert "Holm over these 6 pairs" in table.caption
    for row in table.rows:
        wins, ties, losses = map(int, row[5].value.split(" / "))
        assert wins + ties + losses == 120


def test_the_caption_says_what_limits_training(default_suite):
    table = suite_tables(*default_suite)[0]
    assert (
        "Training is limited by the model (830 images/s alone; augmenting them 20,000, reading "
        "images 90,000)."
    ) in table.caption
