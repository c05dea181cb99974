import os

import pytest

from bench.errors import BenchError
from bench.store import Store, digest, facts, publish


def make(content="x"):
    calls = []

    def fill(folder):
        calls.append(folder)
        (folder / "file").write_text(content)
        return {"length": len(content)}

    return fill, calls


def test_a_finished_stage_is_made_once_and_keeps_its_facts(tmp_path):
    store, (fill, calls) = Store(tmp_path), make("four")
    place = store.ensure("models", "k", fill)
    assert store.ensure("models", "k", fill) == place
    assert len(calls) == 1
    assert (place / "file").read_text() == "four"
    assert facts(place) == {"length": 4}


def test_a_failed_stage_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("written")
        raise RuntimeError("no")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.ensure("models", "k", fail)
    assert not store.has("models", "k")
    assert [path.name for path in (tmp_path / "cache/models").iterdir()] == ["k.lock"]


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "manifest"])
def test_a_damaged_stage_is_set_aside_and_made_anew(tmp_path, damage):
    store, (fill, calls) = Store(tmp_path), make("content")
    place = store.ensure("models", "k", fill)
    if damage == "missing":
        (place / "file").unlink()
    elif damage == "manifest":
        (place / "manifest.json").write_text("{")
    else:
        (place / "file").write_text("contenT" if damage == "changed" else "cont")
    assert (store.ensure("models", "k", fill) / "file").read_text() == "content"
    assert len(calls) == 2
    assert list((tmp_path / "cache/models").glob("*.damaged"))


def test_digests_depend_on_content_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_publishing_replaces_a_file_whole(tmp_path):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    for text in ("first", "second"):
        source.write_text(text)
        publish(source, target)
        assert target.read_text() == text
    assert os.listdir(target.parent) == ["target"]


def test_a_folder_that_is_a_file_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(BenchError, match="cannot be used.*--results"):
        Store(tmp_path / "results").open()


def test_a_folder_of_another_schema_version_is_refused(tmp_path):
    store = Store(tmp_path)
    store.open()
    (tmp_path / "cache" / "VERSION").write_text("999\n")
    with pytest.raises(BenchError, match="has schema version 999"):
        store.open()
