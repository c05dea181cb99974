"""When a run was worked on, from its stages to its records."""

import shutil
from itertools import pairwise

from mlflow import MlflowClient

from bench.evaluation import records
from bench.storage.results import record_paths
from bench.tracking.runs import work_time
from tests.command import bench


def test_records_say_when_their_stages_were_worked_on(finished):
    results, _ = finished
    folder = results.stat().st_mtime
    for path in record_paths(results):
        note = records.read_note(path)
        assert set(note.work) == {
            *("training", "embedding of queries", "embedding of the gallery", "evaluation"),
        }
        in_order = [note.work[name] for name in ("training", "embedding of queries", "evaluation")]
        for before, after in pairwise(in_order):
            assert before.started < before.ended <= after.started < after.ended
        assert abs(note.work["evaluation"].ended - folder) < 600
        started, ended = work_time(note)
        taken = sum(span.ended - span.started for span in note.work.values())
        assert abs(ended - started - 1000 * taken) <= 1


def test_what_is_sent_later_is_complete(finished, tmp_path):
    results = shutil.copytree(finished[0], tmp_path / "results")
    for gone in ("mlflow.db", "cache/mlflow.json"):
        (results / gone).unlink()
    assert "2 of 2 runs are in MLflow" in bench("track", "--results", results).stdout
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny/synthetic")
    kinds = [run.data.tags["kind"] for run in client.search_runs([experiment.experiment_id])]
    assert sorted(kinds) == ["cell", "cell", "comparison", "scenario", "summary", "summary"]
