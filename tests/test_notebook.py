"""The notebooks run as they stand in the documentation, and show what they then print."""

import ast
import io
import json
import re
from contextlib import redirect_stdout

import numpy as np
import pytest

from tests.command import ROOT

NUMBER = r"-?\d+\.\d+"


def executed(name):
    """Names that the cells of a notebook leave behind; each cell shows what it is said to show."""
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] == "code":
            same(shown(cell), run("".join(cell["source"]), names), f"{name}, cell {number}")
    return names


def cells(name):
    return json.loads((ROOT / "docs" / name).read_text())["cells"]


def run(source, names):
    """Run a cell; return what it prints and, as Markdown, the value of its last line."""
    printed, body = io.StringIO(), ast.parse(source)
    *_, last = body.body
    with redirect_stdout(printed):
        if not isinstance(last, ast.Expr):
            exec(source, names)
            return printed.getvalue()
        exec(compile(ast.Module(body.body[:-1], []), name := "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    table = "" if value is None else value._repr_mimebundle_()["text/markdown"]
    return printed.getvalue() + table


def shown(cell):
    """What the notebook shows below a cell."""
    assert cell["execution_count"], "not executed: run python docs/notebooks.py"
    assert all(output.get("name") != "stderr" for output in cell["outputs"])
    return "".join(
        "".join(output.get("text", output.get("data", {}).get("text/markdown", ())))
        for output in cell["outputs"]
    )


def same(said, found, where):
    """Equal words, and numbers that another processor may round otherwise."""
    again = f"{where} shows something else than it prints: run python docs/notebooks.py"
    assert re.sub(NUMBER, "#", said) == re.sub(NUMBER, "#", found), again
    numbers = [[float(each) for each in re.findall(NUMBER, text)] for text in (said, found)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03), again


@pytest.mark.parametrize("name", ["evaluate.ipynb", "api.ipynb"])
def test_the_notebooks_show_their_outputs_without_folders_of_a_machine(name):
    text = (ROOT / "docs" / name).read_text()
    assert len(text) < 20_000
    assert not re.search(r"/(tmp|home|root|work|usr)/|site-packages|Traceback", text)
    assert all(shown(cell) is not None for cell in cells(name) if cell["cell_type"] == "code")


def test_a_notebook_that_shows_something_else_is_told():
    for found in ("mAP 0.3 of ract\n", "mAP 0.5 of l2\n"):
        with pytest.raises(AssertionError, match=r"docs/notebooks\.py"):
            same("mAP 0.5 of ract\n", found, "cell")
    same("mAP 0.501 of ract\n", "mAP 0.500 of ract\n", "cell")


def test_the_notebook_runs_and_decides():
    names = executed("evaluate.ipynb")
    assert names["verdict"].bridges
    assert {each.name for each in names["result"].found.bridges} >= {"procrustes", "rank_merge"}


@pytest.mark.slow
def test_the_notebook_of_the_api_runs_reads_and_compares():
    names = executed("api.ipynb")
    assert [outcome.status for outcome in names["made"].outcomes] == ["done", "done"]
    assert names["made"].suite.startswith("smoke+")
    assert set(names["records"]["method"]) == {"independent", "ract"}
    refreshed = names["refreshed"]
    area = refreshed.groupby(["method", "share"])["AP"].mean()["ract"]
    position = names["scenario"].methods.index("ract")
    expected = np.trapezoid(area.to_numpy(), area.index.to_numpy())
    assert names["scenario"].estimates["AUC_mAP"].value[position] == pytest.approx(expected)
