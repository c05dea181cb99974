"""Statistics of the default suite's size, and of 20 methods × 20,000 queries × 3 seeds."""

import numpy as np
import pytest

from bench.analysis import stats

pytestmark = pytest.mark.benchmark(group="statistics")

SEEDS, ROUNDS = 3, 5
SIZES = [
    pytest.param((5, 2_184), id="default"),
    pytest.param((20, 20_000), id="large", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SIZES)
def values(request):
    """AP-like values [S, Q, methods]."""
    methods, queries = request.param
    return np.random.default_rng(0).beta(0.5, 0.5, (SEEDS, queries, methods))


def differences(values):
    """Differences of every pair of methods, summed over seeds [Q, pairs]."""
    first, second = np.triu_indices(values.shape[2], 1)
    return (values[:, :, first] - values[:, :, second]).sum(0)


def test_sign_flips_of_every_pair(benchmark, values):
    found = differences(values)
    benchmark.pedantic(
        lambda: stats.sign_flip_p(found, np.random.default_rng(0)), rounds=ROUNDS, warmup_rounds=1
    )


def test_exact_mcnemar_of_every_pair(benchmark, values):
    found = differences((values < 0.1).astype(int))
    benchmark.pedantic(lambda: stats.mcnemar_p(found), rounds=ROUNDS, warmup_rounds=1)


def test_intervals_of_every_method(benchmark, values):
    benchmark.pedantic(
        lambda: stats.hierarchical_interval(values, np.random.default_rng(0)),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
