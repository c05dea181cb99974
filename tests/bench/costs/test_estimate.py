"""What a plan costs, against numbers worked by hand and what a run of it leaves behind."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.filesize import decimal

from bench.costs import searching
from bench.costs.decoding import decoding_seconds, pictures
from bench.costs.dry_run import DryRun
from bench.costs.estimate import COPIES, Extent, _Speed, counted, estimate, expected, survey
from bench.costs.searching import Searches, curve_seconds
from bench.errors import BenchError
from bench.pipeline.plan import make_plan
from bench.pipeline.runner import run
from bench.pipeline.tasks import RunSettings
from bench.plugins.registry import discover, make_dataset, make_method, method_class
from bench.storage.store import Store
from bench.suites.loading import compose
from bench.suites.schema import Recipe
from tests.bench.pipeline.test_runner import Silent
from tests.command import here
from tests.datasets import layouts

CONTENT = {
    "name": "tiny",
    "summary": "a tiny suite",
    "dataset": "synthetic",
    "scenarios": ["extended-class", "wider-embedding"],
    "methods": ["independent", "ract"],
    "seeds": [0],
    "recipe": {"epochs": 3, "image_size": 16, "width": 32, "batch_size": 16},
    "options": {"synthetic": {"classes": 20, "images_per_class": 6}},
}


def tiny(**changes):
    return compose({**CONTENT, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An estimate of a plan, and the folder in which the same plan was then run."""
    results = tmp_path_factory.mktemp("results")
    store = Store(results)
    store.open()
    found = survey(tiny(), store)
    cost = estimate(found, store, RunSettings())
    outcomes = run(found.plan, results, Silent())
    assert {outcome.status for outcome in outcomes} == {"done"}
    return found, cost, store


def test_images_are_counted_as_they_are_trained_on_and_embedded(finished):
    _, cost, _ = finished
    # Ten classes of six images train, ten are searched. Old models see 3 classes. Independent new
    # models are one in both scenarios; ract has one in each.
    old, new = 2 * 18, 3 * 60
    assert (cost.cells, cost.models) == (4, 5)
    assert cost.per_epoch == old + new
    assert cost.passes == 3 * (old + new)
    assert (cost.extent.queries, cost.extent.gallery, cost.extent.apart) == (20, 40, True)
    # Each model embeds the gallery; those that others are trained against, and the one
    # whose scores are calibrated since its old model has another width, the training images too.
    assert cost.embedded == 5 * 60 + 3 * 60


def test_disk_is_what_a_run_leaves(finished):
    _, cost, store = finished
    wide, half = 32 * 4, 64 * 4  # wider-embedding's old model has 64 dimensions
    assert cost.disk["embeddings"] == (4 * wide + half) * 60 + (2 * wide + half) * 60

    def bytes_of(stage, name):
        return sum(path.stat().st_size for path in (store.root / stage).rglob(name))

    assert bytes_of("embeddings", "*.npy") == cost.disk["embeddings"] + 13 * 128  # headers
    assert cost.disk["weights"] == pytest.approx(bytes_of("models", "*.safetensors"), rel=0.02)
    paths = list((store.root / "records").rglob("*.parquet"))
    notes = sum(len(pq.read_schema(path).metadata[b"bench"]) for path in paths)
    rows = COPIES * (bytes_of("records", "*.parquet") - 2 * notes)  # kept in two places of a file
    assert cost.disk["records"] == pytest.approx(rows, rel=0.5)
    assert cost.disk["packed images"] == 0


def test_what_is_there_costs_nothing(finished):
    found, _, store = finished
    cost = estimate(found, store, RunSettings())
    assert (cost.cells, cost.models, cost.per_epoch, cost.embedded) == (0, 0, 0, 0)
    assert sum(cost.seconds.values()) == sum(cost.disk.values()) == 0


def test_more_seeds_cost_what_models_trained_before_took(finished):
    _, _, store = finished
    more = survey(tiny(seeds=[0, 1], methods=["independent"], scenarios=["extended-class"]), store)
    cost = estimate(more, store, RunSettings(jobs=2))
    assert cost.models == 2
    assert "from models trained before" in cost.basis
    rates = {
        json.loads(path.read_text())["metadata"]["images"]: json.loads(path.read_text())["metadata"]
        for path in (store.root / "models").glob("*/manifest.json")
    }
    assert set(rates) == {18, 60}
    assert cost.hours == pytest.approx(sum(cost.seconds.values()) / 2 / 3600)


def test_measured_training_takes_about_as_long_as_training(finished):
    """Within a factor that a busy machine bears; a wrong unit or a forgotten epoch is far off."""
    _, cost, store = finished
    taken = 0.0
    for path in (store.root / "models").glob("*/manifest.json"):
        facts = json.loads(path.read_text())["metadata"]
        taken += 3 * (facts["images"] // 16 * 16) / facts["rates"]["train"]
    assert taken / 10 < cost.seconds["training"] < 10 * taken


@pytest.mark.parametrize("split", ["test", "validation"])
def test_published_counts_agree_with_a_dataset_of_that_size(tmp_path, split):
    """Where classes are equally large, counting and spreading are the same."""
    layouts.sop(tmp_path)
    options = {"sop": {"root": str(tmp_path)}}
    suite = tiny(dataset="sop", options=options, split=split)
    real = counted(make_plan(suite)[0].new, Store(tmp_path / "results"))
    counts = {"train_images": 12, "train_classes": 4, "queries": 9, "gallery": 9}
    spread = expected(counts, split)
    assert (spread.queries, spread.gallery, spread.apart) == (
        real.queries,
        real.gallery,
        real.apart,
    )
    assert np.bincount(spread.labels).tolist() == np.bincount(real.labels).tolist() or (
        split == "validation" and len(spread.labels) == len(real.labels)
    )
    for spec in make_plan(suite):
        assert len(spread.subset(spec.new)) == len(real.subset(spec.new))
        assert len(spread.subset(spec.old)) == len(real.subset(spec.old))


def test_packed_images_are_counted_once_for_each_size(tmp_path):
    layouts.sop(tmp_path / "data")
    options = {"sop": {"root": str(tmp_path / "data"), "packed": True}}
    found = survey(tiny(dataset="sop", options=options), Store(tmp_path / "results"))
    cost = estimate(found, Store(tmp_path / "results"), RunSettings())
    assert cost.disk["packed images"] == (12 + 9) * 3 * 16 * 16
    assert not list((tmp_path / "results").rglob("pixels.npy"))


def test_a_suite_can_be_planned_before_its_dataset_is_there(tmp_path):
    quick = ["--set", "backbone=test_resnet", "--set", "image_size=32", "--set", "pretrained=false"]
    done = here(
        *("plan", "--suite", "gldv2", "--scenarios", "extended-class", "--seeds", "0"),
        *("--methods", "independent", *quick, "--results", tmp_path),
        COLUMNS="300",
    )
    text = done.stdout
    assert "Dataset not found; using its published image counts" in text
    assert "dataset 'gldv2': no folder given" in text
    assert "1,580,470 of 81,313 classes to train on, 750 queries, 761,757 in the gallery" in text
    # Old and new model search; what others may be trained against is the old one alone.
    embedded = 1_580_470 + 2 * (750 + 761_757)
    assert f"{embedded:,} images" in text
    assert f"(embeddings {decimal(embedded * 512 * 4)}" in text


def test_what_has_no_published_counts_cannot_be_planned_without_data(tmp_path):
    with pytest.raises(BenchError, match="is not there; expected the folder"):
        survey(tiny(dataset=f"folder:{tmp_path / 'gone'}", options={}), Store(tmp_path))


@pytest.mark.parametrize("name", ["cub", "sop", "market1501", "inshop", "gldv2", "roxford5k"])
def test_every_published_dataset_can_be_planned(name):
    planned = make_dataset(name).planned()
    assert {"train_images", "train_classes", "queries", "gallery"} <= set(planned)


def test_small_batches_stand_for_a_large_one(monkeypatch):
    """A step of 3 s and 0.5 s per image is found from batches of a few images."""
    dry, tried = DryRun(4), []

    def seconds(size, steps):
        tried.append(size)
        return 3 + 0.5 * size

    assert dry._whole(seconds, 256) == pytest.approx(3 + 0.5 * 256)
    assert tried == [2, 4]
    assert list(dry.notes) == ["large batches are extrapolated from small ones"]


def test_a_batch_that_memory_does_not_hold_is_said():
    def seconds(size, steps):
        if size > 8:
            raise torch.OutOfMemoryError
        return 0.001 * size

    dry = DryRun(4)
    assert dry._whole(seconds, 64) == pytest.approx(0.064)
    assert "memory holds 8 of the 64 images of a batch" in dry.notes


@pytest.mark.parametrize(
    "name", [name for name in discover("methods") if method_class(name).trains]
)
def test_the_loss_of_every_method_can_be_measured_without_a_backbone(name):
    made = method_class(name)
    recipe = Recipe(width=16 + made.extra_width, batch_size=8, image_size=16)
    assert DryRun(classes=12).loss(make_method(name), recipe, old_width=16) > 0


def searched(**changes):
    return Searches(
        **{
            **{"queries": 24, "items": 3000, "answers": 4, "metric": "AP@10"},
            **{"width": 16, "shares": 5, **changes},
        }
    )


@pytest.mark.parametrize("of", [searched(), searched(metric="AP", width=8, answers=30)])
def test_what_is_searched_to_measure_is_what_will_be_searched(monkeypatch, of):
    """Queries, items, answers, metric and shares arrive at the real curve."""
    seen = []

    def hot_refresh(query, new, query_old, old, relevance, order, shares, metric):
        seen.append((len(query), len(new), relevance, metric, len(shares), query.shape[1]))

    monkeypatch.setattr(searching.backfill, "hot_refresh", hot_refresh)
    curve_seconds(of)
    queries, items, relevance, *rest = seen[-1]
    assert (queries, items, *rest) == (24, 3000, of.metric, 5, of.width)
    assert relevance.relevant.counts().mean() == pytest.approx(of.answers, rel=0.2)


def test_a_large_gallery_is_reckoned_from_its_last_half_and_queries_in_proportion(monkeypatch):
    """1 s, 2 ms for each of the first 1,024 items and 1 ms for each further one."""
    clock = [0.0]
    monkeypatch.setattr(searching.time, "perf_counter", lambda: clock[0])

    def hot_refresh(query, new, *others):
        clock[0] += 1 + 0.002 * min(1024, len(new)) + 0.001 * max(0, len(new) - 1024)

    monkeypatch.setattr(searching.backfill, "hot_refresh", hot_refresh)
    monkeypatch.setattr(searching, "QUERIES", 16)
    found = curve_seconds(searched(queries=32, items=100_000))
    assert found == pytest.approx(2 * (1 + 2.048 + 0.001 * (100_000 - 1024)))


@pytest.mark.parametrize(
    ("readers", "threads", "seconds"), [(0, 1, 3.0), (0, 4, 1.5), (1, 1, 2.0), (4, 1, 1.0)]
)
def test_readers_decode_beside_the_model_and_without_them_it_waits(readers, threads, seconds):
    """A step of 1 s whose images take one core 2 s to decode."""
    speed = _Speed(None, [], Extent(np.arange(2), 1, 1, True), threads, readers)
    assert speed._read(1.0, 2.0) == seconds


def test_decoding_is_measured_at_the_size_that_is_asked_for(tmp_path):
    made = pictures(tmp_path, 4, 320, 240, 32)
    small, large = (decoding_seconds(made, size) for size in (32, 512))
    assert 0 < small < large < 1
    assert 0 < decoding_seconds(None, 32, Recipe(crop_from="original", image_size=32)) < 1


def test_the_plan_of_a_dataset_of_files_says_how_many_cores_decode(tmp_path):
    layouts.sop(tmp_path / "data")
    options = {"sop": {"root": str(tmp_path / "data")}}
    store = Store(tmp_path / "results")
    found = survey(tiny(dataset="sop", options=options, methods=["independent"]), store)
    (note,) = estimate(found, store, RunSettings(readers=3)).notes
    assert "cores of readers keep it busy; there are 3." in note
    assert not estimate(survey(tiny(methods=["independent"]), store), store, RunSettings()).notes


@pytest.mark.parametrize(
    ("dataset", "metric"), [("gldv2", "AP@100"), ("roxford5k", "AP-trapezoidal"), ("sop", "AP")]
)
def test_a_plan_without_data_knows_by_what_rankings_are_judged(tmp_path, dataset, metric):
    assert survey(tiny(dataset=dataset, options={}), Store(tmp_path)).extent.metric == metric


def test_a_plan_is_measured_once_and_given_rates_are_taken(tmp_path, monkeypatch):
    """Three epochs of 18 and 60 images in batches of 16: 3 and 9 steps of 2 s, or 10 images/s."""
    for name, seconds in (("training_step", 2.0), ("embedding", 0.5)):
        monkeypatch.setattr(DryRun, name, lambda self, recipe, taken=seconds: taken)
    for name in ("search_seconds", "curve_seconds"):
        monkeypatch.setattr(f"bench.costs.estimate.{name}", lambda searches: 0.25)
    store = Store(tmp_path)
    found = survey(tiny(methods=["independent"], scenarios=["extended-class"]), store)
    first = estimate(found, store, RunSettings())
    assert first.seconds["training"] == pytest.approx((3 + 9) * 2)
    assert first.seconds["embedding"] == pytest.approx(first.embedded / 2)
    assert "measured now" in first.basis
    monkeypatch.setattr(DryRun, "training_step", None)  # which nobody may call again
    again = estimate(found, store, RunSettings())
    assert again.seconds == first.seconds
    assert "measured before" in again.basis
    assert "now" not in again.basis
    assert first.seconds["searching"] == pytest.approx(0.25 + 0.25)  # the old system, one order
    orders = ["random", "margin-prototypes", "oracle-mAP"]
    several = tiny(methods=["independent"], scenarios=["extended-class"], orders=orders)
    cost = estimate(survey(several, store), store, RunSettings())
    assert cost.seconds["searching"] == pytest.approx(0.25 + 3 * 0.25)
    given = estimate(found, store, RunSettings(), images_per_s=10)
    assert given.seconds["training"] == pytest.approx(3 * (16 + 48) / 10)
    assert given.seconds["embedding"] == pytest.approx(given.embedded / 30)
    assert "from 10 images/s of training, as given" in given.basis
