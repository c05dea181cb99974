"""What becomes of cells that fail, and of cached records that are damaged."""

import itertools
import json
import time

import pandas as pd
import pytest

from bench.errors import BenchError
from bench.evaluation import records
from bench.pipeline import stages
from bench.pipeline.runner import run
from bench.pipeline.specs import CellSpec, ModelSpec
from bench.pipeline.tasks import RunSettings
from bench.storage.store import Store
from tests.bench.pipeline.test_stages import plan

BROKEN = "l2"
UNUSED = itertools.count(4)  # shares of cells that no other test has made


class Silent:
    def begin(self, runs, models):
        self.notes = []

    def progress(self, label, stage, done, total):
        pass

    def finish(self, outcome):
        self.notes += outcome.notes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished cells."""
    results, specs = tmp_path_factory.mktemp("results"), plan(methods=("independent", BROKEN))
    Store(results).open()
    assert [outcome.status for outcome in run(specs, results, Silent())] == ["done", "done"]
    return results, specs


def again(results, specs, **conduct):
    watcher = Silent()
    return run(specs, results, watcher, RunSettings(**conduct)), watcher.notes


@pytest.fixture
def breaking(monkeypatch, finished):
    """One cell not yet made whose evaluation raises what the test wants."""
    results, _ = finished
    spec = plan(f"shares={next(UNUSED)}", methods=(BROKEN,))[0]
    calls, original = [], stages.stage_of(spec)

    def broken(error):
        def evaluate(spec, *arguments):
            calls.append(spec)
            if error is not None:
                raise error
            return original(spec, *arguments)

        monkeypatch.setitem(stages._STAGES, CellSpec, evaluate)

    return results, spec, broken, calls


def failure(results, spec):
    return spec.cell.failure_path(results)


def test_a_failed_cell_is_a_record_and_is_left_alone_until_asked(breaking):
    results, spec, broken, calls = breaking
    others = plan(f"shares={spec.shares}", methods=("independent",))
    broken(RuntimeError("no luck"))
    (outcome,), _ = again(results, [spec])
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: no luck")
    kept = json.loads(failure(results, spec).read_text())
    assert kept["method"] == BROKEN
    assert kept["error"] == "RuntimeError: no luck"
    assert "in evaluate" in kept["traceback"]
    assert not Store(results).has("records", spec.key)

    broken(None)
    calls.clear()
    (left, other), _ = again(results, [spec, *others])
    assert (left.status, other.status) == ("failed", "done")
    assert "no luck (in a former run; --retry-failed tries it again)" in left.error
    assert calls == others
    assert again(results, [spec])[0][0].error == left.error  # the sentence does not grow

    (retried,), _ = again(results, [spec], retry_failed=True)
    assert retried.status == "done"
    assert not failure(results, spec).exists()
    assert again(results, [spec])[0][0].status == "cached"


def test_a_changed_setting_is_tried_without_being_asked(breaking):
    results, spec, broken, calls = breaking
    broken(RuntimeError("no luck"))
    again(results, [spec])
    (changed,) = plan(f"shares={next(UNUSED)}", methods=(BROKEN,))
    again(results, [changed])
    assert calls == [spec, changed]


def unreadable():
    error = BenchError("weights may not be read by this user")
    error.__cause__ = PermissionError(13, "Permission denied")
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
        (unreadable(), "weights may not be read by this user"),
    ],
)
def test_a_failure_of_the_machine_is_tried_again_by_itself(breaking, error, told):
    results, spec, broken, calls = breaking
    broken(error)
    (outcome,), _ = again(results, [spec])
    assert outcome.error == told
    again(results, [spec])
    assert calls == [spec, spec]


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"key": 3}', "\x00"])
def test_a_damaged_failure_is_no_failure(breaking, text):
    results, spec, broken, calls = breaking
    broken(RuntimeError("no luck"))
    failure(results, spec).parent.mkdir(parents=True, exist_ok=True)
    failure(results, spec).write_text(text)
    again(results, [spec])
    assert calls == [spec]


def test_a_cell_that_takes_too_long_fails_and_leaves_no_unfinished_stage(breaking, monkeypatch):
    results, spec, _, _ = breaking
    specs = plan(f"shares={spec.shares}", methods=(BROKEN, "independent"))
    original = stages.stage_of(spec)

    def evaluate(spec, *arguments):
        if spec.cell.method == BROKEN:
            time.sleep(60)
        return original(spec, *arguments)

    monkeypatch.setitem(stages._STAGES, CellSpec, evaluate)
    outcomes, _ = again(results, specs, cell_timeout=3)
    by_method = {outcome.spec.cell.method: outcome for outcome in outcomes}
    assert by_method["independent"].status == "done"
    assert by_method[BROKEN].error == "it took longer than 3 seconds (--cell-timeout)"
    assert not list((results / "cache").rglob("*.partial"))


def test_a_model_that_fails_takes_along_the_cells_that_need_it_and_no_others(tmp_path, monkeypatch):
    original = stages.train_model

    def train(spec, *arguments):
        if spec.side.images < 1:
            raise RuntimeError("no old model")
        return original(spec, *arguments)

    monkeypatch.setitem(stages._STAGES, ModelSpec, train)
    specs = plan(methods=("independent",), scenarios=("extended-data", "extended-class"))
    outcomes, _ = again(tmp_path, specs)
    assert [(o.status, o.error) for o in outcomes] == [
        ("failed", "RuntimeError: no old model"),
        ("done", ""),
    ]
    assert failure(tmp_path, specs[0]).exists()


def damage(path, how):
    content = path.read_bytes()
    if how == "flip":
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(how, content))


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("which", ["cached", "published", "both"])
def test_a_damaged_record_is_never_used(finished, which, how):
    results, specs = finished
    spec = specs[1]
    published = spec.cell.record_path(results)
    run(specs, results, Silent())
    rows, _ = records.read(published)
    cached = Store(results).path("records", spec.key) / "records.parquet"
    for path in {"cached": [cached], "published": [published], "both": [cached, published]}[which]:
        damage(path, how)
    (_, outcome), notes = again(results, specs)
    assert outcome.status == ("cached" if which == "published" else "done")
    pd.testing.assert_frame_equal(records.read(published)[0], rows, check_exact=True)
    assert Store(results).intact("records", spec.key)
    if which != "published" or how != "flip":  # a flip may leave a readable, different file
        assert any("damaged" in note for note in notes)
