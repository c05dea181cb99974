import pytest
from mlflow import MlflowClient
from rich.console import Console

from bench.errors import shown
from bench.experiment import Experiment, make_database
from bench.tracking import Tracker, own_database, tracking_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////tmp/results/mlflow.db", "sqlite:////tmp/results/mlflow.db"),
        ("https://tracking.example:5000/a", "https://tracking.example:5000/a"),
        ("https://me:secret@tracking.example:5000/a", "https://***@tracking.example:5000/a"),
        ("postgresql://me:se@cret@db/mlflow", "postgresql://***@db/mlflow"),
        ("GET http://me:secret@a/b failed, //c d@e", "GET http://***@a/b failed, //c d@e"),
    ],
)
def test_an_address_is_shown_without_its_password(uri, expected):
    assert shown(uri) == expected


def test_a_database_whose_making_is_cut_off_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = own_database(tmp_path)

    def cut_off(self):
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_experiments", cut_off)
        with pytest.raises(KeyboardInterrupt):
            make_database(path)
    assert not list(tmp_path.iterdir())
    make_database(path)
    assert list(tmp_path.iterdir()) == [path]
    experiment = Experiment(tracking_uri(tmp_path), tmp_path / "artifacts", "toy", "synthetic")
    assert (
        MlflowClient(tracking_uri(tmp_path)).get_experiment(experiment.id).name == "toy/synthetic"
    )


def test_runs_logged_elsewhere_need_no_database_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert own_database(tmp_path) is None


def test_a_server_out_of_reach_is_a_warning_without_its_password(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(tmp_path, Console())
    (tmp_path / "cache").mkdir()
    (tmp_path / "records" / "toy" / "synthetic").mkdir(parents=True)
    assert not tracker.has_suite("toy", "key")
    assert tracker.broken
    told = capsys.readouterr().out
    assert "warning: MLflow at http://***@127.0.0.1:1 failed (MlflowException" in told
    assert "secret" not in told
