"""The notebooks run as they stand in the documentation."""

import json

import numpy as np
import pytest

from tests.command import ROOT


def executed(name):
    """Names that the cells of a notebook leave behind."""
    notebook = json.loads((ROOT / "docs" / name).read_text())
    names = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    return names


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
