"""Hostile names in every output: none becomes markup, a command, a word or a formula."""

import csv
import io
import re
import shlex
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.cli.console import Terminal
from bench.cli.options import folder
from bench.errors import BenchError, command
from bench.output.texts import COMMANDS, plain, spreadsheet, told
from bench.report.figures import STYLE
from bench.report.table import Cell, Column, Table
from bench.storage.results import dataset_label

HOSTILE = [
    "a[/red]",
    "[bold]x",
    "r [v3]",
    "a\\",
    "[link=http://x]y[/link]",
    "\x1b[2J\x1b]0;owned\x07",
    "a\rb\x08\x9b31m",
    "\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "$\\frac{$",
    "$x^2$",
    "a & b % c # d _ e {f} ~ ^ \\g",
    "<script>alert(1)</script>",
    "'; rm -rf /; '",
    "$(touch x) `y`",
    "a b\tc\nd",
    ":smile: 100",
    "\udcff.png",
    "Ünïcödé 図書",
]
NAMES = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(HOSTILE)


def terminal():
    return Terminal(file=io.StringIO(), width=500, force_terminal=False, emoji=False)


@given(NAMES)
def test_a_terminal_shows_names_as_they_are_and_obeys_none(name):
    console = terminal()
    console.print(f"[bold]path[/] {told(name)} [red]end[/]", soft_wrap=True, highlight=False)
    shown = console.file.getvalue()
    assert not COMMANDS.search(shown.replace("\n", ""))
    if "\t" not in name and not name.endswith("\\"):  # rich widens the one, doubles the other
        on_one_line = plain(name).replace("\n", "\\n")
        assert shown == f"path {on_one_line} end\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_and_objects_obey_no_name(name):
    console = terminal()
    table = Table(name, (Column("method"), Column(name)), ((Cell(name), Cell(1.0)),), name, (name,))
    console.print(table.rich())
    assert not COMMANDS.search(console.file.getvalue().replace("\n", ""))


def test_a_colour_of_ours_still_reaches_a_terminal():
    console = Terminal(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print("[red]x[/]")
    assert console.file.getvalue() == "\x1b[31mx\x1b[0m\n"


def test_no_secret_passes_the_one_exit():
    console = terminal()
    console.print("at http://me:hunter2@host", soft_wrap=True)
    console.print(Table("t", (Column("a"),), ((Cell("http://me:hunter2@host"),),), "").rich())
    assert "hunter2" not in console.file.getvalue().partition("\n")[0]


@given(NAMES)
def test_a_pasted_command_has_the_words_that_were_given(name):
    words = shlex.split(command("report", name, results=Path(f"r/{name}")))
    assert words[4:] == [name, "--results", str(Path(f"r/{name}"))]


@given(st.lists(NAMES, min_size=1, max_size=3), NAMES)
@example(["=cmd|x"], "@x")
def test_no_cell_of_a_csv_is_a_formula_and_no_text_is_lost(names, heading):
    names = [plain(name) for name in names]  # no column of pandas holds half a surrogate pair
    frame = pd.DataFrame({plain(heading): names, "number": [-1.5] * len(names)})
    text = spreadsheet(frame).to_csv(index=False)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for row, name in zip(rows[1:], names, strict=True):
        assert row[0].removeprefix("'") in (name, name.removeprefix("'"))
        assert row[0][:1] not in ("=", "@", "\t", "\r")
        assert float(row[1]) == -1.5


@given(NAMES)
def test_no_name_ends_a_row_of_markdown_or_latex(name):
    table = Table("t", (Column("method"), Column("x")), ((Cell(name), Cell(1.0)),), "c", ())
    assert len(table.markdown().splitlines()) == 8
    rows = table.latex().split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert rows.count("\n") == 1
    escaped = rows.replace("\\\\", "").replace("\\&", "").replace("\\%", "").replace("\\$", "")
    assert escaped.count("&") == 1
    assert "%" not in escaped


@pytest.mark.parametrize("name", HOSTILE[:-2])
def test_figures_draw_names_as_they_are(name):
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        canvas = Figure(figsize=(2, 2))
        axes = canvas.subplots()
        axes.plot([0, 1], [0, 1], label=plain(name))
        axes.set_title(plain(name))
        file = io.BytesIO()
        canvas.savefig(file, format="svg")
    drawn = "".join(ElementTree.fromstring(file.getvalue()).itertext())
    assert plain(name).split()[0] in drawn


def test_a_folder_is_no_url():
    with pytest.raises(BenchError, match="is a URL"):
        folder("s3://bucket")


@pytest.mark.parametrize("mark", "\u061c\u200b\u2028\u2029\u202e\ufeff\U000e0041\x85\r")
def test_what_cannot_be_seen_or_turns_a_line_is_spelled_out(mark):
    assert mark not in plain(f"a{mark}b")
    assert plain(f"a{mark}b").encode("unicode_escape").startswith(b"a\\\\")


def test_a_name_does_not_begin_a_line_of_its_own():
    assert told("x\nerror: forged") == "x\\nerror: forged"


@pytest.mark.parametrize("name", ["caf\udce9", "a\nb", "\u202e", "..", "%00", "a b"])
def test_every_folder_has_a_label_that_is_a_folder(name):
    label = dataset_label(f"folder:{name}")
    assert re.fullmatch(r"folder-[A-Za-z0-9_.-]+", label)
