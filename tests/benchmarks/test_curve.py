"""Time of the one-pass curve against the searches and the products it replaces.

    CURVE_BENCHMARK=full python -m pytest tests/benchmarks/test_curve.py -m '' --benchmark-enable -s

prints the ratios at 1,129 queries × 200,000 items, and the whole Google Landmarks v2 size; without
the variable everything is small. FAISS searches five of the shares; its time for all of them is
extrapolated, since every share costs the same.
"""

import os
import resource
import time

import faiss
import numpy as np
import pytest
import torch

from bench.evaluation import metrics
from bench.evaluation.backfill import backfilled_counts, hot_refresh, search
from bench.relevance import Relevance
from bench.upgrade.faiss_index import answer_ranks

pytestmark = pytest.mark.benchmark(group="curve")

FULL = os.environ.get("CURVE_BENCHMARK") == "full"
QUERIES, SIZE = (1129, 200_000) if FULL else (60, 4_000)
LANDMARKS = (1129, 761_757, 512) if FULL else (60, 6_000, 32)
DEPTH = 100
SEARCHED_SHARES = 5


def unit(array):
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return array


def make_system(queries, size, width, store=np.empty):
    """Random unit vectors; ten answers per query, most of which stand among its nearest items."""
    rng = np.random.default_rng(0)
    answers = [rng.choice(size, 10, replace=False) for _ in range(queries)]
    system = {}
    for age in ("new", "old"):
        query = unit(rng.standard_normal((queries, width), dtype=np.float32))
        gallery = store((size, width), dtype=np.float32)
        for start in range(0, size, 50_000):
            part = gallery[start : start + 50_000]
            part[:] = unit(rng.standard_normal(part.shape, dtype=np.float32))
        for number, rows in enumerate(answers):
            pull = rng.uniform(0, 8 / np.sqrt(width), (10, 1)).astype(np.float32)
            gallery[rows] = unit(gallery[rows] + pull * query[number])
        system |= {f"query_{age}": query, f"gallery_{age}": gallery}
    relevance = Relevance.from_lists(answers, [[]] * queries, size)
    return {**system, "relevance": relevance, "order": rng.permutation(size)}


def refresh(system, shares, metric=f"AP@{DEPTH}"):
    return hot_refresh(**system, shares=np.linspace(0, 1, shares), metric=metric)


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def search_mixed_gallery(system, share, index):
    """Rebuild and search the gallery at one share, as public evaluations do; AP@100 per query.

    FAISS has one query per item, so that the old part is searched with the new query: the rows of
    both systems are laid side by side, with zeros for the part that an item does not have.
    """
    count = backfilled_counts([share], len(system["order"]))[0]
    gallery = system["gallery_old"].copy()
    backfilled = system["order"][:count]
    gallery[backfilled] = system["gallery_new"][backfilled]
    index.reset()
    index.add(gallery)
    answers = index.search(system["query_new"], DEPTH)[1]
    counts = system["relevance"].relevant.counts()
    ranks = answer_ranks(answers, system["relevance"], DEPTH)
    ranks = metrics.sort_within_queries(ranks, counts)
    return metrics.average_precision(ranks, counts, f"AP@{DEPTH}")[0]


@pytest.mark.parametrize("metric", ["AP", f"AP@{DEPTH}"])
def test_curve(benchmark, metric):
    """The size of the default data set, and one of the metrics that need all ranks."""
    system = make_system(500, 5_000, 128)
    curve = benchmark.pedantic(refresh, args=(system, 11, metric), rounds=7, warmup_rounds=1)
    assert curve.ap.shape == (11, 500)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [21, 101])
def test_one_pass_against_a_faiss_search_per_share(benchmark, shares):
    system = make_system(QUERIES, SIZE, 256 if FULL else 32)
    # The public evaluations know one query embedding for both parts of the gallery.
    system["query_old"] = system["query_new"]
    curve = benchmark.pedantic(refresh, args=(system, shares), rounds=1, warmup_rounds=1)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(system["gallery_new"].shape[1])
    places = np.linspace(0, shares - 1, SEARCHED_SHARES).round().astype(int)
    seconds, ratios = 0.0, []
    for place in places:
        one_pass, _ = timed(lambda: refresh(system, shares))
        elapsed, ap = timed(
            lambda place=place: search_mixed_gallery(system, curve.shares[place], index)
        )
        # FAISS breaks near ties by its own rounding.
        np.testing.assert_allclose(ap, curve.ap[place], atol=0.02)
        assert ap.mean() == pytest.approx(curve.ap[place].mean(), abs=1e-4)
        seconds += elapsed
        ratios.append(elapsed * shares / one_pass)
    benchmark.extra_info["times faster than FAISS"] = float(np.median(ratios))
    print(f"\n{shares} shares: {np.median(ratios):.1f} × as fast as FAISS flat per share")


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 512] if FULL else [32])
def test_one_pass_against_the_two_products_alone(benchmark, width):
    system = make_system(QUERIES, SIZE, width)

    def products():
        for age in ("new", "old"):
            query = torch.from_numpy(system[f"query_{age}"])
            gallery = torch.from_numpy(system[f"gallery_{age}"])
            for start in range(0, SIZE, 8192):
                query @ gallery[start : start + 8192].T

    products()
    benchmark.pedantic(refresh, args=(system, 101), rounds=1, warmup_rounds=1)
    ratios = []
    for _ in range(5):
        alone, _ = timed(products)
        one_pass, _ = timed(lambda: refresh(system, 101))
        ratios.append(one_pass / alone)
    benchmark.extra_info["times the two float32 products"] = float(np.median(ratios))
    print(f"\n{width} dimensions: {np.median(ratios):.2f} × the two float32 products")


@pytest.mark.slow
def test_google_landmarks_size(benchmark, tmp_path):
    """The full private-query evaluation, with galleries that stay on disk."""
    queries, size, width = LANDMARKS
    made = iter(("new.npy", "old.npy"))

    def store(shape, dtype):
        return np.lib.format.open_memmap(tmp_path / next(made), "w+", dtype=dtype, shape=shape)

    system = make_system(queries, size, width, store)
    for age in ("new", "old"):
        system[f"gallery_{age}"].flush()
        system[f"gallery_{age}"] = np.load(tmp_path / f"{age}.npy", mmap_mode="r")
    truth = system["relevance"]

    def evaluate():
        old = search(system["query_old"], system["gallery_old"], truth, f"AP@{DEPTH}")
        curve = refresh(system, 101)
        return metrics.negative_flip_rate(old.success[0, 0], curve.success[:, 0])

    seconds, flips = timed(lambda: benchmark.pedantic(evaluate, rounds=1))
    # Two products for the curve and one for the old system.
    operations = 3 * 2 * queries * size * width
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    benchmark.extra_info |= {"GFLOP/s": operations / seconds / 1e9, "peak memory in GiB": peak}
    print(f"\n{seconds:.1f} s, {operations / seconds / 1e9:.0f} GFLOP/s, peak {peak:.2f} GiB")
    assert flips.shape == (101,)
    assert peak < 6
