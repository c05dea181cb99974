import pytest
from mlflow import MlflowClient

from bench.experiment import Experiment, make_database
from bench.tracking import own_database, shown, tracking_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////tmp/results/mlflow.db", "sqlite:////tmp/results/mlflow.db"),
        ("https://tracking.example:5000/a", "https://tracking.example:5000/a"),
        ("https://me:secret@tracking.example:5000/a", "https://***@tracking.example:5000/a"),
        ("postgresql://me:se@cret@db/mlflow", "postgresql://***@db/mlflow"),
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
