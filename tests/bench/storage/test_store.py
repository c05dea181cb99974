import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import bench.storage.manifest
from bench.cli.commands import app
from bench.errors import BenchError
from bench.storage import manifest
from bench.storage.digest import digest
from bench.storage.files import publish
from bench.storage.manifest import stage_metadata
from bench.storage.store import Store


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
    assert stage_metadata(place) == {"length": 4}


def test_a_failed_stage_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("written")
        raise RuntimeError("no")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.ensure("models", "k", fail)
    assert not store.has("models", "k")
    left = {path.name for path in (tmp_path / "cache/models").iterdir()}
    assert left <= {"k.lock"}  # some versions of filelock remove it


DAMAGES = {
    "changed": lambda file: file.write_text("contenT"),
    "truncated": lambda file: file.write_text("cont"),
    "empty": lambda file: file.write_text(""),
    "missing": Path.unlink,
    "folder": lambda file: file.unlink() or file.mkdir(),
    "link to nothing": lambda file: file.unlink() or file.symlink_to("/nowhere/at/all"),
    "link to the same": lambda file: file.symlink_to(file.rename(file.parents[1] / "elsewhere")),
    "pipe": lambda file: file.unlink() or os.mkfifo(file),
}


@pytest.mark.parametrize("name", ["file", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("former", [True, False], ids=["the same store", "another store"])
def test_a_damaged_stage_is_set_aside_and_made_anew(tmp_path, damage, name, former):
    store, (fill, calls) = Store(tmp_path), make("content")
    place = store.ensure("models", "k", fill)
    DAMAGES[damage](place / name)
    store = store if former else Store(tmp_path)
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


@pytest.mark.parametrize(
    "said", [b"", b"\n", b"2\nbad\n", b"3\n" + b"0" * 20, b"\xff\xfe", b"2" * 300, b"foreign", None]
)
def test_a_damaged_version_is_mended_and_told(tmp_path, said):
    version = tmp_path / "cache" / "VERSION"
    Store(tmp_path).open()
    whole = version.read_bytes()
    version.unlink()
    version.mkdir() if said is None else version.write_bytes(said)
    store = Store(tmp_path)
    store.open()
    assert version.read_bytes() == whole
    (note,) = store.notes
    assert note.startswith(f"{version} was damaged")
    Store(tmp_path).open()


@given(position=st.integers(0, 21), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_version_is_taken_for_another(position, bit):
    text = bytearray(manifest.version_text().encode())
    text[position] ^= 1 << bit
    assert manifest.version_in(bytes(text)) in (None, manifest.LAYOUT_VERSION)


def test_a_folder_of_a_later_version_is_left_as_it_is_by_every_command(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "VERSION").write_text("999\n")
    options = ["--results", str(tmp_path)]
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["all", "--smoke"],
        ["run", "l2", "--suite", "smoke"],
        ["plan", "--smoke"],
        ["tune", "l2", "--suite", "smoke"],
        ["report"],
        ["data", "synthetic"],
        ["track"],
        ["ui"],
    ):
        with pytest.raises(BenchError, match="has schema version 999"):
            app([*command, *options], standalone_mode=False)
    assert sorted(tmp_path.rglob("*")) == before


def _closed(folder):
    """Write as libraries do that have a temporary file of their own."""
    save_file({"weight": torch.zeros(1)}, folder / "weights.safetensors")
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        os.rename(file.name, folder / "file")
    return {}


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_modes_are_what_the_umask_leaves(tmp_path, umask):
    former = os.umask(umask)
    try:
        store = Store(tmp_path)
        store.open()
        place = store.ensure("models", "k", make()[0])
        store.ensure("models", "by a library", _closed)
        (place / "file").write_text("harmed")
        Store(tmp_path, watched=True).ensure("models", "k", make()[0])
        publish(place / "file", tmp_path / "records" / "file")
    finally:
        os.umask(former)
    assert list(tmp_path.rglob("*.damaged"))
    for path in tmp_path.rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~umask, path


def as_user(number, results, umask, body, opened=True):
    """Use a results folder as another user of the same group."""
    code = (
        f"import os, sys; from pathlib import Path; from bench.storage.store import Store\n"
        f"os.setgroups([4711]); os.setgid(4711); os.setuid({number}); os.umask({umask})\n"
        f"store = Store(Path(sys.argv[1]))\n{'store.open()' * opened}\n{body}"
    )
    return subprocess.run(
        [sys.executable, "-c", code, results], check=False, capture_output=True, text=True
    )


FILL = "store.ensure('models', {0!r}, lambda f: (f / 'file').write_text('x') and {{}})"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become two users")
@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_the_second_user_works_or_gets_a_true_sentence(umask):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        results = Path(folder) / "results"
        results.mkdir()
        os.chown(results, 4001, 4711)
        results.chmod(0o775)
        first = as_user(4001, results, umask, FILL.format("one"))
        assert first.returncode == 0, first.stderr
        both = FILL.format("one") + "\n" + FILL.format("two")
        second = as_user(4002, results, umask, both)
        if umask == 0o002:
            assert second.returncode == 0, second.stderr
            assert (results / "cache/models/two/file").stat().st_uid == 4002
            back = as_user(4001, results, umask, FILL.format("two") + "\n" + FILL.format("three"))
            assert back.returncode == 0, back.stderr
        else:
            assert "cannot be used: Permission denied" in second.stderr
            assert "give a folder you may read and write" in second.stderr
        assert not list(results.rglob("*.damaged"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become two users")
def test_what_may_not_be_read_is_neither_damaged_nor_set_aside():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        results = Path(folder) / "results"
        results.mkdir()
        os.chown(results, 4001, 4711)
        results.chmod(0o775)
        assert as_user(4001, results, 0o002, FILL.format("one")).returncode == 0
        (results / "cache/models/one/file").chmod(0o600)
        second = as_user(4002, results, 0o002, FILL.format("one"))
        assert "may not be read by this user; ask whoever made it for `chmod" in second.stderr
        assert not list(results.rglob("*.damaged"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become two users")
@pytest.mark.parametrize("closed", ["", "records", "records/suite", "records/suite/a/b/c"])
def test_records_that_may_not_be_looked_for_are_not_said_to_be_absent(closed):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        results = Path(folder) / "results"
        (results / "records/suite/a/b/c").mkdir(parents=True)
        (results / closed).chmod(0o700)
        body = "from bench.storage.results import record_paths; record_paths(store.results)"
        found = as_user(4002, results, 0o002, body, opened=False)
        assert f"{results / closed} may not be read by this user" in found.stderr or not closed
        assert "may not be read by this user; ask whoever made it for `chmod" in found.stderr


def test_what_a_killed_process_left_is_swept_and_what_is_being_made_is_not(tmp_path):
    store = Store(tmp_path)
    store.open()
    (tmp_path / "cache/models/dead.x.partial").mkdir(parents=True)
    busy = tmp_path / "cache/models/busy.x.partial"
    busy.mkdir()
    unfinished = tmp_path / "records/.seed-0.parquet.x.partial"
    unfinished.parent.mkdir()
    for age in (0, 7200):
        unfinished.write_text("half")
        os.utime(unfinished, (time.time() - age,) * 2)
        with FileLock(tmp_path / "cache/models/busy.lock"):
            Store(tmp_path).open()
        assert unfinished.exists() == (age == 0)
    assert busy.exists()
    assert not (tmp_path / "cache/models/dead.x.partial").exists()
    Store(tmp_path).open()
    assert not busy.exists()


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from bench.storage.store import Store\n"
        "Store(Path(sys.argv[1])).ensure('models', 'k', lambda f: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    fill, calls = make("whole")
    place = Store(tmp_path).ensure("models", "k", fill)
    assert len(calls) == 1
    assert (place / "file").read_text() == "whole"
    assert not list(tmp_path.rglob("*.partial"))


def test_damage_is_noted_with_what_was_damaged_and_where_it_went(tmp_path):
    place = Store(tmp_path).ensure("models", "k", make("content")[0])
    (place / "file").write_text("contenT")
    store = Store(tmp_path)
    store.ensure("models", "k", make("content")[0])
    (note,) = store.notes
    aside = next((tmp_path / "cache/models").glob("*.damaged"))
    assert note == f"{place} has a damaged file file; set aside in {aside} and made anew"
    assert (aside / "k" / "file").read_text() == "contenT"


@pytest.mark.parametrize("watched", [False, True])
def test_damage_that_nobody_watches_for_is_a_warning(tmp_path, caplog, watched):
    place = Store(tmp_path).ensure("models", "k", make("content")[0])
    (place / "file").write_text("contenT")
    store = Store(tmp_path, watched=watched)
    store.ensure("models", "k", make("content")[0])
    assert len(store.notes) == 1
    assert caplog.messages == ([] if watched else store.notes)


def test_a_result_is_read_again_for_its_checksum_only_when_it_was_touched(tmp_path, monkeypatch):
    store = Store(tmp_path)
    place = store.ensure("models", "k", make("content")[0])
    read = []
    original = bench.storage.manifest.checksum_of
    monkeypatch.setattr(
        "bench.storage.manifest.checksum_of", lambda path: read.append(path) or original(path)
    )
    store.ensure("models", "k", make()[0])
    assert read == []
    Store(tmp_path).ensure("models", "k", make()[0])
    assert read == [place / "file"]


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path):
    target = tmp_path / "target"
    target.write_text("former")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "nothing", target)
    assert target.read_text() == "former"
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_is_opened_while_another_run_makes_and_finishes_stages(tmp_path):
    store, stop = Store(tmp_path), threading.Event()
    store.open()

    def work():
        for number in itertools.count():
            if stop.is_set():
                return
            store.ensure("models", str(number % 50), make()[0])
            shutil.rmtree(store.path("models", str(number % 50)))

    other = threading.Thread(target=work)
    other.start()
    try:
        for _ in range(100):
            Store(tmp_path).open()
    finally:
        stop.set()
        other.join()
