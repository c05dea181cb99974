"""Shared by all tests: one thread, no network, a small learnable world."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

from bench.storage.results import record_paths
from tests.command import TINY, bench

torch.set_num_threads(1)
# How long an example takes on a busy machine is nothing that a property says.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small finished suite and what it printed; tests read it, those that add take `grown`."""
    results = tmp_path_factory.mktemp("results")
    done = bench("all", *TINY, "--methods", "independent,ract", "--results", results)
    made = record_paths(results, "tiny")
    yield results, done.stdout
    assert record_paths(results) == made, "a test added records to what others read"


@pytest.fixture
def grown(finished, tmp_path):
    """Copy the finished suite, with an MLflow of its own, for a test that adds to it."""
    results, _ = finished
    copy = shutil.copytree(results, tmp_path / "grown")
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(moved, (str(results), str(copy)))
    return copy
