"""What README and the pages of documentation say is what happens."""

import json
import re
import runpy

import pandas as pd
import pytest

from bench.analysis import cells
from bench.evaluation import records
from bench.plugins import registry
from bench.rehearsal.rehearse import STEPS
from bench.suites.loading import load_suite
from bench.tracking.views import ROWS_OF_A_PAGE, TRIED
from tests.command import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_the_example_recomputes_the_numbers_from_the_records(finished, capsys):
    results, _ = finished
    example = re.search(r"```python\n(import pandas.*?)```", page("start"), re.DOTALL)[1]
    path = "records/tiny/synthetic/extended-class/ract/seed-0.parquet"
    example = re.sub(r'cell = ".*?"', f'cell = "{results / path}"', example)
    exec(compile(example, "start.md", "exec"), {})
    printed = re.findall(
        r"(\d+)% backfilled: mAP ([\d.]+), NFR@1 ([\d.]+)", capsys.readouterr().out
    )
    rows, _ = records.read(results / path)
    curve = cells.curve(cells.arrays(rows))
    assert [int(share) for share, _, _ in printed] == list(range(0, 101, 10))
    assert [float(ap) for _, ap, _ in printed] == pytest.approx(curve["mAP"], abs=5e-5)
    assert [float(nfr) for _, _, nfr in printed] == pytest.approx(curve["NFR_at_1"], abs=5e-5)


def test_both_commands_stand_in_the_readme_as_ci_runs_them():
    assert "pip install -e . && python -m bench all" in README
    assert '\npip install -e ".[test]" && pytest -n auto\n' in README


def test_the_table_is_the_reference_table():
    overview = runpy.run_path(str(ROOT / "docs" / "overview.py"))
    assert f"<!-- python docs/overview.py -->\n{overview['table']()}\n\n" in README
    drawn = (ROOT / "docs" / "overview.svg").read_text()
    for method in overview["rows"]()["method"]:
        assert f">{method}<" in drawn
    old = {f"{value:.3f}" for value in overview["rows"]()["M(o,o)"]}
    assert re.search(r"old system (0\.\d+)", README)[1] in old


def rows_of(page, heading):
    """Rows of a page's table, each by the cells of its heading, which starts like this."""
    lines = page[page.index(heading) :].split("\n\n", 1)[0].splitlines()
    names, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_page_of_the_reference_says_what_its_tables_say():
    folder = ROOT / "results" / "reference"
    rows = rows_of((folder / "README.md").read_text(), "| scenario | M(o,o) |")
    assert len(rows) == 3
    for row in rows:
        name = f"{row.pop('scenario')}-on-icons"
        table = pd.read_csv(folder / "default" / name / f"{name}.csv").set_index("method")
        assert row.pop("M(o,o)") == f"{table['M(o,o)'].iloc[0]:.3f}"
        for column, value in row.items():
            quantity, method = re.fullmatch(r"(\S.*) `(\w+)`", column).groups()
            assert value == f"{table[quantity][method]:.3f}", (name, column)


def test_the_page_of_the_tuning_lists_the_trials_that_were_made():
    """Also: the default suite has the best of each method, and the published came first."""
    folder, options = ROOT / "results" / "reference", load_suite("default")["options"]
    rows = rows_of((folder / "tuning.md").read_text(), "| method | setting |")
    for path in (folder / "tuning").glob("*.csv"):
        trials = pd.read_csv(path)
        settings = trials.columns[1 : trials.columns.get_loc("AUC_mAP")]
        own = [row for row in rows if row["method"] == path.stem]
        assert len(own) == len(trials) == 9
        objective = trials["AUC_mAP"] - trials["AUC_NFR_at_1"]
        for place, (row, number) in enumerate(
            zip(own, objective.sort_values(ascending=False).index, strict=True)
        ):
            trial = trials.loc[number]
            assert all(
                f"{trial[name]:.4g}" in row["setting"] for name in settings if name != "unseen"
            )
            assert row["setting"].startswith("**") == (place == 0)
            assert ("(published)" in row["setting"]) == (number == 0)
            told = [row[name] for name in ("M(n,o)", "M(n,n)", "AUC_mAP", "AUC_NFR@1")]
            columns = ("M_new_old", "M_new_new", "AUC_mAP", "AUC_NFR_at_1")
            measured = [f"{trial[column]:.3f}" for column in columns]
            assert told == (["–"] * 4 if isinstance(trial["error"], str) else measured)
            if place == 0:
                chosen = {name: trial[name] for name in settings}
                assert chosen.items() <= {"unseen": "synthesise", **options[path.stem]}.items()
    assert {row["method"] for row in rows} == {path.stem for path in (folder / "tuning").iterdir()}


def test_the_default_suite_is_as_large_as_it_is_said_to_be():
    suite = load_suite("default")
    assert "three upgrade scenarios × five methods × five seeds" in README
    assert [len(suite[part]) for part in ("scenarios", "methods", "seeds")] == [3, 5, 5]


def test_the_minutes_are_those_of_the_reference():
    source = (ROOT / "results" / "reference" / "README.md").read_text()
    (minutes,) = re.findall(r"the run took (\d+) minutes on two\s+CPU cores", README)
    assert f"{minutes} minutes for 80 models" in source


def test_the_rehearsal_that_is_kept_had_all_steps_and_methods():
    kept = json.loads((ROOT / "results" / "reference" / "rehearsal.json").read_text())
    assert {step["step"]: step["state"] for step in kept["steps"]} == dict.fromkeys(STEPS, "passed")
    assert kept["methods"] == sorted(registry.discover("methods"))
    said = f"all ten steps passed with\nall {len(kept['methods'])} methods in 12 minutes"
    assert said in page("gpus")
    assert len(STEPS) == 10
    assert round(sum(step["seconds"] for step in kept["steps"]) / 60) == 12
    assert kept["pretended"]


def test_the_method_that_the_page_shows_is_the_file():
    source = (ROOT / "methods" / "l2.py").read_text()
    assert source[source.index("class L2(") :].rstrip() in page("method")


def test_what_is_said_of_mlflow_is_what_the_views_are():
    assert f"more than {ROWS_OF_A_PAGE} runs" in page("mlflow")
    assert f"MLflow {TRIED[0].rstrip('.')};" in page("mlflow")


def test_every_method_says_where_it_is_from():
    """The page of methods is made of their docstrings, the table of fidelity names each."""
    table = (ROOT / "methods" / "README.md").read_text()
    for name in registry.discover("methods"):
        assert f"`{name}`" in table


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_command_and_option_of_the_pages_exists():
    from typer.main import get_command

    from bench.cli.commands import app

    known = get_command(app).commands
    said = [
        line.partition("#")[0]
        for each in PAGES
        for line in each.read_text().replace("\\\n", " ").splitlines()
        if re.search(r"python -m bench \w", line)
    ]
    assert len(said) > 30
    for line in said:
        for command, rest in re.findall(r"python -m bench ([\w-]+)([^`]*)", line):
            options = {name for each in known[command].params for name in each.opts}
            assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= options, line
