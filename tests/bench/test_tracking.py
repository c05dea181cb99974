import pytest

from bench.tracking import shown


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
