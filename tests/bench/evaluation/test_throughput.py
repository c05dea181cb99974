import numpy as np
import pytest

from bench.evaluation import throughput


class Clock:
    """A clock that work moves on: 100 seconds at first, then 1, 2, 3, …"""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def work(self):
        self.now += self.calls or 100
        self.calls += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_warm_up_is_not_counted(clock):
    assert throughput.repeated(clock.work, 3) == [1, 2, 3]


def test_what_takes_long_is_repeated_less_often(clock):
    assert throughput.repeated(clock.work, 5, budget=2.5) == [1, 2]
    assert len(throughput.repeated(clock.work, 5, budget=1e9)) == 5


def test_rates_are_those_of_the_median_repetition(monkeypatch):
    monkeypatch.setattr(throughput, "repeated", lambda work, budget: [9.0, 0.5, 0.25])
    query, gallery = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    rates = throughput.rates(query, gallery, embed_rate=10.0)
    assert rates["search_queries_per_s"] == 4 / 0.5
    assert rates["backfill_images_per_s"] == 5 / (5 / 10 + 0.5)
