"""From records to MLflow: each run's numbers, worked out from its rows, under its own name."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from bench.analysis.rankings import rankings
from bench.evaluation import records
from bench.report.verdict import suite_verdict
from bench.storage.metadata import RunMetadata
from bench.tracking.descriptions import LONGEST_NOTE, comparison_note
from bench.tracking.runs import Experiment
from tests.bench.conftest import PLACE, make_cell


@pytest.fixture(scope="module")
def logged(tmp_path_factory, empty_database):
    """Two methods of two seeds in two scenarios, and what the database says of them afterwards."""
    folder = tmp_path_factory.mktemp("mlflow")
    place = empty_database(folder), folder / "artifacts", "made-up", "icons"
    cells = {}
    for scenario in ("extended-class", "extended-data"):
        for method in ("l2", "ract"):
            for seed in (0, 1):
                rows, note = make_cell(scenario, method, seed, queries=30)
                path = folder / f"{scenario}-{method}-{seed}.parquet"
                content = {"losses": [{"l2": 0.5 + seed}], "work": worked(len(scenario), seed)}
                note = RunMetadata.model_validate({**note, **content})
                records.write(path, rows.drop(columns=PLACE), note)
                Experiment(*place).log_cell(note, path)
                cells[scenario, method, seed] = rows, note
    runs = Experiment(*place).runs.values()
    return cells, [run for run in runs if run.data.tags["kind"] == "cell"]


def worked(hour, seed):
    """A training of 40 s, then a pause of 1,000 s and an evaluation of 3 s, by seed 1 s later."""
    start = 1_700_000_000 + 3600 * hour + seed
    return {
        "training": {"started": start, "ended": start + 40},
        "evaluation": {"started": start + 1040, "ended": start + 1043},
    }


def test_every_run_has_a_run_of_its_own(logged):
    cells, runs = logged
    names = {
        (r.data.tags["scenario"], r.data.tags["method"], int(r.data.tags["seed"])) for r in runs
    }
    assert names == set(cells)
    assert len(runs) == len(cells)


def test_the_numbers_of_a_run_are_those_of_its_rows(logged):
    cells, runs = logged
    seen = set()
    for run in runs:
        tags, metrics = run.data.tags, run.data.metrics
        rows, note = cells[tags["scenario"], tags["method"], int(tags["seed"])]
        ap = rows[rows["system"] == "refreshed"].groupby("share")["AP"].mean()
        assert metrics["M_new_old"] == pytest.approx(ap.iloc[0])
        assert metrics["M_new_new"] == pytest.approx(ap.iloc[-1])
        area = np.trapezoid(ap.to_numpy(), ap.index.to_numpy())
        assert metrics["AUC_mAP"] == pytest.approx(area)
        assert metrics["train_images_per_s"] == note.rates["train_images_per_s"]
        costs = note.costs
        encodings = 1 + costs.purchases[-1]
        assert metrics["query_ms"] == encodings * costs.encoder_ms["new"] + costs.search_ms[-1]
        assert metrics["query_search_ms"] == costs.search_ms[-1]
        assert (metrics["query_encodings"], metrics["query_searches"]) == (1, 1)
        assert metrics["query_purchases"] == costs.purchases[-1]
        assert metrics["bytes_per_item"] == 64
        assert metrics["fit_seconds"] == costs.fit_seconds
        assert metrics["fit_pairs"] == costs.fit_pairs
        assert metrics["loss_l2"] == note.losses[0]["l2"]
        assert tags["key"] == note.key
        seen.add(metrics["AUC_mAP"])
    assert len(seen) == len(runs)


def test_costs_of_a_query_are_logged_by_backfill_percent(tmp_path):
    rows, note = make_cell("extended-class", "ract", 1, queries=12)
    note = RunMetadata.model_validate(note)
    path = tmp_path / "ract.parquet"
    records.write(path, rows.drop(columns=PLACE), note)
    experiment = Experiment(
        f"sqlite:///{tmp_path}/m.db", tmp_path / "artifacts", "made-up", "icons"
    )
    experiment.log_cell(note, path)
    (run,) = (r for r in experiment.runs.values() if r.data.tags["kind"] == "cell")
    history = experiment.client.get_metric_history(run.info.run_id, "query_ms")
    found = {each.step: each.value for each in history}
    expected = dict(zip(range(0, 101, 10), note.costs.milliseconds(), strict=True))
    assert found == pytest.approx(expected)


def test_a_run_ends_with_its_work_and_took_as_long(logged):
    cells, runs = logged
    for run in runs:
        place = run.data.tags["scenario"], run.data.tags["method"], int(run.data.tags["seed"])
        ended = cells[place][1].work["evaluation"].ended
        assert run.info.end_time == 1000 * ended
        assert run.info.end_time - run.info.start_time == 43_000
    assert len({run.info.end_time for run in runs}) == 4


def test_where_a_run_was_made_is_one_artifact_and_no_heap_of_tags(logged):
    cells, runs = logged
    for run in runs:
        tags = run.data.tags
        own = {name for name in tags if not name.startswith("mlflow.")}
        assert own == {"suite", "dataset", "kind", "scenario", "method", "seed", "key"}
        place = tags["scenario"], tags["method"], int(tags["seed"])
        path = urlparse(run.info.artifact_uri).path
        found = json.loads((Path(path) / "environment.json").read_text())
        assert found["provenance"] == cells[place][1].content()["provenance"]
        assert found["work"]["training"]["ended"] == cells[place][1].work["training"].ended


@pytest.fixture(scope="module")
def compared(tmp_path_factory, empty_database, default_scenarios):
    """The comparison of a suite of three scenarios, one with a figure."""
    folder = tmp_path_factory.mktemp("compared")
    scenarios = default_scenarios
    (folder / "report" / "figures").mkdir(parents=True)
    for name in ("icons-extended-class-trade-off", "throughput"):
        Image.new("RGB", (8, 8)).save(folder / "report" / "figures" / f"{name}.png")
    experiment = Experiment(empty_database(folder), folder / "artifacts", "made-up", "icons")
    for scenario in scenarios:
        experiment.log_summaries(scenario)
    experiment.log_comparison(scenarios, folder / "report", "key")
    experiment.show([scenario.name for scenario in scenarios])
    return scenarios, experiment


def test_a_comparison_is_described_by_verdict_tables_and_figures(compared):
    scenarios, experiment = compared
    run = experiment.runs["comparison", "", "", ""]
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(" ".join(suite_verdict(scenarios, rankings(scenarios))))
    for scenario in scenarios:
        for position, method in enumerate(scenario.methods):
            worst = scenario.curves["NFR_at_1"].value[position].max()
            mean = scenario.value("AUC_NFR_at_1", method)
            row = next(
                line
                for line in note.partition(f"**{scenario.name} on")[2].splitlines()
                if line.startswith(f"| {method} ")
            )
            assert row.split("|")[2].strip().startswith(f"{mean:.3f} [")
            assert row.split("|")[3].strip() == f"{worst:.3f}"
    assert note.count("![") == 1
    assert "get-artifact?path=report%2Ffigures%2Ficons-extended-class-trade-off.png" in note
    assert f"run_uuid={run.info.run_id})" in note
    images = Path(urlparse(run.info.artifact_uri).path) / "images"
    shown = {path.name.partition("+step")[0] for path in images.iterdir()}
    assert shown == {"icons-extended-class-trade-off", "throughput"}
    about = experiment.own_tags["mlflow.note.content"]
    assert f"](#/experiments/{experiment.id}/runs/{run.info.run_id})" in about


def test_a_description_keeps_what_fits_and_says_where_the_rest_is(compared, tmp_path):
    (scenario, *_), _ = compared
    many = [replace(scenario, name=f"scenario-{number:02d}") for number in range(30)]
    note = comparison_note(many, tmp_path, "run")
    assert len(note) <= LONGEST_NOTE
    assert "**scenario-00 on" in note
    assert "**scenario-29 on" not in note
    assert note.endswith("under *Artifacts*.")


def test_the_means_of_a_method_are_its_own(compared):
    scenarios, experiment = compared
    seen = set()
    for scenario in scenarios:
        for method in scenario.methods:
            metrics = experiment.runs["summary", scenario.name, method, ""].data.metrics
            place = scenario.methods.index(method)
            for bound, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                for key in ("AUC_mAP", "AUC_NFR_at_1", "M_new_old"):
                    expected = getattr(scenario.estimates[key], bound)[place]
                    assert metrics[f"{key}{suffix}"] == pytest.approx(expected)
                for name in ("mAP", "NFR_at_1"):
                    expected = getattr(scenario.curves[name], bound)[place, -1]
                    assert metrics[f"{name}{suffix}"] == pytest.approx(expected)
            seen.add((metrics["AUC_mAP"], metrics["mAP"]))
    assert len(seen) == sum(len(scenario.methods) for scenario in scenarios)
