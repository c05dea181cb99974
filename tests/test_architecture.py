"""The diagram in docs/architecture.md is the contract that lint-imports checks."""

import tomllib

import pytest

from tests.command import ROOT

DOCUMENT = (ROOT / "docs/architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
LAYERS = CONTRACTS[0]["layers"]


def test_the_diagram_is_the_contract():
    assert DOCUMENT.split("```\n")[1].splitlines() == LAYERS


def test_the_contract_names_everything_in_the_package():
    named = {name.strip().removeprefix("bench.") for line in LAYERS for name in line.split("|")}
    there = {
        path.stem
        for path in (ROOT / "bench").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert there - {"__init__", "__main__"} == named


def test_few_modules_stand_beside_the_packages():
    assert len(list((ROOT / "bench").glob("*.py"))) <= 7


@pytest.mark.parametrize("line", [line for line in DOCUMENT.splitlines() if ".py`" in line])
def test_every_file_that_the_page_names_is_there(line):
    for name in (part for part in line.split("`")[1::2] if part.endswith(".py")):
        places = [ROOT / name, ROOT / "bench" / name, *(ROOT / "bench").glob(f"*/{name}")]
        assert any(place.is_file() for place in places), name


def test_the_imports_keep_the_contracts():
    """What `lint-imports` says, in this process."""
    linter = pytest.importorskip("importlinter.cli", reason='pip install -e ".[dev]"')
    assert linter.lint_imports(config_filename=str(ROOT / "pyproject.toml")) == 0
