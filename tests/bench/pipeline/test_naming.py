"""No command spoils what another one made: records of other keys stay, and are not joined."""

from pathlib import Path

import pytest

from bench.analysis.suite_records import Choice, keep_order, only_suite, scenario_order, suite_paths
from bench.errors import BenchError
from bench.evaluation import records
from bench.pipeline import keys
from bench.pipeline.naming import named_plan
from bench.suites.loading import compose
from tests.bench.conftest import make_cell
from tests.bench.made_up import metadata

CONTENT = {
    **{"name": "toy", "summary": "a toy", "dataset": "synthetic"},
    **{"scenarios": ["extended-class"], "methods": ["independent", "l2"], "seeds": [0, 1]},
}
ROWS = make_cell("extended-class", "l2", 0, queries=4)[0]


def settled(results, *assignments, content=CONTENT, **chosen):
    return named_plan(compose(content, assignments, **chosen), results)


def leave(results, plan):
    """Leave records as a run of the plan does."""
    for spec in plan:
        path = spec.cell.record_path(results)
        path.parent.mkdir(parents=True, exist_ok=True)
        note = metadata(**vars(spec.cell), key=spec.key)
        records.write(path, ROWS, note)


@pytest.fixture
def results(tmp_path) -> Path:
    suite, plan = settled(tmp_path)
    assert suite.name == "toy"
    leave(tmp_path, plan)
    return tmp_path


def test_the_same_and_further_runs_join_those_that_are_there(results):
    for chosen in ({}, {"methods": ("bct",)}, {"seeds": (1, 2)}, {"scenarios": ("open-class",)}):
        suite, plan = settled(results, **chosen)
        assert suite.name == "toy"
        assert {spec.cell.suite for spec in plan} == {"toy"}


def test_a_suite_file_that_says_something_else_now_takes_the_next_name(results):
    other = {**CONTENT, "recipe": {"epochs": 2}}
    suite, plan = settled(results, content=other)
    assert suite.name == "toy+2"
    leave(results, plan)
    assert settled(results, content=other)[0].name == "toy+2"
    assert settled(results)[0].name == "toy"
    third = {**CONTENT, "recipe": {"epochs": 4}}
    assert settled(results, content=third, methods=("l2",))[0].name == "toy+3"


@pytest.mark.parametrize("chosen", [{}, {"methods": ("bct",)}, {"seeds": (5,)}])
def test_other_code_neither_replaces_nor_joins(results, monkeypatch, chosen):
    stage_code = keys.stage_code
    for place in ("bench.pipeline.specs", "bench.pipeline.keys"):
        monkeypatch.setattr(f"{place}.stage_code", lambda stage: f"{stage_code(stage)}x")
    assert settled(results, **chosen)[0].name == "toy+2"


def test_code_of_a_method_that_is_not_run_spoils_nothing(results, monkeypatch):
    """All that is asked for is there as it would be made: nothing is written."""
    plugin_code = keys.plugin_code
    for place in ("bench.pipeline.specs", "bench.pipeline.keys"):
        monkeypatch.setattr(
            f"{place}.plugin_code",
            lambda kind, name: plugin_code(kind, name) + "x" * (name == "l2"),
        )
    assert settled(results, methods=("independent",))[0].name == "toy"
    assert settled(results, methods=("l2",))[0].name == "toy+2"


def test_records_of_a_method_that_is_gone_are_joined_by_none(results):
    former = results / "records/toy/synthetic/extended-class/l2"
    gone = former.with_name("gone")
    notes = {path.name: records.read_note(path).content() for path in former.glob("*.parquet")}
    former.rename(gone)
    for name, note in notes.items():
        records.write(gone / name, ROWS, metadata(**{**note, "method": "gone"}))
    assert settled(results, methods=("bct",))[0].name == "toy+2"


def test_a_damaged_record_is_no_other_key(results):
    """The run restores it."""
    (path, *_) = (results / "records").rglob("*.parquet")
    path.write_bytes(b"no records")
    assert settled(results)[0].name == "toy"


def test_scenarios_stand_in_the_order_of_the_suite(tmp_path):
    names = ("wider-embedding", "extended-class", "open-class")
    suite, plan = settled(tmp_path, scenarios=names)
    leave(tmp_path, plan)
    keep_order(tmp_path, suite)
    keep_order(tmp_path, settled(tmp_path, scenarios=("open-class",))[0])
    assert scenario_order(tmp_path, "toy") == list(names)
    keep_order(tmp_path, settled(tmp_path, scenarios=(*names[::-1], "extended-data"))[0])
    assert scenario_order(tmp_path, "toy") == [*names[::-1], "extended-data"]
    found = [path.parts[-3] for path in suite_paths(tmp_path, "toy")]
    assert list(dict.fromkeys(found)) == list(names[::-1])


def test_some_runs_are_chosen_by_all_that_names_them(results):
    chosen = suite_paths(results, "toy", Choice(methods=("l2",), seeds=(1,)))
    assert [path.parts[-2:] for path in chosen] == [("l2", "seed-1.parquet")]
    with pytest.raises(BenchError, match="unknown method among .* 'l3'; did you mean 'l2'"):
        suite_paths(results, "toy", Choice(methods=("l3",)))
    with pytest.raises(BenchError, match="unknown scenario among"):
        suite_paths(results, "toy", Choice(scenarios=("open-class",)))


def test_the_only_suite_is_found_and_several_are_named(results, tmp_path):
    assert only_suite(results) == "toy"
    leave(results, settled(results, content={**CONTENT, "name": "other"})[1])
    with pytest.raises(BenchError, match=r"2 suites: other, toy; choose one with --suite"):
        only_suite(results)
    with pytest.raises(BenchError, match="no records of suite 'default' .* only of other, toy"):
        suite_paths(results, "default")
    with pytest.raises(BenchError, match="there are no records in .*bench all"):
        only_suite(tmp_path / "nothing")
