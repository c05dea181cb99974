"""Stages shared over a URL by stores with folders of their own."""

import json
import re
import uuid
from functools import partial

import pytest

from bench.errors import BenchError
from bench.evaluation import records
from bench.execution.workers import Workers
from bench.pipeline import stages
from bench.pipeline.finished import WEIGHTS
from bench.pipeline.runner import run
from bench.pipeline.specs import ModelSpec
from bench.pipeline.tasks import RunSettings
from bench.storage.digest import digest
from bench.storage.manifest import stage_metadata
from bench.storage.mirror import Mirror
from bench.storage.store import Store
from tests.bench.pipeline.test_runner import Silent
from tests.bench.pipeline.test_stages import plan
from tests.bench.stages import Stages
from tests.bench.storage.test_store import make


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    return {"file": f"file://{tmp_path}/mirror", "memory": f"memory://{uuid.uuid4().hex}"}[
        request.param
    ]


def never(folder):
    raise AssertionError("it is made again")


def test_what_one_store_made_another_one_fetches(tmp_path, url):
    one, other = (Store(tmp_path / name, Mirror(url)) for name in ("one", "other"))
    assert not other.has("models", "k")
    place = one.ensure("models", "k", make("four")[0])
    assert other.has("models", "k")
    fetched = other.ensure("models", "k", never)
    assert fetched == tmp_path / "other/cache/models/k"
    assert stage_metadata(fetched) == {"length": 4}
    names = {"file", "manifest.json"}
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        name: (place / name).read_bytes() for name in names
    }
    assert Store(tmp_path / "third", Mirror(url)).obtain("models", "k")
    assert not other.obtain("models", "another")


def rewrite(mirror, change):
    """Change the manifest at a URL as one who keeps its checksum right could."""
    path = f"{mirror.root}/models/k/manifest.json"
    content = json.loads(mirror.files.cat_file(path))
    change(content)
    mirror.files.pipe_file(path, json.dumps(content).encode())


def harm(mirror, how):
    folder = f"{mirror.root}/models/k"
    (blob,) = [path for path in mirror.files.ls(folder, detail=False) if "manifest" not in path]
    if how == "flipped":
        mirror.files.pipe_file(blob, b"contenT")
    elif how == "cut":
        mirror.files.pipe_file(blob, b"cont")
    elif how == "lost":
        mirror.files.rm_file(blob)
    elif how == "no manifest":
        mirror.files.pipe_file(f"{folder}/manifest.json", b"{")
    elif how == "another result":
        rewrite(mirror, lambda content: content.update(result=["models", "other"]))
    elif how == "deep":
        mirror.files.pipe_file(f"{folder}/manifest.json", b"[" * 100_000)
    elif how == "no text":
        mirror.files.pipe_file(f"{folder}/manifest.json", b"\xff\xfe")
    elif how.startswith("file "):
        name = NAMES[how]
        rewrite(mirror, lambda c: c.update(files={name: c["files"]["file"]}, checksum=None))
        rewrite(mirror, lambda c: c.pop("checksum"))
        rewrite(mirror, lambda c: c.update(checksum=digest(c)))


NAMES = {
    "file outside": "../../../stolen",
    "file above": "..",
    "file here": ".",
    "file without a name": "",
    "file with a long name": "x" * 300,
    "file hidden": ".hidden",
    "file with a command": "a\x1b[2J\n",
    "file absolute": "/tmp/stolen",
    "file in place of the manifest": "manifest.json",
    "file of another name": "other",
}
DAMAGES = ["flipped", "cut", "lost", "no manifest", "another result", "deep", "no text", *NAMES]


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_damaged_at_the_url_is_never_used(tmp_path, url, how):
    mirror = Mirror(url)
    Store(tmp_path / "one", mirror).ensure("models", "k", make("content")[0])
    harm(mirror, how)
    store, (fill, calls) = Store(tmp_path / "other", mirror), make("content")
    with store.making("models", "k", ("file",)) as work:
        work.metadata = fill(work.folder)
    place = store.path("models", "k")
    assert len(calls) == 1
    assert (place / "file").read_text() == "content"
    (note,) = store.notes
    assert note.startswith(f"{url}/models/k ")
    assert note.endswith("; made anew")
    assert not list(tmp_path.rglob("stolen"))
    assert not list(tmp_path.glob("other/**/*.partial"))
    healed = Store(tmp_path / "third", mirror).ensure("models", "k", never)
    assert (healed / "file").read_text() == "content"


def test_what_was_there_before_the_url_was_named_goes_there_too(tmp_path, url):
    Store(tmp_path).ensure("models", "k", make()[0])
    Store(tmp_path, Mirror(url)).ensure("models", "k", never)
    assert Mirror(url).has("models", "k")


@pytest.mark.parametrize("survives", [0, 1])
def test_a_publication_that_is_cut_off_shows_nothing_and_is_made_up_for(tmp_path, url, survives):
    mirror, written = Mirror(url), []
    original = mirror._put

    def put(file, path):
        if len(written) == survives:
            raise OSError("the network is gone")
        written.append(path)
        original(file, path)

    mirror._put = put
    with pytest.raises(OSError, match="network"):
        Store(tmp_path / "one", mirror).ensure("models", "k", make()[0])
    assert not mirror.has("models", "k")
    mirror._put = original
    Store(tmp_path / "one", mirror).ensure("models", "k", never)
    Store(tmp_path / "other", mirror).ensure("models", "k", never)


def test_two_that_publish_the_same_stage_at_once_leave_one_whole_result(tmp_path, url):
    """Their files may differ, say in a measured speed; one file of each would be neither."""
    slow, fast = Mirror(url), Mirror(url)
    original = slow._put

    def put(file, path):
        if path.endswith("manifest.json"):
            fast_store = Store(tmp_path / "fast")
            fast.publish("models", "k", fast_store.ensure("models", "k", make("fast")[0]))
        original(file, path)

    slow._put = put
    Store(tmp_path / "slow", slow).ensure("models", "k", make("slow")[0])
    place = Store(tmp_path / "third", Mirror(url)).ensure("models", "k", never)
    assert (place / "file").read_text() == "slow"


@pytest.mark.parametrize("text", ["::", "shared", "/mnt/shared", "s3:/bucket", "file://"])
def test_what_is_no_url_is_refused_and_never_a_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BenchError, match=re.escape(f"--mirror {text.rstrip('/')} is no URL; write")
    ):
        Mirror(text)
    assert not list(tmp_path.iterdir())


def test_whatever_a_store_fails_with_is_a_sentence(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("530 login incorrect")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(BenchError, match="ftp://host/x cannot be used: RuntimeError: 530 login"):
        Mirror("ftp://host/x")


def test_a_url_that_cannot_be_used_is_a_sentence(tmp_path):
    with pytest.raises(BenchError, match="--mirror quux://x cannot be used: ValueError: Protocol"):
        Mirror("quux://x")
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be used: .*every node may read and write"):
        Mirror(f"file://{tmp_path}/file").open()
    mirror = Mirror(f"file://{tmp_path}/mirror")
    mirror.open()
    (tmp_path / "mirror/VERSION").write_text("damaged")
    (note,) = mirror.open()
    assert note == f"file://{tmp_path}/mirror/VERSION was damaged; written anew"
    assert not mirror.open()
    (tmp_path / "mirror/VERSION").write_text("999\n")
    with pytest.raises(BenchError, match="has schema version 999, this harness writes version 2"):
        Store(tmp_path / "results", mirror).open()


class Elsewhere(Workers):
    """Runs cells in this process, but with the results folder of another node."""

    def each(self, tasks, work, killed):
        there = work.keywords["results"] / "elsewhere"
        return super().each(tasks, partial(work, results=there), killed)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cell that another node made and mirrored, and what its run said."""
    folder = tmp_path_factory.mktemp("shared")
    specs, url = plan(methods=("l2",)), f"file://{folder}/mirror"
    watcher = Silent()
    conduct = RunSettings(engine=Elsewhere, mirror=url)
    outcomes = run(specs, folder / "results", watcher, conduct)
    return folder, specs, url, outcomes


def test_records_made_elsewhere_come_here_with_a_mirror(shared):
    folder, specs, _, outcomes = shared
    assert [outcome.status for outcome in outcomes] == ["done"]
    path = specs[0].cell.record_path(folder / "results")
    there = specs[0].cell.record_path(folder / "results/elsewhere")
    assert path.read_bytes() == there.read_bytes()
    assert not (folder / "results/cache/models").exists()


def test_records_made_elsewhere_without_a_mirror_are_no_silent_success(tmp_path):
    specs = plan(methods=("independent",))
    (outcome,) = run(specs, tmp_path, Silent(), RunSettings(engine=Elsewhere))
    assert outcome.status == "failed"
    assert "its records are not in" in outcome.error
    assert "--mirror URL" in outcome.error


def test_a_run_with_another_folder_makes_nothing_again(shared, tmp_path, monkeypatch):
    folder, specs, url, _ = shared
    monkeypatch.setitem(stages._STAGES, ModelSpec, lambda *_: never(None))
    (outcome,) = run(specs, tmp_path, Silent(), RunSettings(mirror=url))
    assert outcome.status == "cached"
    path = specs[0].cell.record_path(tmp_path)
    assert path.read_bytes() == specs[0].cell.record_path(folder / "results").read_bytes()


def test_damaged_records_at_the_url_are_made_anew_and_told(shared, tmp_path):
    folder, specs, url, _ = shared
    records_folder = folder / "mirror/records" / specs[0].key
    for blob in records_folder.glob("[0-9a-f]*"):
        blob.write_bytes(blob.read_bytes()[:-1])
    watcher = Silent()
    (outcome,) = run(specs, tmp_path, watcher, RunSettings(mirror=url))
    assert outcome.status == "done"
    assert any(f"{url}/records/{specs[0].key} has a damaged file" in n for n in watcher.notes)
    rows, _ = records.read(specs[0].cell.record_path(tmp_path))
    there, _ = records.read(specs[0].cell.record_path(folder / "results"))
    assert rows.equals(there)


class LostError(BaseException):
    """The node is lost here."""


def lose_after(epochs):
    def report(stage, done, total):
        if stage == "train" and done == epochs:
            raise LostError

    return report


def node(folder, mirror, *arguments, **options):
    return Stages(Store(folder, mirror), *arguments, accelerator="cpu", **options)


def test_a_training_of_a_lost_node_goes_on_in_another_folder(tmp_path, url):
    spec = plan("epochs=4", methods=("l2",))[0].new
    undisturbed = node(tmp_path / "alone", None).model(spec)
    node(tmp_path / "one", Mirror(url)).model(spec.old)
    with pytest.raises(LostError):  # state 2 is kept before epoch 3 is reported
        node(tmp_path / "one", Mirror(url), lose_after(3), checkpoint_seconds=0).model(spec)
    seen, mirror = [], Mirror(url)
    other = node(tmp_path / "other", mirror, lambda *told: seen.append(told), checkpoint_seconds=0)
    resumed = other.model(spec)
    assert [told for told in seen if told[0] == "train"] == [("train", 3, 4), ("train", 4, 4)]
    assert (resumed / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()
    assert not other.store.notes
    assert not mirror.files.exists(f"{mirror.root}/checkpoints/{spec.key}.pt")


def test_a_damaged_state_at_the_url_is_never_used(tmp_path, url):
    spec, mirror = plan("epochs=4", methods=("independent",))[0].new, Mirror(url)
    undisturbed = node(tmp_path / "alone", None).model(spec)
    mirror.files.pipe_file(f"{mirror.root}/checkpoints/{spec.key}.pt", b"damaged")
    lost = node(tmp_path / "one", mirror)
    assert (lost.model(spec) / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()
    (note,) = lost.store.notes
    assert "set aside" in note
    assert "it is damaged" in note


def test_a_state_that_cannot_be_shared_costs_a_note_and_no_training(tmp_path, url, monkeypatch):
    def unreachable(*arguments):
        raise OSError("the network is gone")

    monkeypatch.setattr(Mirror, "send", unreachable)
    lost = node(tmp_path, Mirror(url), checkpoint_seconds=0)
    spec = plan("epochs=4", methods=("independent",))[0].new
    assert (lost.model(spec) / WEIGHTS).is_file()
    (note,) = lost.store.notes
    assert f"cannot be shared over {url}" in note
    assert "the network is gone" in note
