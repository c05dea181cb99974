"""Two results compared: every number that differs, and whether it differs beyond its interval."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.scenarios import summarise
from bench.errors import BenchError
from bench.report import build
from bench.report.compare import compare
from tests.bench.conftest import make_suite, store_suite
from tests.command import ROOT, here

REFERENCE = ROOT / "results" / "reference" / "default"
TABLE = Path("extended-class-on-icons", "extended-class-on-icons.csv")


def small(**options):
    return make_suite(queries=30, seeds=[0], **options)


def test_a_result_is_the_same_as_itself_and_as_its_tables(tmp_path):
    store_suite(tmp_path, *small())
    tables = build(tmp_path, "made-up").parent / "tables"
    for other in (tmp_path, tmp_path / "records" / "made-up", tables, tables.parent):
        found = compare(tmp_path, other)
        assert (found.compared > 40, found.differences, found.alone) == (True, (), ())
        text = "\n".join(found.sentences())
        assert "numbers with an interval are the same" in text
        for group in ("Code", "Packages", "Data", "Settings", "Machine"):
            assert f"{group}: the same." in text or group in ("Code", "Packages")


def moved(folder, column, by):
    """Copy the reference tables with one number moved; the copy does not say what made it."""
    shutil.copytree(REFERENCE, folder)
    (folder / "origin.json").unlink()
    path = folder / TABLE
    table = pd.read_csv(path).set_index("method")
    table.loc["ract", column] += by
    table.to_csv(path)
    return table.loc["ract"]


@pytest.mark.parametrize(("by", "beyond"), [(0.001, False), (0.2, True), (-0.2, True)])
def test_a_moved_number_is_found_and_held_against_its_interval(tmp_path, by, beyond):
    row = moved(tmp_path / "mine", "AUC mAP", by)
    found = compare(REFERENCE, tmp_path / "mine")
    (each,) = found.differences
    assert (each.scenario, each.method, each.quantity) == (
        "extended-class-on-icons",
        "ract",
        "AUC mAP",
    )
    assert each.size == pytest.approx(by)
    inside = row["AUC mAP low"] <= row["AUC mAP"] - by <= row["AUC mAP high"]
    assert inside
    assert each.beyond == beyond
    done = here("compare", REFERENCE, tmp_path / "mine", check=False)
    assert done.returncode == (3 if beyond else 0)
    listed = re.search(r"^ *Outside the other's 95 % interval *$", done.stdout, re.MULTILINE)
    assert bool(listed) == beyond
    assert "Whether code, packages and data agree is unknown" in done.stdout


def test_what_made_the_results_is_compared_and_what_is_alone_is_named(tmp_path):
    methods = {"independent": (-3.0, 0.5), "l2": (0.1, 0.2)}
    rows, notes = small(methods=methods)
    for name, packages, more in (("one", "1.0", ()), ("two", "2.0", ("bct",))):
        own = dict(methods, **dict.fromkeys(more, (0.2, 0.3)))
        rows, notes = small(methods=own)
        provenance = {**notes["provenance"][0], "packages": {"torch": packages, "timm": "1"}}
        code = [{"method": f"code of {each}", "training": "t"} for each in notes["method"]]
        made = notes.assign(provenance=[provenance] * len(notes), code=code)
        store_suite(tmp_path / name, rows, made)
    text = "\n".join(compare(tmp_path / "one", tmp_path / "two").sentences())
    assert "Packages: 1 of 2 differ.\n  torch: 1.0 | 2.0" in text
    assert f"Only in {tmp_path / 'two'}, extended-class-on-icons: bct." in text
    assert "Data: the same." in text
    assert "Code: the same." in text
    assert "Settings: the same." in text


def test_records_of_another_layout_are_refused(tmp_path):
    store_suite(tmp_path / "one", *small())
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "cache").mkdir(exist_ok=True)
    (tmp_path / "two" / "cache" / "VERSION").write_text("999\n")
    with pytest.raises(BenchError, match=f"{tmp_path / 'two'} has schema version 999"):
        compare(tmp_path / "one", tmp_path / "two")


def test_suites_of_one_folder_are_compared_by_name(tmp_path):
    store_suite(tmp_path, *small())
    (tmp_path / "records" / "made-up").rename(tmp_path / "records" / "a")
    store_suite(tmp_path, *small(training=0.5))
    found = compare("a", "made-up", tmp_path)
    assert found.names == ("a", "made-up")
    assert found.differences
    with pytest.raises(BenchError, match="2 suites: a, made-up; choose one"):
        compare(tmp_path, "a", tmp_path)


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(BenchError, match="no file or folder, and no suite with records"):
        compare(REFERENCE, "nowhere", tmp_path)
    with pytest.raises(BenchError, match="neither records nor tables"):
        compare(REFERENCE, tmp_path)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="no table of a scenario"):
        compare(REFERENCE, tmp_path / "x.csv")
    store_suite(tmp_path, *make_suite(("open-class",), queries=12, seeds=[0]))
    with pytest.raises(BenchError, match="have nothing in common: extended"):
        compare(REFERENCE / TABLE, tmp_path)


def test_tables_say_what_made_them(tmp_path):
    store_suite(tmp_path, *small())
    origin = json.loads((build(tmp_path, "made-up").parent / "tables/origin.json").read_text())
    assert origin["data: icons, content"] == ["1"]
    assert origin["settings: seeds"] == ["0"]
    assert summarise(*small())[0].methods
