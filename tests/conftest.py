"""Shared by all tests: one thread, no network, a small learnable world."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from tests.command import TINY, bench

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small finished suite and what it printed; tests only add to it."""
    results = tmp_path_factory.mktemp("results")
    done = bench("all", *TINY, "--methods", "independent,ract", "--results", results)
    return results, done.stdout
