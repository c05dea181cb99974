"""Making MLflow's tables takes seconds: they are made once, and copied."""

import shutil

import pytest

from bench.tracking.runs import make_database


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Return a function that puts an empty database into a folder and returns its address."""
    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_database(made)

    def copy(folder):
        shutil.copy(made, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    return copy
