import pytest
from mlflow import MlflowClient

from bench.analysis.suite_records import keep_order
from bench.suites.loading import compose
from bench.tracking.connection import own_database, tracking_uri
from bench.tracking.runs import Experiment, make_database
from bench.tracking.tracker import _summary_of


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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("default", "my own"),
        ("default+2", "my own"),
        ("default+epochs=5+ract.weight=2+3", "my own (with epochs=5, ract.weight=2)"),
    ],
)
def test_a_suite_file_is_told_by_its_own_summary(tmp_path, name, told):
    """Also where it has the name of a suite that comes with the harness."""
    content = {"name": "default", "summary": "my own", "dataset": "synthetic"}
    suite = compose(content, scenarios=("extended-class",), methods=("l2",), seeds=(0,))
    keep_order(tmp_path, suite.model_copy(update={"name": name}))
    assert _summary_of(tmp_path, name) == told
    assert _summary_of(tmp_path, "nobody's") == ""
