"""Training and search on fixed vectors made elsewhere: no pixel is read, a projection is learnt."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bench.cli.commands import app
from bench.costs.estimate import Survey, counted, estimate
from bench.data import precomputed
from bench.data.precomputed import read_precomputed, with_precomputed, write_listing
from bench.errors import BenchError
from bench.pipeline.plan import make_plan
from bench.pipeline.tasks import RunSettings
from bench.plugins.registry import make_dataset
from bench.storage.store import Store
from bench.suites.loading import compose
from tests.bench.stages import Stages
from tests.datasets import layouts

WIDTH = 12
CONTENT = {
    "name": "tiny",
    "summary": "a tiny suite",
    "dataset": "folder",
    "scenarios": ["extended-class"],
    "methods": ["ract"],
    "seeds": [0],
    "recipe": {"epochs": 4, "width": 4, "batch_size": 4},
}


def vectors_of(data, seed=0, width=WIDTH):
    """A vector near that of its class for every image, by id."""
    generator = np.random.default_rng(seed)
    found = {}
    for parts in ((data.train,), (data.query, data.gallery)):
        centres = generator.normal(size=(parts[0].labels.max() + 1, width))
        for images in parts:
            noisy = centres[images.labels] + generator.normal(size=(len(images), width)) / 4
            found |= dict(zip(images.ids, noisy.astype(np.float32), strict=True))
    return found


def save(path, vectors):
    ids, rows = list(vectors), np.stack(list(vectors.values()))
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), vectors=rows)
    elif path.suffix == ".npy":
        np.save(path, rows)
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n")
    elif path.suffix == ".parquet":
        pd.DataFrame({"id": ids, "embedding": list(rows)}).to_parquet(path)
    else:
        import json

        save_file({"x": torch.from_numpy(rows)}, path, {"ids": json.dumps(ids)})
    return path


@pytest.fixture
def folder(tmp_path):
    """Class folders whose files hold nothing: to decode one is an error."""
    layouts.folder(tmp_path / "data", classes=8, each=4)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"")
    return tmp_path / "data"


@pytest.fixture
def data(folder, tmp_path):
    return make_dataset(f"folder:{folder}").load(8, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".safetensors"])
def test_each_image_gets_the_vector_of_its_id_in_any_order_of_the_file(data, tmp_path, suffix):
    vectors = vectors_of(data)
    names = np.random.default_rng(3).permutation(list(vectors)).tolist()
    path = save(tmp_path / f"vectors{suffix}", {name: vectors[name] for name in names})
    found = with_precomputed(data, path)
    for images in (found.train, found.query, found.gallery):
        rows = np.arange(len(images))[::-1]
        read = images.images.read(rows)
        assert read.dtype == torch.float32
        expected = np.stack([vectors[images.ids[row]] for row in rows])
        np.testing.assert_array_equal(read.numpy(), expected)
    assert not set(found.query.ids) & set(found.gallery.ids)


def changed(vectors, change):
    second = list(vectors)[1]
    if change == "missing":
        return {name: row for name, row in vectors.items() if name != second}
    if change == "nan":
        return {**vectors, second: np.full(WIDTH, np.nan, np.float32)}
    return vectors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("missing", r"vectors\.npz has no vector of 'class \d/image-1\.png' \(1 such of the 16 "),
        ("nan", r"vectors\.npz: row 1 holds NaN or infinity"),
    ],
)
def test_wrong_vectors_are_named(data, tmp_path, change, sentence):
    path = save(tmp_path / "vectors.npz", changed(vectors_of(data), change))
    with pytest.raises(BenchError, match=sentence):
        with_precomputed(data, path)


def test_wrong_files_are_named(data, tmp_path):
    vectors = vectors_of(data)
    rows = np.stack(list(vectors.values()))
    np.save(tmp_path / "plain.npy", rows)
    with pytest.raises(BenchError, match=r"plain\.npy does not say which image.*plain\.ids\.txt"):
        read_precomputed(tmp_path / "plain.npy")
    np.savez(tmp_path / "twice.npz", ids=np.array(["a", "b", "a"]), x=rows[:3])
    with pytest.raises(BenchError, match=r"3 rows and 3 ids, 2 of them different, 'a' among"):
        read_precomputed(tmp_path / "twice.npz")
    np.savez(tmp_path / "two.npz", ids=np.array(["a"]), x=rows[:1], y=rows[:1])
    with pytest.raises(BenchError, match=r"two\.npz cannot be read .*2 arrays beside ids"):
        read_precomputed(tmp_path / "two.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(BenchError, match=r"broken\.npz cannot be read"):
        read_precomputed(tmp_path / "broken.npz")
    frame = pd.DataFrame({"id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]})
    frame.to_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(BenchError, match=r"ragged\.parquet .*rows of different lengths"):
        read_precomputed(tmp_path / "ragged.parquet")
    with pytest.raises(BenchError, match=r"gone\.npz does not exist"):
        read_precomputed(tmp_path / "gone.npz")
    np.savez(tmp_path / "objects.npz", ids=np.array(["a"]), x=np.array([{}]))
    with pytest.raises(BenchError, match=r"objects\.npz cannot be read"):
        read_precomputed(tmp_path / "objects.npz")


def plan(folder, *assignments):
    options = {"folder": {"split_seed": 0}}
    content = {**CONTENT, "dataset": f"folder:{folder}", "options": options}
    return make_plan(compose(content, assignments))


def test_the_content_of_the_file_is_keyed_and_not_its_place(folder, data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    one = save(tmp_path / "one.npz", vectors_of(data))
    same = tmp_path / "elsewhere" / "same.npz"
    same.write_bytes(one.read_bytes())
    other = save(tmp_path / "other.npz", vectors_of(data, seed=1))
    (first,), (again,), (third,) = (
        plan(folder, f"embeddings={path}") for path in (one, same, other)
    )
    assert first.key == again.key
    assert first.new.key != third.new.key
    (mixed,) = plan(folder, f"embeddings={one}", f"new.embeddings={other}")
    assert mixed.old.key == first.old.key
    assert mixed.new.recipe.embeddings == other
    assert mixed.new.key not in {first.new.key, third.new.key}
    assert plan(folder)[0].new.key != first.new.key


def test_a_projection_of_each_sides_own_vectors_is_learnt(folder, data, tmp_path, monkeypatch):
    """Old and new vectors of different widths; what is deployed is recomputed from the weights."""
    old_vectors, new_vectors = vectors_of(data, 1), vectors_of(data, 2, width=20)
    old, new = save(tmp_path / "old.npz", old_vectors), save(tmp_path / "new.parquet", new_vectors)
    (spec,) = plan(folder, f"old.embeddings={old}", f"new.embeddings={new}")
    stages = Stages(Store(tmp_path / "results"), accelerator="cpu")
    seen = []
    original = precomputed.PrecomputedRows.read
    monkeypatch.setattr(
        precomputed.PrecomputedRows,
        "read",
        lambda self, rows: seen.append(self.vectors.path) or original(self, rows),
    )
    stages.records(spec)
    assert set(seen) == {old, new}
    for model, vectors in ((spec.old, old_vectors), (spec.new, new_vectors)):
        weights = load_file(stages.model(model) / "weights.safetensors")
        assert {name for name in weights if name.startswith("embedder.")} == {
            "embedder.project.weight"
        }
        rows = np.stack([vectors[name] for name in data.gallery.ids]).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        projected = rows @ weights["embedder.project.weight"].numpy().T.astype(np.float64)
        projected /= np.linalg.norm(projected, axis=1, keepdims=True)
        np.testing.assert_allclose(stages.load(model, "gallery"), projected, atol=1e-5)


def test_a_method_compares_with_the_stored_old_embedding(folder, data, tmp_path, monkeypatch):
    """Old pixels are never shown where the new side has vectors: what is stored is compared."""
    path = save(tmp_path / "vectors.npz", vectors_of(data))
    (spec,) = plan(folder, f"embeddings={path}")
    stages = Stages(Store(tmp_path / "results"), accelerator="cpu")
    stored = stages.load(spec.old, "train")[stages.subset(spec.new).rows]
    compared = []
    method = type(stages.prepared(spec.new, stages.context(spec.new)))
    original = method.loss

    def loss(self, step):
        compared.append((step.rows.numpy(), step.old.numpy()))
        assert step.images.shape == (len(step.rows), WIDTH)
        return original(self, step)

    monkeypatch.setattr(method, "loss", loss)
    stages.model(spec.new)
    assert compared
    for rows, old in compared:
        np.testing.assert_array_equal(old, stored[rows])


def test_a_suite_runs_on_vectors_of_images_that_are_never_decoded(
    folder, data, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path, results = save(tmp_path / "vectors.npz", vectors_of(data)), tmp_path / "results"
    arguments = [
        *("--suite", "smoke", "--dataset", f"folder:{folder}", "--methods", "bct"),
        *("--set", "width=8", "--set", "batch_size=4", "--jobs", "1", "--results", str(results)),
    ]
    ran = CliRunner().invoke(app, ["all", *arguments, "--embeddings", str(path)])
    assert ran.exit_code == 0, ran.output
    (record,) = results.rglob("records/*/*/*/bct/seed-0.parquet")
    rows = pd.read_parquet(record)
    refreshed = rows[(rows["system"] == "refreshed") & (rows["share"] == 1)]
    assert refreshed["AP"].mean() > 0.8  # the vectors' classes lie far apart
    planned = CliRunner().invoke(app, ["plan", *arguments, "--embeddings", str(path)])
    assert "0 of 1, with 0 models" in planned.output
    without = CliRunner().invoke(app, ["all", *arguments])
    assert "cannot be decoded" in str(without.exception)


def test_a_plan_on_vectors_is_measured_on_vectors(folder, data, tmp_path):
    old = save(tmp_path / "old.npz", vectors_of(data))
    new = save(tmp_path / "new.npz", vectors_of(data, width=20))
    store = Store(tmp_path / "results")
    plans = plan(folder, f"old.embeddings={old}", f"new.embeddings={new}")
    cost = estimate(Survey(plans, counted(plans[0].new, store)), store, RunSettings())
    assert cost.seconds["training"] > 0
    # Old model and ract's: projections, and classifiers of one and of four classes.
    assert cost.disk["weights"] == 4 * (4 * (12 + 1) + 4 * (20 + 4))


def test_every_image_is_listed_as_a_file_of_vectors_has_to_name_it(tmp_path):
    """What is listed suffices to make the file: where an image lies, and what to cut out of it."""
    layouts.revisited(tmp_path / "data", "roxford5k")
    layouts.folder(tmp_path / "training")
    options = {"root": str(tmp_path / "data"), "train": f"folder:{tmp_path / 'training'}"}
    data = make_dataset("roxford5k", options).load(8, tmp_path / "cache")
    write_listing(data, tmp_path / "ids.csv")
    table = pd.read_csv(tmp_path / "ids.csv").set_index("id")
    assert table["split"].value_counts().to_dict() == {"train": 12, "query": 3, "gallery": 12}
    assert table.loc["query_000001", "path"] == "jpg/query_000001.jpg"
    box = table.loc["query_000001", ["left", "top", "right", "bottom"]]
    assert box.tolist() == [3.4, 2.6, 30.5, 20.2]
    vectors = dict(zip(table.index, np.random.default_rng(0).normal(size=(27, 4)), strict=True))
    with_precomputed(data, save(tmp_path / "vectors.npz", vectors))
