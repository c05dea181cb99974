"""Served bridges see the exact curve where the index is exact, and the verdict is about them."""

import numpy as np
import pytest
from typer.testing import CliRunner

import bench
from bench.cli.commands import app
from bench.cli.evaluate import NO_GO
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.upgrade.faiss_index import UpdatableIndex
from bench.upgrade.served import probe

QUERIES, SIZE, WIDTH = 100, 1000, 64


@pytest.fixture(scope="module")
def moved():
    """Classes in one half of the dimensions to the old model, in the other half to the new one.

    Cells that are trained on old vectors then divide new ones by their noise alone.
    """
    rng = np.random.default_rng(0)
    labels, asked = np.arange(SIZE) % 100, np.arange(QUERIES) % 100
    arrays = {}
    for side, half, noise in (("old", slice(0, 32), 1.1), ("new", slice(32, 64), 0.3)):
        seen = np.zeros((100, WIDTH))
        seen[:, half] = rng.normal(size=(100, 32))
        spread = np.full(WIDTH, noise) if side == "new" else np.where(seen.any(0), noise, 0.0)
        for name, classes in (("queries", asked), ("gallery", labels)):
            points = seen[classes] + spread * rng.normal(size=(len(classes), WIDTH))
            arrays[f"{name}_{side}"] = points.astype(np.float32)
    return arrays, Relevance.from_labels(asked, labels)


@pytest.mark.parametrize(
    ("index", "parameters"), [("Flat", ""), ("IVF4,Flat", "nprobe=4"), ("HNSW16", "efSearch=2000")]
)
def test_an_exhaustive_index_serves_the_exact_curve(moved, index, parameters):
    arrays, truth = moved
    result = bench.evaluate_upgrade(
        **arrays,
        relevance=truth,
        shares=3,
        bridges=["naive mix", "rank_merge", "cascade"],
        metric="AP@20",
        index=index,
        index_parameters=parameters,
    )
    _, *bridges = result.found.bridges
    assert {bridge.name for bridge in bridges} == {"naive mix", "rank_merge", "cascade"}
    for bridge in bridges:
        np.testing.assert_allclose(bridge.served.values, bridge.values["AP@20"], atol=1e-6)
        np.testing.assert_array_equal(bridge.served.recall, 1)


def test_an_index_trained_on_old_vectors_is_told_to_be_retrained(moved):
    arrays, truth = moved
    limits = bench.Limits(gain=0.1)
    options = {"relevance": truth, "shares": 3, "bridges": ["naive mix"]}
    exact = bench.evaluate_upgrade(**arrays, **options)
    assert exact.verdict(limits).go
    served = bench.evaluate_upgrade(
        **arrays, **options, index="IVF64,Flat", index_parameters="nprobe=4"
    )
    verdict = served.verdict(limits)
    assert not verdict.go
    assert verdict.after_retraining == "naive mix"
    words = [cell.value for cell in served.table(limits).rows[-1]]
    assert words[-1] == "no-go as served, go after retraining"
    assert "go after retraining: naive mix" in served.page(limits)


def test_fast_scan_indexes_are_rebuilt_at_every_share(moved):
    arrays, truth = moved
    result = bench.evaluate_upgrade(
        **arrays, relevance=truth, shares=3, bridges=["naive mix"], index="PQ8x4fs"
    )
    served = result.found.bridges[1].served
    assert "rebuilt at every share" in served.updates
    assert served.rebuilds == 2


@pytest.mark.parametrize(
    ("index", "parameters", "words"),
    [
        ("Flat", "nprobe=x y", "FAISS cannot make|FAISS dies"),
        ("HNSW0", "", "FAISS (dies of|cannot make) "),
        ("HNSW999999", "", "keeps more than 1024 links of every item"),
        ("IVF4_HNSW99999999999999999999,Flat", "", "keeps more than 1024 links of every item"),
        pytest.param("RQ9999x20", "", "needs more memory than is free", marks=pytest.mark.slow),
        pytest.param("L2norm,Flat", "", "FAISS cannot use an index", marks=pytest.mark.slow),
    ],
)
def test_indexes_that_faiss_refuses_or_dies_of_are_told(moved, index, parameters, words):
    arrays, _ = moved
    with pytest.raises(BenchError, match=words):
        probe(index, parameters, arrays["gallery_old"])


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("Bogus", "FAISS cannot make an index 'Bogus'"),
        ("IVF2048,Flat", r"cannot train an index 'IVF2048,Flat' on 1,000 items.*2048"),
    ],
)
def test_indexes_that_faiss_refuses_are_told_by_the_process_that_tries_them(moved, index, words):
    arrays, _ = moved
    with pytest.raises(BenchError, match=words):
        UpdatableIndex(index, arrays["gallery_old"])


def test_the_command_says_go_after_retraining(moved, tmp_path):
    arrays, truth = moved
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    pairs = zip(*np.nonzero(truth_table(truth)), strict=True)
    lines = "\n".join(f"{query},{item}" for query, item in pairs)
    (tmp_path / "truth.csv").write_text(f"query,item\n{lines}\n")
    files = [f"--{name.replace('_', '-')}={tmp_path / f'{name}.npy'}" for name in arrays]
    asked = ["evaluate", *files, f"--relevance={tmp_path / 'truth.csv'}", "--shares=3"]
    asked += ["--bridges=naive mix", "--min-gain=0.1"]
    exact = CliRunner().invoke(app, asked)
    assert (exact.exit_code, "go: naive mix" in exact.output) == (0, True), exact.output
    served = CliRunner().invoke(app, [*asked, "--index=IVF64,Flat", "--index-parameters=nprobe=4"])
    assert served.exit_code == NO_GO == 3
    assert "no-go as served, go after retraining: naive mix" in served.output
    assert "trained anew, mAP at 100 % is" in " ".join(served.output.split())


def truth_table(truth):
    table = np.zeros((QUERIES, SIZE), bool)
    for query in range(QUERIES):
        table[query, truth.relevant[query]] = True
    return table


def test_tombstones_cost_bytes_and_are_told(moved):
    arrays, truth = moved
    result = bench.evaluate_upgrade(
        **arrays, relevance=truth, shares=6, bridges=["naive mix"], index="HNSW16"
    )
    served = result.found.bridges[1].served
    assert served.updates == "tombstones until a rebuild"
    assert served.bytes_per_item > 1.3 * served.bytes_at_start
    assert f"at most {served.bytes_per_item:,.0f} during it" in " ".join(result.table().notes)
