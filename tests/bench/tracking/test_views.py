"""Prepared views: what they hold, where they open, and what another MLflow gets."""

import base64
import io
import json
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import mlflow
import pytest

from bench.cli.console import Terminal
from bench.evaluation import records
from bench.storage.metadata import RunMetadata
from bench.tracking import ui
from bench.tracking.runs import Experiment
from bench.tracking.views import ROWS_OF_A_PAGE, STATE_TAG, VIEWS_TAG, views
from tests.bench.conftest import PLACE, make_cell

ADDRESS = "http://127.0.0.1:5000"


def unpacked(tag):
    kind, _, content = tag.partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(content)))


def test_scenarios_in_their_order_follow_the_view_over_them():
    found = views(["late", "late", "early"])
    assert [view.name for view in found] == ["mean over scenarios", "late", "early"]
    assert [view.wanted for view in found] == [
        "tags.kind = 'summary'",
        "tags.kind = 'cell' and tags.scenario = 'late'",
        "tags.kind = 'cell' and tags.scenario = 'early'",
    ]
    assert [view.name for view in views(["late"])] == ["late"]


def test_more_runs_than_a_page_takes_are_shown_by_their_means():
    kinds = [
        views(["one"] * count)[0].wanted.split("'")[1]
        for count in (ROWS_OF_A_PAGE, ROWS_OF_A_PAGE + 1)
    ]
    assert kinds == ["cell", "summary"]


def test_a_view_groups_curves_bars_and_the_trade_off_by_method():
    (view,) = views(["one"])
    name, value = view.tag()
    state = unpacked(value)
    assert name == f"{STATE_TAG}scenario-one"
    assert len(value) < 2000
    assert state["searchFilter"] == view.wanted
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "method"}]
    assert [(chart["type"], chart["metricKey"]) for chart in state["compareRunCharts"]] == [
        ("LINE", "mAP"),
        ("LINE", "NFR_at_1"),
        ("BAR", "AUC_mAP"),
        ("BAR", "AUC_NFR_at_1"),
        ("SCATTER", "AUC_NFR_at_1"),
    ]
    scatter = state["compareRunCharts"][-1]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("AUC_NFR_at_1", "M_new_new")
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    # Sorted by time, MLflow would add the runs that these are nested in.
    assert state["orderByKey"] == "metrics.`AUC_NFR_at_1`"


@pytest.fixture(scope="module")
def database(tmp_path_factory, empty_database):
    """One run in each of two scenarios, logged in the other order than the suite has them."""
    folder = tmp_path_factory.mktemp("views")
    uri = empty_database(folder)
    experiment = Experiment(uri, folder / "artifacts", "made-up", "icons")
    for scenario in ("b", "a"):
        rows, note = make_cell(scenario, "l2", 0, queries=6)
        path = folder / f"{scenario}.parquet"
        note = RunMetadata.model_validate(note)
        records.write(path, rows.drop(columns=PLACE), note)
        experiment.log_cell(note, path)
    experiment.show(["b", "a"], "three icons. Does it work?")
    mlflow.MlflowClient(uri).create_experiment("somebody else's")
    return uri, experiment


def test_every_view_has_one_short_address(database):
    uri, experiment = database
    found = ui.comparison_views(uri, ADDRESS)
    assert list(found) == [
        "made-up/icons · mean over scenarios",
        "made-up/icons · b",
        "made-up/icons · a",
    ]
    assert found["made-up/icons · b"] == (
        f"{ADDRESS}/#/experiments/{experiment.id}/runs?viewStateShareKey=scenario-b"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )
    assert max(map(len, found.values())) < 160


def test_what_is_printed_is_the_whole_address(database):
    """It is printed where secrets are hidden, which a view's key is not."""
    uri, _ = database
    printed = io.StringIO()
    found = ui.comparison_views(uri, ADDRESS)
    ui._print_views(found, Terminal(file=printed, width=80))
    lines = [f"{name}: {address}" for name, address in found.items()]
    assert printed.getvalue().splitlines() == lines


def test_an_experiment_says_what_it_is_and_links_to_its_views(database):
    uri, experiment = database
    tags = mlflow.MlflowClient(uri).get_experiment(experiment.id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert list(json.loads(tags[VIEWS_TAG])) == ["overview", "scenario-b", "scenario-a"]
    assert {f"{STATE_TAG}{key}" for key in json.loads(tags[VIEWS_TAG])} <= set(tags)
    note = tags["mlflow.note.content"]
    assert "**Suite `made-up` on `icons`**: three icons. Does it work?\n" in note
    for address in ui.comparison_views(uri, "").values():
        assert f"]({address[1:]})" in note


def test_what_a_suite_says_of_itself_outlasts_a_later_run(database):
    uri, experiment = database
    again = Experiment(uri, None, "made-up", "icons")
    again.show()
    assert "three icons" in mlflow.MlflowClient(uri).get_experiment(experiment.id).tags["summary"]


@pytest.mark.parametrize("version", ["3.16.0", "3.18.0", "4.0", "3.170.1"])
def test_another_version_gets_the_plain_page(database, monkeypatch, version):
    uri, experiment = database
    monkeypatch.setattr(mlflow, "__version__", version)
    assert ui.comparison_views(uri, ADDRESS) == {
        "made-up/icons": f"{ADDRESS}/#/experiments/{experiment.id}/runs"
    }


def test_the_version_that_counts_is_the_server_s():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(b"2.1.0")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert ui.server_version(f"http://127.0.0.1:{server.server_port}") == "2.1.0"
        assert ui.server_version(f"http://127.0.0.1:{server.server_port}/below") is None
    finally:
        server.shutdown()
        server.server_close()
    assert ui.server_version(f"http://127.0.0.1:{server.server_port}") is None
    assert ui.server_version("sqlite:///somewhere/mlflow.db") == mlflow.__version__
