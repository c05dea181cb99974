"""What a stranger may put into a results folder, a suite or an image name does no harm."""

import json
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.evaluation import records
from bench.storage.provenance import environment
from bench.storage.store import Store
from bench.suites.loading import compose, load_suite
from tests.bench.pipeline.test_stages import plan

SOURCES = sorted(
    path
    for folder in ("bench", "datasets", "methods")
    for path in Path(__file__).parents[2].joinpath(folder).rglob("*.py")
)


def fill(folder):
    (folder / "weights").write_text("learnt")
    return {"images": 3}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results")
    store.open()
    return store


def remade(store):
    """Ask a new store for the result; it must be made anew, with a note."""
    fresh = Store(store.results)
    place = fresh.ensure("models", "k", fill)
    assert (place / "weights").read_text() == "learnt"
    assert not (place / "weights").is_symlink()
    (note,) = fresh.notes
    assert "set aside in" in note
    return note


def test_a_result_copied_from_another_key_is_refused(store):
    other = store.ensure("models", "other", fill)
    other.rename(store.path("models", "k"))
    assert "is the result of models/other" in remade(store)


def test_a_link_out_of_the_folder_is_not_followed(store, tmp_path):
    place, secret = store.ensure("models", "k", fill), tmp_path / "secret"
    secret.write_text("learnt")  # even with the right content
    (place / "weights").unlink()
    (place / "weights").symlink_to(secret)
    assert "damaged file weights" in remade(store)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_a_manifest_cannot_name_files_elsewhere(store, name):
    place = store.ensure("models", "k", fill)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert "damaged manifest" in remade(store)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '{"files": 1}', '{"checksum": []}', "\x00"]
)
def test_a_manifest_may_hold_anything(store, text):
    (store.ensure("models", "k", fill) / "manifest.json").write_text(text)
    remade(store)


def test_facts_and_further_files_are_covered_by_the_checksum(store):
    place = store.ensure("models", "k", fill)
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text.replace('"images": 3', '"images": 4'))
    assert "damaged manifest" in remade(store)
    (place / "more").write_text("")
    assert "lost or gained files" in remade(store)


def test_a_file_in_place_of_a_folder_is_set_aside(store):
    place = store.path("models", "k")
    place.parent.mkdir(parents=True)
    place.write_text("I am a file")
    remade(store)


def test_no_module_unpickles_or_evaluates(tmp_path):
    """`datasets/_plain_pickle.py` reads published splits and admits plain values only."""
    forbidden = re.compile(
        r"\b(pickle\.loads?|joblib\.load|allow_pickle=True|yaml\.load|shelve|marshal\.loads?)\b"
        r"|weights_only=False|(?<![\w.])eval\(|(?<![\w.])exec\("
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text().splitlines()
        if forbidden.search(line) and path.name != "_plain_pickle.py"
    ]
    assert found == []
    loads = [
        line for path in SOURCES for line in path.read_text().splitlines() if "torch.load(" in line
    ]
    assert all("weights_only=True" in line for line in loads)


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_record_that_is_a_pickle_runs_nothing(tmp_path):
    harm, path = tmp_path / "harm", tmp_path / "seed-0.parquet"
    path.write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(BenchError, match="seed-0.parquet is damaged"):
        records.read(path)
    assert not harm.exists()


@pytest.mark.parametrize(
    "content",
    [
        'summary = "x"\nname = "../../../tmp/evil"\n',
        'summary = "x"\nsuite = "../../evil"\n',
        'summary = "x"\nmethods = ["../evil"]\n',
        'summary = "x"\nmethods = ["os"]\n',
        'summary = "x"\ndataset = "../../evil"\n',
        'summary = "x"\nscenarios = ["../../evil"]\n',
        'summary = "x"\nseeds = ["../0"]\n',
        '!!python/object/apply:os.system ["true"]\n',
        "\x00",
    ],
)
def test_a_suite_file_cannot_name_places_outside_its_results(tmp_path, content):
    path = tmp_path / "stranger.toml"
    path.write_text(content)
    try:
        suite = load_suite(str(path))
        from bench.pipeline.plan import make_plan

        cells = make_plan(compose(suite))
    except BenchError:
        return
    results = (tmp_path / "results").resolve()
    for spec in cells:
        for target in spec.published(results).values():
            assert results in target.resolve().parents


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "harmful.pth"},
        {"pretrained_cfg_overlay": {"file": "harmful.pth"}},
    ],
)
def test_a_suite_cannot_make_timm_unpickle_a_file(tmp_path, monkeypatch, options):
    import torch

    from bench.training.models import make_embedder

    harm = tmp_path / "harm"
    torch.save({"state_dict": Harm(harm)}, tmp_path / "harmful.pth")
    monkeypatch.chdir(tmp_path)
    pretrained = "pretrained_cfg_overlay" in options
    recipe = plan()[0].new.recipe.model_copy(
        update={"backbone_options": options, "pretrained": pretrained}
    )
    with suppress(Exception):  # refused, in whatever words
        make_embedder(recipe, 0)
    assert not harm.exists()


def test_no_secret_of_the_environment_is_recorded(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "LD_PRELOAD_KEY"):
        monkeypatch.setenv(name, "hunter2-secret")
    text = json.dumps(environment())
    assert "hunter2" not in text
    assert str(Path.home()) not in text
    known = {"git_revision", "python", "platform", "processor", "cores", "packages"}
    assert set(environment()) == known
