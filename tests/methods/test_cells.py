"""Every method goes through the harness: planned, trained, saved, loaded, searched, recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import BenchError
from bench.pipeline.plan import make_plan
from bench.plugins import registry
from bench.storage.store import Store
from bench.suites.loading import compose
from methods._simplex import simplex
from tests.bench.stages import Stages

CONTENT = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": ["extended-class"],
    "methods": ["independent"],
    "seeds": [0],
    "shares": 3,
    "recipe": {"epochs": 1, "image_size": 16, "width": 16, "batch_size": 16},
}
METHODS = list(registry.discover("methods"))
QUICK = {name: dict(registry.method_class(name).quick) for name in METHODS}
CONTENT["options"] = {"synthetic": {"images_per_class": 4}, **QUICK}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    store.open()
    return Stages(store, accelerator="cpu")


def cell(method, *assignments, **chosen):
    (spec,) = make_plan(compose(CONTENT, assignments, methods=(method,), **chosen))
    return spec


@pytest.mark.parametrize("name", METHODS)
def test_method_runs_from_plan_to_records(name, stages):
    spec = cell(name)
    rows = pd.read_parquet(stages.records(spec))
    curve = rows[rows.system == "refreshed"].groupby("share").AP.mean()
    assert list(curve.index) == [0, 0.5, 1]
    assert curve[1] == pytest.approx(stages.naive_map(spec, "new"))
    if not registry.make_method(name).purchases:  # what is bought is new at 0 % already
        assert curve[0] == pytest.approx(stages.naive_map(spec, "old"))


def test_methods_without_training_deploy_the_independent_model(stages):
    untrained = [name for name in METHODS if not registry.method_class(name).trains]
    assert len(untrained) >= 7
    independent = cell("independent").new
    for name in untrained:
        assert cell(name).new.deployed.key == independent.key


def test_a_method_that_trains_the_old_model_has_an_old_system_of_its_own(stages):
    shared = cell("ract").old.key
    own = {name for name in METHODS if cell(name).old.key != shared}
    assert own == {"cores", "d_simplex_hoc"}


def test_both_versions_of_a_fixed_classifier_agree_about_their_classes(stages):
    spec = cell("cores")
    old, new = (stages.weights(model)["head"] for model in (spec.old, spec.new))
    context = stages.context(spec.new)
    assert len(old) < len(new) == context.dataset_classes
    assert torch.equal(new, simplex(16)[:12])
    known = context.old_row >= 0
    assert torch.equal(old[context.old_row[known]], new[known])


def test_extra_dimensions_come_on_top_of_the_recipe(stages):
    spec = cell("bt2")
    assert spec.new.recipe.width == 16 + 32
    context = stages.context(spec.new)
    assert context.new_width == 48
    assert context.old_width == context.independent_embeddings.shape[1] == 16
    assert np.load(stages.embeddings(spec.new, "gallery") / "embeddings.npy").shape[1] == 48


def test_fastfill_backfills_in_its_own_order(stages):
    rows = pd.read_parquet(stages.records(cell("fastfill", orders=("random", "method"))))
    halfway = rows[(rows.system == "refreshed") & (rows.share == 0.5)]
    random, own = (
        halfway[halfway.order == name].AP.reset_index(drop=True) for name in ("random", "method")
    )
    assert len(random) == len(own) > 0
    assert not random.equals(own)


def test_what_a_method_buys_is_counted_in_its_records(stages):
    rows = pd.read_parquet(stages.records(cell("cascade", "cascade.candidates=3")))
    paid = rows[rows.system == "refreshed"].groupby("share").purchases
    assert paid.min().tolist() == paid.max().tolist() == [3, 3, 0]
    assert set(rows[rows.system == "old"].purchases) == {0}
    assert set(pd.read_parquet(stages.records(cell("rank_merge"))).purchases) == {0}


def test_scores_are_calibrated_in_the_records_of_unequal_widths(stages):
    wider = {"scenarios": ("wider-embedding",)}
    curves = []
    for chosen in ("true", "false"):
        spec = cell("l2", f"l2.calibrated={chosen}", "old.width=8", **wider)
        assert spec.new.fits == (chosen == "true")
        rows = pd.read_parquet(stages.records(spec))
        curves.append(rows[rows.system == "refreshed"].groupby("share").AP.mean().tolist())
    assert curves[0][0] == pytest.approx(curves[1][0])  # one scale alone orders the same
    assert curves[0][1] != curves[1][1]
    assert not cell("l2").new.fits


def test_a_scenario_that_a_method_refuses_fails_before_training(stages):
    with pytest.raises(BenchError, match="method 'mixbct' needs old and new embeddings of one"):
        stages.records(cell("mixbct", scenarios=("wider-embedding",)))
    with pytest.raises(BenchError, match=r"needs a vertex for each of the 12 classes .* width=11"):
        stages.records(cell("cores", "recipe.width=8"))
