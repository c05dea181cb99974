"""`import bench`: light, and what it offers is what the command line works with."""

import subprocess
import sys

import pandas as pd
import pytest

import bench
from bench.analysis.scenarios import summarise
from bench.analysis.suite_records import read_suite
from bench.storage.results import record_paths
from tests.command import ROOT


def test_importing_it_brings_nothing_heavy_and_names_what_it_offers():
    code = """if True:
        import sys, bench
        print(sorted({"torch", "pandas", "numpy", "mlflow"} & set(sys.modules)))
        offered = {"run", "read_records", "compare", "compare_results", "evaluate_upgrade"}
        print(sorted(offered - set(dir(bench))))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n[]\n"
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        getattr(bench, "runs")  # noqa: B009


def test_records_and_comparisons_are_those_of_the_suite(stored_suite):
    rows, notes = read_suite(stored_suite, "made-up")
    pd.testing.assert_frame_equal(bench.read_records(results=stored_suite), rows)
    found = bench.compare("made-up", stored_suite)
    for mine, theirs in zip(found, summarise(rows, notes), strict=True):
        assert (mine.name, mine.methods) == (theirs.name, theirs.methods)
        assert mine.comparisons == theirs.comparisons


def test_two_results_are_compared(stored_suite, tmp_path):
    found = bench.compare_results(stored_suite, stored_suite)
    assert found.compared > 0
    assert not found.differences
    with pytest.raises(bench.BenchError, match="nowhere"):
        bench.compare_results(stored_suite, tmp_path / "nowhere")


def test_where_nothing_is_it_says_so(tmp_path):
    with pytest.raises(bench.BenchError, match="there are no records in"):
        bench.compare(results=tmp_path)
    with pytest.raises(bench.BenchError, match="unknown suite 'smok'"):
        bench.run("smok", tmp_path)
    with pytest.raises(bench.BenchError, match="epoch"):
        bench.run("smoke", tmp_path, settings={"epochs": "many"})


def test_a_run_is_found_again_by_its_name_and_failures_are_told_at_the_end(finished):
    results, _ = finished
    suite = str(ROOT / "tests" / "tiny.toml")
    again = bench.run(suite, results, methods=["ract", "independent"], jobs=1)
    assert again.suite == "tiny"
    assert [outcome.status for outcome in again.outcomes] == ["cached", "cached"]
    assert len(record_paths(results, "tiny")) == 2
