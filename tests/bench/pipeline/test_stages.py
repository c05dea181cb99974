"""A cell from end to end in this process, on the synthetic dataset."""

import numpy as np
import pandas as pd
import pytest
import torch

from bench.evaluation import cell, records
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import EmbeddingsSpec
from bench.plugins.registry import make_dataset, make_method
from bench.relevance import Relevance
from bench.storage.store import Store
from bench.suites.loading import compose, load_scenarios
from tests.bench.stages import Stages

CONTENT = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": ["extended-class"],
    "methods": ["independent", "l2", "ract"],
    "seeds": [0],
    "shares": 3,
    "recipe": {"epochs": 1, "image_size": 16, "width": 16, "batch_size": 16},
    "options": {"synthetic": {"images_per_class": 4}},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    store.open()
    return Stages(store, accelerator="cpu")


def plan(*assignments, **chosen):
    return make_plan(compose(CONTENT, assignments, **chosen))


def test_every_method_of_a_cell_meets_the_same_backfill_order(stages, monkeypatch):
    seen = {}
    original = cell.rows

    def spy(method, old, deployed, data, walked, shares):
        seen[len(seen)] = stages.finished.embedded(spec.old, spec.new), walked
        return original(method, old, deployed, data, walked, shares)

    monkeypatch.setattr(cell, "rows", spy)
    for spec in plan(orders=("random", "margin-prototypes")):
        stages.records(spec)
    (first, one), *others = seen.values()
    assert len(others) == 2
    for embedded, orders in others:
        assert np.array_equal(embedded.gallery_old, first.gallery_old)
        assert np.array_equal(embedded.query_old, first.query_old)
        assert not np.array_equal(embedded.gallery_new, first.gallery_new)
        assert all(np.array_equal(orders[name], one[name]) for name in one)


@pytest.mark.parametrize(("queries", "counted"), [("gallery", True), (0.5, False)])
def test_records_count_the_queries_that_are_gallery_items(stages, queries, counted):
    (spec,) = plan(f"synthetic.queries={queries}", methods=("independent",))
    rows, note = records.read(stages.records(spec))
    assert note.queries_in_gallery == (rows["query"].nunique() if counted else 0)


def quick(scenarios):
    """A real backbone is for the slow tests; `enhanced-backbone` changes it to a toy."""
    for scenario in scenarios:
        slow = [pytest.mark.slow] if scenario == "larger-resnet" else []
        yield pytest.param(scenario, marks=slow)


@pytest.mark.parametrize("scenario", quick(load_scenarios()))
def test_every_scenario_runs(stages, scenario):
    spec = next(spec for spec in plan(scenarios=(scenario,)) if spec.cell.method == "ract")
    rows, note = records.read(stages.records(spec))
    assert note.scenario == scenario
    assert sorted(rows["share"].dropna().unique()) == [0, 0.5, 1]
    by_share = rows[rows["system"] == "refreshed"].groupby("share")["AP"].mean()
    found = stages.finished.embedded(spec.old, spec.new)
    # Calibrated scores of unequal widths keep the order but for their last digits.
    calibrated = found.gallery_old.shape[1] != found.gallery_new.shape[1]
    assert by_share[0] == pytest.approx(
        stages.naive_map(spec, "old"), abs=0.001 if calibrated else 1e-6
    )
    assert by_share[1] == pytest.approx(stages.naive_map(spec, "new"))
    old = stages.data(spec.old)
    subset_old, subset_new = stages.subset(spec.old), stages.subset(spec.new)
    if scenario == "open-class":
        assert not set(subset_old.classes) & set(subset_new.classes)
    elif scenario == "extended-class":
        assert len(subset_old.classes) == round(0.3 * len(set(old.train.labels)))
    assert set(subset_new.rows) <= set(range(len(old.train)))


def test_the_context_tells_the_truth_about_the_old_system(stages):
    spec = plan(methods=("ract",))[0]
    context, data = stages.context(spec.new), stages.data(spec.new)
    old, new = stages.subset(spec.old), stages.subset(spec.new)
    for position, label in enumerate(new.classes):
        row = int(context.old_row[position])
        assert row == (list(old.classes).index(label) if label in old.classes else -1)
    with torch.inference_mode():
        images = data.train.images.read(new.rows).float() / 255
        expected = stages.frozen(spec.old)(images)
    torch.testing.assert_close(context.old_embeddings, expected, atol=1e-5, rtol=0)
    label = 3
    centre = expected[context.labels == label].mean(0)
    torch.testing.assert_close(context.old_centres[label], centre, atol=1e-5, rtol=0)


def naive_average_precision(scores, relevant, ignored):
    ranked = [row for row in np.argsort(-scores, kind="stable") if row not in ignored]
    hits = [rank for rank, row in enumerate(ranked, 1) if row in relevant]
    return np.mean([found / rank for found, rank in enumerate(hits, 1)])


def test_rows_equal_a_naive_search_of_the_mixed_gallery_with_unequal_widths():
    generator = np.random.default_rng(0)

    def unit(*shape):
        rows = generator.normal(size=shape).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    labels = np.repeat(np.arange(5), 4)
    embedded = cell.Embedded(unit(20, 6), unit(20, 6), unit(20, 9), unit(20, 9))
    method = make_method("l2")
    method.to_old = torch.nn.Linear(9, 6, bias=False)
    order = generator.permutation(20)

    class Data:
        relevance, metric, groups = Relevance.among_themselves(labels), "AP", None

        class query:  # noqa: N801
            ids = tuple(f"q{row:02d}" for row in range(20))

    shares = np.array([0.0, 0.33, 1.0])
    deployed = cell.deploy(method, embedded)
    before = cell.search_old(embedded, Data)
    rows = cell.rows(method, before, deployed, Data, {"random": order}, shares)
    projected = embedded.query_new @ method.to_old.weight.detach().numpy().T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    before = projected @ embedded.gallery_old.T
    after = embedded.query_new @ embedded.gallery_new.T
    for share, count in zip(shares, (0, 7, 20), strict=True):
        scores = before.copy()
        scores[:, order[:count]] = after[:, order[:count]]
        found = rows[(rows["system"] == "refreshed") & (rows["share"] == share)]["AP"]
        expected = [
            naive_average_precision(scores[q], set(Data.relevance.relevant[q]), {q})
            for q in range(20)
        ]
        assert found.to_numpy() == pytest.approx(expected)
    old = rows[rows["system"] == "old"]["AP"]
    scores = embedded.query_old @ embedded.gallery_old.T
    expected = [
        naive_average_precision(scores[q], set(Data.relevance.relevant[q]), {q}) for q in range(20)
    ]
    assert old.to_numpy() == pytest.approx(expected)


def test_stages_are_reproducible_to_the_last_bit(stages, tmp_path):
    spec = plan(methods=("ract",))[0]
    again = Store(tmp_path)
    again.open()
    first, second = (
        records.read(maker.records(spec))[0] for maker in (stages, Stages(again, accelerator="cpu"))
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_training_crops_from_images_of_the_size_that_the_recipe_names(stages, monkeypatch):
    spec = plan("crop_from=40", methods=("independent",))[0].old
    sizes = []
    adapter = type(make_dataset("synthetic", {}))
    load = adapter.load

    def spy(self, image_size, cache):
        sizes.append(image_size)
        return load(self, image_size, cache)

    monkeypatch.setattr(adapter, "load", spy)
    stages.embeddings(spec, "gallery")
    assert sizes == [40]
    assert stages.data(spec, 40).train.images.read([0]).shape == (1, 3, 40, 40)
    assert stages.data(spec).gallery.images.read([0]).shape == (1, 3, 16, 16)


def test_records_tell_what_serving_costs(stages):
    specs = {each.cell.method: each for each in plan(methods=("procrustes", "rank_merge", "ract"))}
    found = {name: records.read(stages.records(spec))[1].costs for name, spec in specs.items()}
    rotated = found["procrustes"]
    assert rotated.shares == [0, 0.5, 1]
    assert rotated.fit_pairs == len(stages.subset(specs["procrustes"].new))
    assert rotated.fit_seconds > 0
    assert (found["ract"].fit_seconds, found["ract"].fit_pairs) == (0, 0)
    merged = found["rank_merge"]
    assert merged.searches == [1, 2, 1]
    assert merged.searched == ["all items", "old items, new items", "all items"]
    rates = {
        age: stages.finished.embeddings_metadata(EmbeddingsSpec(model.deployed, "gallery")).rates
        for age, model in (("old", specs["rank_merge"].old), ("new", specs["rank_merge"].new))
    }
    once = {age: 1e3 / rate["embed"] for age, rate in rates.items()}
    both = [once["old"], once["old"] + once["new"], once["new"]]
    assert merged.encoder_ms == pytest.approx(once)
    assert merged.milliseconds() == pytest.approx(np.add(both, merged.search_ms).tolist())
    assert found["ract"].bytes_per_item == 4 * specs["ract"].new.recipe.width
