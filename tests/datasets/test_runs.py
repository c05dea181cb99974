"""A whole run on each dataset in miniature: train, embed, walk the backfill, keep records."""

import pandas as pd
import pytest

from bench.evaluation.records import read
from bench.pipeline.plan import make_plan
from bench.suites.loading import compose, load_suite
from tests.command import here
from tests.datasets import layouts

REAL = ("gldv2", "revisited", "cub", "sop", "market1501")
QUICK = [
    *("--scenarios", "extended-data", "--methods", "independent,l2", "--seeds", "0"),
    *("--set", "epochs=1", "--set", "image_size=16", "--set", "width=16", "--set", "batch_size=4"),
    *("--set", "backbone=test_resnet", "--set", "pretrained=false", "--jobs", "1"),
]


def run(results, suite, *arguments):
    here("all", "--suite", suite, *QUICK, *arguments, "--results", results)
    return {
        path.parent.name: pd.read_parquet(path)
        for path in (results / "records").rglob("seed-0.parquet")
    }


def assert_whole(records, queries):
    """Only queries with a right answer are recorded, each with its precision."""
    assert sorted(records) == ["independent", "l2"]
    for rows in records.values():
        assert rows["query"].nunique() == queries
        assert rows["share"].nunique() == 11
        assert rows["AP"].between(0, 1, inclusive="right").all()  # the whole gallery is ranked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "queries"), [("gldv2", 2), ("cub", 9), ("sop", 9), ("market1501", 2)]
)
def test_a_suite_runs_on_the_layout_of_its_dataset(tmp_path, suite, queries):
    getattr(layouts, suite)(tmp_path / "data")
    records = run(tmp_path / "results", suite, "--set", f"{suite}.root={tmp_path / 'data'}")
    assert_whole(records, queries)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_revisited_suite_runs(tmp_path, name):
    layouts.revisited(tmp_path / "data", name)
    layouts.folder(tmp_path / "training")
    options = [f"{name}.root={tmp_path / 'data'}", f"{name}.train=folder:{tmp_path / 'training'}"]
    chosen = [part for option in options for part in ("--set", option)]
    assert_whole(run(tmp_path / "results", "revisited", "--dataset", name, *chosen), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("inshop", 2),
        ("folder:{root}", 4),
        ("folder_classes:{root}", 4),
        ("csv:{root}/table.csv", 4),
    ],
)
def test_other_datasets_run(tmp_path, name, queries):
    kind = name.partition(":")[0]
    getattr(layouts, kind)(tmp_path / "data")
    place = ["--set", f"inshop.root={tmp_path / 'data'}"] if kind == "inshop" else []
    chosen = name.format(root=tmp_path / "data")
    assert_whole(run(tmp_path / "results", "sop", "--dataset", chosen, *place), queries)


@pytest.mark.slow
def test_a_second_run_from_another_place_trains_nothing(tmp_path):
    for place in ("here", "there"):
        layouts.sop(tmp_path / place)
    results = tmp_path / "results"
    run(results, "sop", "--set", f"sop.root={tmp_path / 'here'}")
    before = set((results / "cache" / "models").iterdir())
    run(results, "sop", "--set", f"sop.root={tmp_path / 'there'}", "--set", "sop.packed=true")
    assert set((results / "cache" / "models").iterdir()) == before


@pytest.mark.parametrize("name", REAL)
def test_the_real_suites_can_be_planned(tmp_path, monkeypatch, name):
    for dataset in ("gldv2", "cub", "sop", "market1501"):
        getattr(layouts, dataset)(tmp_path / dataset)
    layouts.revisited(tmp_path / "roxford5k", "roxford5k")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    plan = make_plan(compose(load_suite(name)))
    assert len(plan) == 3 * 5 * 3
    # Of a seed: two old ResNets-50 of less data, two independent models, one of which is the old
    # one of larger-resnet, and four methods' models in each of three scenarios.
    models = {model for spec in plan for model in (*spec.shared_models(), spec.new)}
    assert len(models) == 3 * (2 + 2 + 4 * 3)
    backbones = {spec.old.recipe.backbone for spec in plan}
    assert backbones == {"resnet50.tv_in1k"}
    assert {spec.new.recipe.backbone for spec in plan} == {*backbones, "resnet101.tv_in1k"}


def test_corrupt_images_are_left_out_counted_and_said(tmp_path):
    layouts.folder(tmp_path / "data", classes=8, each=4)
    broken = [tmp_path / "data" / f"class {kind}" / "image-1.png" for kind in range(8)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-100])
    arguments = [
        *("all", "--suite", "smoke", "--dataset", f"folder:{tmp_path / 'data'}"),
        *("--methods", "independent", "--set", "image_size=16", "--set", "width=8"),
        *("--set", "batch_size=4", "--jobs", "1", "--results", tmp_path / "results"),
    ]
    refused = here(*arguments, check=False)
    assert refused.returncode == 1
    assert "image-1.png cannot be decoded" in refused.stderr
    assert "--skip-corrupt leaves such files out" in refused.stderr
    done = here(*arguments, "--skip-corrupt", "--retry-failed")
    assert "left out 8 corrupt images" in done.stdout
    (record,) = (tmp_path / "results" / "records").rglob("seed-0.parquet")
    rows, note = read(record)
    assert note.dataset_counts["corrupt_skipped"] == 8
    assert rows["query"].nunique() == 3
    assert not rows["query"].str.contains("image-1.png").any()
