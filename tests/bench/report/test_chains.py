"""Chains of upgrades: from a plan to a table, against searches written out."""

import numpy as np
import pytest

from bench.analysis import cells, suite_records
from bench.evaluation import backfill, records
from bench.evaluation.embedded import transformed
from bench.evaluation.metrics import chain_scalars
from bench.evaluation.records import REFERENCE_METHOD
from bench.pipeline.plan import make_plan
from bench.report.cached import scenario_tables
from bench.report.chains import PAIRS, chain_tables
from bench.storage.store import Store
from bench.suites.loading import compose
from bench.tracking.runs import Experiment
from tests.bench.pipeline.test_stages import CONTENT
from tests.bench.stages import Stages

METHODS = ("independent", "ract", "procrustes", "fct", "rank_merge")
CHAIN = {**CONTENT, "scenarios": ["three-generations", "extended-class"], "methods": METHODS}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    store.open()
    stages = Stages(store, accelerator="cpu")
    plan = make_plan(compose(CHAIN, ["fct.epochs=1"]))
    for spec in plan:
        stages.records(spec)
    return stages, {(spec.cell.scenario, spec.cell.method): spec for spec in plan}


def rows_of(stages, spec):
    return records.read(spec.cell.record_path(stages.store.results))[0]


def test_every_method_upgrades_the_same_first_model_and_then_its_own(ran):
    chain = [spec for (scenario, _), spec in ran[1].items() if scenario == "three-generations"]
    assert len({spec.first.key for spec in chain}) == 1
    assert len({spec.old.key for spec in chain}) == len(chain)
    for spec in chain:
        assert spec.new.method == spec.old.method == spec.cell.method
        assert spec.first.method == REFERENCE_METHOD
        assert (spec.first.side.classes, spec.old.side.classes) == (0.3, 0.6)
        if spec.cell.method != REFERENCE_METHOD:
            assert spec.old.old == spec.first
            assert spec.new.old == spec.old
        assert spec.first in spec.shared_models()
        assert all(not model.needs() for model in spec.shared_models())


def mean_ap(query, gallery, data):
    return float(np.nanmean(backfill.search(query, gallery, data.relevance, data.metric).ap))


def test_the_matrix_of_a_trained_method_is_that_of_its_embeddings(ran):
    stages, specs = ran
    spec = specs["three-generations", "ract"]
    data = stages.data(spec.new)
    versions = [
        (stages.load(model, "query"), stages.load(model, "gallery"))
        for model in (spec.first, spec.old, spec.new)
    ]
    matrix = cells.chain_matrix(rows_of(stages, spec))
    for i, j in PAIRS:
        assert matrix[i, j] == pytest.approx(
            mean_ap(versions[i][0], versions[j][1], data), abs=1e-6
        )


def test_a_transformed_gallery_is_transformed_once_for_each_upgrade(ran):
    stages, specs = ran
    spec = specs["three-generations", "procrustes"]
    before, method = stages.method(spec.old), stages.method(spec.new)
    first = stages.load(spec.first, "gallery")
    mapped = first
    for step in (before, method):
        mapped = transformed(step, lambda view, step=step: step.gallery(view, "old"), old=mapped)
    assert not np.allclose(mapped, first, atol=1e-3)
    matrix = cells.chain_matrix(rows_of(stages, spec))
    query, data = stages.load(spec.new, "query"), stages.data(spec.new)
    assert matrix[2, 0] == pytest.approx(mean_ap(query, mapped, data), abs=1e-6)


def test_chains_have_a_table_and_other_scenarios_do_not(ran):
    stages, specs = ran
    (table,) = chain_tables(stages.store.results, "toy")
    assert table.title == "Three generations in three-generations on synthetic"
    frame = table.frame().set_index("method")
    assert set(frame.index) == set(METHODS)
    for method in METHODS:
        matrix = cells.chain_matrix(rows_of(stages, specs["three-generations", method]))
        lower = matrix[np.tril_indices(3)]
        assert frame.loc[method, "AM"] == pytest.approx(lower.mean())
        assert frame.loc[method, "M(3,1)"] == pytest.approx(matrix[2, 0])
        gained = [matrix[i, j] > matrix[j, j] for i, j in PAIRS if i > j]
        assert frame.loc[method, "AC"] == pytest.approx(np.mean(gained))
    tables = scenario_tables(stages.store.results, "toy")
    assert [each.title for each in tables].count(table.title) == 1
    (chain,) = [each for each in tables if each.title == "three-generations on synthetic"]
    assert any("an old model of its own" in note for note in chain.notes)
    plain = rows_of(stages, specs["extended-class", "ract"])
    assert set(plain["system"]) == {"old", "refreshed"}


def test_a_cell_with_several_orders_is_in_mlflow_in_its_first_and_with_its_chain(tmp_path):
    results = tmp_path / "results"
    store = Store(results)
    store.open()
    suite = compose(CHAIN, methods=("ract",), scenarios=("three-generations",))
    (spec,) = make_plan(suite.model_copy(update={"orders": ("random", "by-answered-queries")}))
    path = Stages(store, accelerator="cpu").records(spec)
    rows, note = records.read(path)
    assert set(rows["order"]) == {"", "random", "by-answered-queries"}
    experiment = Experiment(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "a", "toy", "synthetic")
    experiment.log_cell(note, path)
    (run,) = [run for run in experiment.runs.values() if run.data.tags["kind"] == "cell"]
    first = cells.scalars(cells.arrays(suite_records.in_order(rows, note)))
    other = cells.scalars(cells.arrays(suite_records.in_order(rows, note, "by-answered-queries")))
    assert run.data.metrics["AUC_mAP"] == pytest.approx(first["AUC_mAP"])
    assert first["AUC_mAP"] != other["AUC_mAP"]
    chain = chain_scalars(cells.chain_matrix(suite_records.in_order(rows, note)))
    assert {name: run.data.metrics[name] for name in chain} == pytest.approx(chain)
