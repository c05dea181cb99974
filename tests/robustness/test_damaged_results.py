"""A file among the results that is altered, or another run's: never used, never in the way."""

import json
import shutil
from types import SimpleNamespace

import pytest

from bench.analysis.suite_records import keep_order, read_suite, scenario_order, suite_key
from bench.errors import BenchError
from bench.evaluation import flips, records
from bench.pipeline.failures import former_failure
from bench.report import up_to_date
from bench.report.compare import compare
from bench.storage.results import flips_path, record_paths, suite_note_path
from bench.storage.verified import sealed_json
from tests.bench.conftest import make_suite, store_suite

DAMAGES = ["flip", "cut", "empty", "gone", "folder", "other"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    results = tmp_path_factory.mktemp("sound") / "results"
    store_suite(results, *make_suite(("extended-class", "extended-data"), queries=30, seeds=[0, 1]))
    up_to_date(results, "made-up")
    return results


@pytest.fixture
def copied(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "results")


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 3] ^= 4
    if how in ("gone", "folder"):
        path.unlink()
    if how == "folder":
        path.mkdir()
    if how in ("flip", "cut", "empty", "other"):
        cut = {"cut": content[: len(content) // 2], "empty": b"", "other": b"method\n"}
        path.write_bytes(cut.get(how, content))


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def of_run(results, scenario="extended-class", method="l2", seed=0):
    return results / f"records/made-up/icons/{scenario}/{method}/seed-{seed}.parquet"


@pytest.mark.parametrize(
    "other", [{"method": "bct"}, {"seed": 1}, {"scenario": "extended-data"}], ids=str
)
@pytest.mark.parametrize("swapped", [True, False], ids=["swapped", "copied"])
def test_the_records_of_another_run_are_refused_with_what_they_hold(copied, other, swapped):
    here, there = of_run(copied), of_run(copied, **other)
    swap(here, there) if swapped else shutil.copyfile(there, here)
    for read in (suite_key, read_suite):
        with pytest.raises(BenchError, match=r"seed-\d.parquet is damaged \(it holds .* seed"):
            read(copied, "made-up")


def test_the_records_of_another_suite_are_not_joined(copied):
    here = of_run(copied)
    rows, note = records.read(here)
    records.write(here, rows, note.model_copy(update={"suite": "another"}))
    with pytest.raises(BenchError, match="their suite differs between"):
        read_suite(copied, "made-up")


def test_a_folder_of_records_may_be_renamed_as_a_whole(copied):
    (copied / "records/made-up").rename(copied / "records/kept")
    assert len(read_suite(copied, "kept")[1]) == len(record_paths(copied))


def test_examples_of_flips_of_another_run_are_refused(copied):
    paths = [flips_path(of_run(copied, method=method)) for method in ("l2", "bct")]
    keys = [records.read_note(of_run(copied, method=method)).key for method in ("l2", "bct")]
    for path, key in zip(paths, keys, strict=True):
        flips.write(path, flips.Flips("random", 0.5, 0, ()), key)
        flips.read(path, key)
    swap(*paths)
    for path, key in zip(paths, keys, strict=True):
        with pytest.raises(BenchError, match="it holds examples of another run"):
            flips.read(path, key)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "kind", ["report.html", "checksums.json", "tables/origin.json", "tables/*/*-on-*.csv"]
)
def test_a_report_that_was_altered_is_told_and_made_anew(copied, kind, how, caplog, monkeypatch):
    (folder,) = (copied / "reports").iterdir()
    damage(sorted(folder.glob(kind))[0], how)
    built = []
    monkeypatch.setattr("bench.report.build", lambda *a, **k: built.append(a) or folder)
    up_to_date(copied, "made-up")
    assert built
    # Without its checksums nobody can tell that a report was altered.
    told = "was altered; the report is made anew" in caplog.text
    assert told or (kind, how) == ("checksums.json", "gone")


def test_a_report_as_it_was_written_is_not_made_anew(copied, monkeypatch):
    monkeypatch.setattr("bench.report.build", lambda *a, **k: pytest.fail("made anew"))
    (copied / "reports/made-up/notes.txt").write_text("mine")
    up_to_date(copied, "made-up")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["checksums.json", "tables/origin.json", "tables/*/*-on-*.csv"])
def test_tables_that_were_altered_are_not_compared(copied, sound, kind, how):
    folder = copied / "reports/made-up"
    damage(sorted(folder.glob(kind))[0], how)
    for side in (folder, folder / "tables"):
        if (kind, how) == ("checksums.json", "gone"):
            assert not compare(str(side), str(sound)).differences
            continue
        with pytest.raises(BenchError, match="altered since the report was made"):
            compare(str(side), str(sound))


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"",
        b"method\nl2\nl2\n",
        b"method,AUC mAP,AUC mAP low,AUC mAP high\nl2,x,0,1\n",
        b"method,AUC mAP,AUC mAP low,AUC mAP high\nl2,0,0,1\nl2,0,0,1\n",
        b"AUC mAP,AUC mAP low,AUC mAP high\n0,0,1\n",
        b"method,AUC mAP low\nl2,1\n",
    ],
)
def test_a_table_that_is_none_is_named(text, tmp_path):
    path = tmp_path / "a-on-b.csv"
    path.write_bytes(text)
    with pytest.raises(BenchError, match="a-on-b.csv"):
        compare(str(path), str(path))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_suites_note_is_written_anew(copied, how):
    suite = SimpleNamespace(name="made-up", summary="s", scenarios=("b", "a"))
    keep_order(copied, suite)
    sound = suite_note_path(copied, "made-up").read_bytes()
    damage(suite_note_path(copied, "made-up"), how)
    keep_order(copied, suite)
    assert scenario_order(copied, "made-up") == ["b", "a"]
    assert suite_note_path(copied, "made-up").read_bytes() == sound


@pytest.mark.parametrize("how", [*DAMAGES, "unsealed"])
def test_a_failure_that_was_altered_costs_another_try(tmp_path, how):
    path = tmp_path / "seed-0.json"
    spec = SimpleNamespace(key="k", cell=SimpleNamespace(failure_path=lambda _: path))
    kept = {"key": "k", "transient": False, "error": "e", "traceback": ""}
    path.write_text(sealed_json(kept))
    assert former_failure(tmp_path, spec).error.startswith("e (in a former run")
    damage(path, how)
    if how == "unsealed":
        path.write_text(json.dumps(kept))
    assert former_failure(tmp_path, spec) is None


@pytest.mark.parametrize(
    "name", ["*", "**", "made-*", "made?up", "[m]ade-up", "", "/", "..", "../records", "made-up/"]
)
def test_the_name_of_a_suite_is_no_pattern_and_no_path(sound, name):
    assert record_paths(sound, name) == []
    with pytest.raises(BenchError, match="no records of suite"):
        suite_key(sound, name)
