"""Items without images: their vectors stand for them, projected or compared as they are."""

import numpy as np
import pytest

from bench.authoring import data_check
from bench.errors import BenchError
from bench.evaluation import records
from bench.pipeline.make import Maker
from bench.pipeline.plan import make_plan
from bench.plugins.registry import make_dataset
from bench.storage.store import Store
from bench.suites.loading import compose, load_suite

from . import layouts

CLASSES, EACH = 8, 6


@pytest.fixture
def corpus(tmp_path):
    """A table of texts and their vectors in two files of different widths."""
    rows = [(f"text {c}-{n}", f"kind {c}") for c in range(CLASSES) for n in range(EACH)]
    table = layouts.items(tmp_path, rows=rows)
    generator = np.random.default_rng(0)
    for age, width, noise in (("old", 4, 2.0), ("new", 6, 0.4)):
        centres = np.repeat(generator.normal(size=(CLASSES, width)), EACH, axis=0)
        vectors = centres + noise * generator.normal(size=centres.shape)
        ids = np.array([name for name, _ in rows])
        np.savez(tmp_path / f"{age}.npz", ids=ids, embeddings=vectors.astype(np.float32))
    return table


def plan(corpus, *methods, **settings):
    """The plan of a small suite on the corpus, with a file of vectors on each side."""
    vectors = [f"{age}.embeddings={corpus.parent / age}.npz" for age in ("old", "new")]
    chosen = [f"{key}={value}" for key, value in settings.items()]
    suite = compose(
        load_suite("smoke"),
        dataset=f"items:{corpus}",
        methods=methods,
        assignments=["epochs=1", *vectors, *chosen],
    )
    return make_plan(suite)


def test_vectors_are_compared_as_they_are(corpus, tmp_path):
    (spec,) = plan(corpus, "independent", project="false")
    assert (spec.old.recipe.width, spec.new.recipe.width) == (4, 6)
    maker = Maker(Store(tmp_path / "results" / "cache"))
    rows, _ = records.read(maker.records(spec))
    rows = rows[rows["system"] == "refreshed"]
    data = make_dataset(f"items:{corpus}").load(8, tmp_path / "cache")
    with np.load(corpus.parent / "new.npz") as file:
        found = dict(zip(file["ids"].tolist(), file["embeddings"], strict=True))
    unit = {name: vector / np.linalg.norm(vector) for name, vector in found.items()}
    scores = np.array([[unit[q] @ unit[g] for g in data.gallery.ids] for q in data.query.ids])
    for number, query in enumerate(data.query.ids):
        right = np.isin(np.arange(len(data.gallery)), data.relevance.relevant[number])
        ranked = right[np.argsort(-scores[number])]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        own = rows[
            (rows["query"] == query) & (rows["system"] == "refreshed") & (rows["share"] == 1)
        ]
        assert own["AP"].iloc[0] == pytest.approx(precision[ranked].mean(), abs=1e-5)


def test_a_projection_has_the_width_of_the_recipe(corpus):
    (spec,) = plan(corpus, "independent", width=6)
    assert (spec.old.recipe.width, spec.new.recipe.width) == (6, 6)
    (as_it_is,) = plan(corpus, "independent", width=6, project="false")
    assert spec.new.recipe.width == as_it_is.new.recipe.width
    assert spec.new.key != as_it_is.new.key


def test_training_what_stays_as_it_is_is_refused_before_anything_runs(corpus):
    plan(corpus, "independent", "procrustes", project="false")
    with pytest.raises(BenchError, match="method 'bct' trains an embedding, yet project=false"):
        plan(corpus, "independent", "bct", project="false")


def test_items_without_vectors_are_refused_before_anything_runs(corpus):
    with pytest.raises(BenchError, match="have no images; give their vectors with --embeddings"):
        make_plan(compose(load_suite("smoke"), dataset=f"items:{corpus}"))


def test_pixels_cannot_be_compared_as_they_are():
    suite = compose(load_suite("smoke"), assignments=["project=false"])
    with pytest.raises(BenchError, match="project=false compares fixed vectors as they are, yet"):
        make_plan(suite)


def test_the_check_counts_items_and_draws_nothing(corpus, tmp_path):
    name, sheet = f"items:{corpus}", tmp_path / "sheet.png"
    report = data_check.check(make_dataset(name), name, tmp_path / "cache", sheet)
    assert report.passed
    assert not sheet.exists()
    assert (report.counts["train_classes"], report.counts["queries"]) == (4, 4 * 2)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("text 1-1", "text 1-0", "line 9 repeats the id text 1-0"),
        ("id,label", "path,label", "has the columns path, label; expected id, label"),
    ],
)
def test_the_table_says_what_is_wrong(corpus, tmp_path, old, new, sentence):
    corpus.write_text(corpus.read_text().replace(old, new, 1))
    with pytest.raises(BenchError, match=sentence):
        make_dataset(f"items:{corpus}").load(8, tmp_path / "cache")


def test_another_seed_trains_on_other_classes(corpus, tmp_path):
    def trained(seed):
        options = {"split_seed": seed}
        data = make_dataset(f"items:{corpus}", options).load(8, tmp_path / "cache")
        return {name.rpartition("-")[0] for name in data.train.ids}

    found = [trained(seed) for seed in (0, 1, 2, 0)]
    assert all(len(classes) == CLASSES // 2 for classes in found)
    assert found[0] == found[3]
    assert len(set(map(frozenset, found))) > 1
