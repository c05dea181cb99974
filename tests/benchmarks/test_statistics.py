"""Statistics of 20 methods × 20,000 queries × 10,000 resamples."""

import numpy as np
import pytest

from bench import stats

METHODS, QUERIES, SEEDS = 20, 20_000, 3
FIRST, SECOND = np.triu_indices(METHODS, 1)


@pytest.fixture(scope="module")
def values():
    """AP-like values [S, Q, methods]."""
    random = np.random.default_rng(0)
    return random.beta(0.5, 0.5, (SEEDS, QUERIES, METHODS))


def test_sign_flips_of_every_pair(benchmark, values):
    differences = (values[:, :, FIRST] - values[:, :, SECOND]).sum(0)
    benchmark.pedantic(lambda: stats.sign_flip_p(differences, np.random.default_rng(0)), rounds=1)


def test_exact_mcnemar_of_every_pair(benchmark, values):
    flips = (values < 0.1).astype(int)
    differences = (flips[:, :, FIRST] - flips[:, :, SECOND]).sum(0)
    benchmark.pedantic(lambda: stats.mcnemar_p(differences), rounds=1)


def test_intervals_of_every_method(benchmark, values):
    benchmark.pedantic(
        lambda: stats.hierarchical_interval(values, np.random.default_rng(0)), rounds=1
    )
