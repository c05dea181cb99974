"""The table of docs/trust.md names files, names and tests that are there."""

import re

import pytest

from tests.command import ROOT

SECTION = (ROOT / "docs/trust.md").read_text().split("## Figures")[0]
ROWS = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith("| ")][1:]
KINDS = [row[0] for row in ROWS]


def files(cell):
    """Files and folders that a cell names; a bare name lies beside the one before, or anywhere."""
    found, folder = [], None
    for name in re.findall(r"`([\w./-]+(?:\.py|/))`", cell):
        places = [ROOT / name, *([folder / name] if folder else []), *ROOT.glob(f"bench/*/{name}")]
        there = [place for place in places if place.exists()]
        assert there, f"{name} is not there"
        found.append(there[0])
        folder = there[0].parent
    return found


def text_of(place):
    every = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return "".join(path.read_text() for path in every)


@pytest.mark.parametrize("row", ROWS, ids=KINDS)
def test_where_a_kind_is_mended_is_there(row):
    _, where, _ = row
    places = files(where)
    assert places
    content = "".join(map(text_of, places))
    for name in re.findall(r"[(,] ?`(\w+)`", where):
        assert re.search(rf"\b{name}\b", content), f"no {name} in {where}"


@pytest.mark.parametrize("row", ROWS, ids=KINDS)
def test_what_holds_a_kind_is_there(row):
    _, _, tests = row
    for place in files(tests):
        assert "def test_" in text_of(place) or place.parent.name == "robustness"
    assert files(tests) or tests.startswith("by hand")


def test_every_kind_stands_once():
    assert len(KINDS) > 20
    assert len(set(KINDS)) == len(KINDS)
