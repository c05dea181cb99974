"""What becomes of cells that fail, and of cached records that are damaged."""

import contextlib
import inspect
import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import BenchError
from bench.evaluation import records
from bench.pipeline import make, memory, stages, tasks
from bench.pipeline.make import Maker, maker_of_process
from bench.pipeline.runner import run
from bench.pipeline.specs import CellSpec, EmbeddingsSpec, FittedSpec, ModelSpec
from bench.pipeline.tasks import RunSettings, run_task
from bench.storage.mirror import open_mirror
from bench.storage.store import Store
from tests.bench.pipeline.test_stages import plan

BROKEN = "l2"
ORDERS = ("random", "margin-prototypes")
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


# -------------------------------------------------- from settings to what makes the runs, and back

SETTINGS = RunSettings(
    jobs=7, threads=3, devices=2, readers=4, checkpoint_seconds=11.0, mirror="memory://nobody"
)


class StopError(Exception):
    """What was to be seen has been seen."""


def caught(monkeypatch, module, name):
    """Put a spy in a function's place, which notes its arguments by name and stops there."""
    seen, original = {}, inspect.signature(getattr(module, name))

    def spy(*arguments, **options):
        seen.update(original.bind(*arguments, **options).arguments)
        raise StopError(name)

    monkeypatch.setattr(module, name, spy)
    return seen


def test_the_engine_gets_each_setting_in_its_own_place(monkeypatch, tmp_path):
    seen = {}

    def engine(jobs, threads, devices, memory):
        seen.update(jobs=jobs, threads=threads, devices=devices, memory=memory())
        raise StopError

    specs = plan(methods=("independent",))
    monkeypatch.setattr(memory, "of_cells", lambda cells, devices: (list(cells), devices))
    with pytest.raises(StopError):
        again(tmp_path, specs, **{**vars(SETTINGS), "engine": engine})
    assert seen == {"jobs": 7, "threads": 3, "devices": 2, "memory": (specs, 2)}


def test_the_maker_of_a_task_gets_each_setting_in_its_own_place(monkeypatch, tmp_path):
    limits = []
    monkeypatch.setattr(tasks, "time_limit", lambda s: limits.append(s) or contextlib.nullcontext())
    (spec,) = plan(methods=("independent",))
    threads = torch.get_num_threads()
    try:
        with monkeypatch.context() as patch:
            seen = caught(patch, make, "maker_of_process")
            run_task(spec, tmp_path, replace(SETTINGS, cell_timeout=9.0), print)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert limits == [9.0]
    assert seen == {
        **{"results": tmp_path, "mirror": "memory://nobody", "checkpoint_seconds": 11.0},
        **{"devices": 2, "readers": 4},
    }
    maker = maker_of_process(**seen)
    assert (maker.devices, maker.means.readers, maker.means.checkpoint_seconds) == (2, 4, 11.0)
    assert (maker.store.results, maker.store.mirror.url) == (tmp_path, "memory://nobody")


def test_the_loop_gets_what_spec_and_settings_say(monkeypatch, tmp_path):
    (spec,) = plan(methods=("independent",), seeds=(5,))
    maker = Maker(Store(tmp_path), accelerator="cpu", checkpoint_seconds=11.0, readers=4)
    seen = caught(monkeypatch, stages, "train")
    with pytest.raises(StopError):
        maker.make(spec.old)
    assert (seen["recipe"], seen["seed"], seen["readers"]) == (spec.old.recipe, 5, 4)
    assert seen["checkpoint"].seconds == 11.0
    assert seen["subset"] is maker.finished.subset(spec.old)
    assert seen["images"] is maker.finished.data(spec.old).train


def test_embedding_gets_its_own_images_model_and_readers(finished, monkeypatch):
    results, specs = finished
    maker = Maker(Store(results), accelerator="cpu", readers=4)
    seen = caught(monkeypatch, stages, "embed")
    for split in ("train", "query", "gallery"):
        for spec in (specs[1].old, specs[1].new):  # of a method that is trained against an old one
            wanted = EmbeddingsSpec(spec, split)
            with pytest.raises(StopError):
                stages.embed_split(wanted, maker.finished, maker.means, results)
            assert seen["images"] is getattr(maker.finished.data(spec), split)
            assert (seen["readers"], seen["path"].parent) == (4, results)
            weights = maker.finished.weights(spec, "embedder.")
            state = seen["embedder"].state_dict()
            assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_every_device_gets_what_the_maker_has(monkeypatch, tmp_path):
    """With several devices, positional arguments go through another process."""
    (spec,) = plan(methods=("independent",))
    mirror = open_mirror("memory://nobody")
    maker = Maker(Store(tmp_path, mirror), print, "cpu", 11.0, devices=2, readers=4)
    calls = []

    def launch(devices, accelerator, report, work, *arguments):
        calls.append((devices, accelerator, report))
        bound = inspect.signature(work).bind("fabric", report, *arguments).arguments
        calls.append({name: bound[name] for name in set(bound) - {"fabric", "report", "folder"}})
        raise StopError

    monkeypatch.setattr(make, "launch", launch)
    with pytest.raises(StopError):
        maker.make(spec.old)
    assert calls == [
        (2, "cpu", print),
        {
            **{"results": tmp_path, "mirror": mirror, "checkpoint_seconds": 11.0},
            **{"readers": 4, "spec": spec.old},
        },
    ]


def test_the_backfill_is_walked_with_the_orders_shares_and_seed_of_the_run(finished, monkeypatch):
    results, _ = finished
    (spec,) = plan(
        *("shares=4", "new.temperature=0.07"), methods=("independent",), seeds=(5,), orders=ORDERS
    )
    maker = Maker(Store(results), accelerator="cpu")
    seen = caught(monkeypatch, stages.cell, "evaluate")
    with pytest.raises(StopError):
        maker.make(spec)
    assert (seen["names"], seen["shares"], seen["seed"]) == (ORDERS, 4, 5)
    embedded, read = seen["embedded"], maker.finished.embeddings
    for age, model in (("old", spec.old), ("new", spec.new)):
        for split in ("query", "gallery"):
            assert np.array_equal(getattr(embedded, f"{split}_{age}"), read(model, split))
    asked = stages.cell.search_old(embedded, seen["data"])
    assert np.array_equal(seen["old"].success, asked.success)
    inputs = seen["inputs"]
    assert inputs.temperature == 0.07
    assert np.array_equal(inputs.gallery_old, embedded.gallery_old)
    for age, model in (("old", spec.old), ("new", spec.new)):
        head = maker.finished.weights(model)["head"].numpy()
        assert np.array_equal(getattr(inputs, f"{age}_head"), head)
    rows = maker.finished.subset(spec.old).rows
    assert rows.tolist() != list(range(len(rows)))
    assert np.array_equal(inputs.train_old, read(spec.old, "train")[rows])
    labels = maker.finished.data(spec.old).train.labels[rows]
    for one, other in ((0, 1), (0, -1)):
        same = inputs.train_labels[one] == inputs.train_labels[other]
        assert same == (labels[one] == labels[other])


def test_records_tell_how_their_own_model_was_trained(finished):
    results, specs = finished
    maker = Maker(Store(results), accelerator="cpu")
    for spec in specs:
        _, note = records.read(spec.cell.record_path(results))
        trained = maker.finished.model_metadata(spec.new)
        assert note.losses == trained.losses
        assert note.rates["train_images_per_s"] == trained.rates["train"]
        assert note.losses != maker.finished.model_metadata(spec.old).losses
        gallery = maker.finished.embeddings_metadata(EmbeddingsSpec(spec.new, "gallery"))
        assert note.rates["embed_images_per_s"] == gallery.rates["embed"]
    assert "l2" in note.losses[0]


def test_settings_are_tried_on_training_images_alone(tmp_path):
    by_split = {
        split: Maker(Store(tmp_path)).finished.data(
            plan(f"split={split}", methods=("independent",))[0].new
        )
        for split in ("test", "validation")
    }
    test, tried = by_split["test"], by_split["validation"]
    seen = {*tried.train.ids, *tried.query.ids, *tried.gallery.ids}
    assert seen == set(test.train.ids)
    assert not seen & {*test.query.ids, *test.gallery.ids}


def test_a_method_is_fitted_on_its_own_pairs_with_the_seed_of_its_model(tmp_path, monkeypatch):
    (spec,) = plan(methods=("procrustes",), seeds=(5,))
    maker = Maker(Store(tmp_path), accelerator="cpu")
    seen = caught(monkeypatch, stages, "fit_method")
    with pytest.raises(StopError):
        maker.make(FittedSpec(spec.new))
    assert seen["seed"] == 5
    rows = maker.finished.subset(spec.new).rows
    for age, model in (("old", spec.old), ("new", spec.new)):
        stored = maker.finished.embeddings(model, "train")[rows]
        assert np.array_equal(getattr(seen["pairs"], age), stored)
