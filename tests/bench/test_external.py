"""`evaluate`: the numbers of an upgrade from files, the verdict, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from bench.backfill import hot_refresh, search
from bench.errors import BenchError
from bench.external import NO_GO, command, run
from bench.relevance import Relevance
from bench.upgrade_page import page

QUERIES, SIZE, WIDTH = 12, 60, 6
SHARES = np.linspace(0, 1, 11)


@pytest.fixture
def system(tmp_path):
    """An upgrade on disk, with one junk item and one unanswered query; returns its arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        "queries_old": rng.normal(size=(QUERIES, WIDTH)),
        "queries_new": rng.normal(size=(QUERIES, WIDTH)),
        "gallery_old": rng.normal(size=(SIZE, WIDTH)),
        "gallery_new": rng.normal(size=(SIZE, WIDTH)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    answers = [rng.choice(SIZE - 1, 3, replace=False) for _ in range(QUERIES - 1)] + [[]]
    junk = [[SIZE - 1]] + [[]] * (QUERIES - 1)
    lines = ["query,item,relevance", f"0,{SIZE - 1},-1", "0,0,0"]
    lines += [f"{query},{item},1" for query, rows in enumerate(answers) for item in rows]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    order = rng.permutation(SIZE)
    (tmp_path / "order.txt").write_text("\n".join(map(str, order)))
    return arrays, Relevance.from_lists(answers, junk, SIZE), order


def files(folder, **changes):
    named = {name: folder / f"{name}.npy" for name in ("queries_new", "gallery_old", "gallery_new")}
    named |= {"queries_old": folder / "queries_old.npy", "relevance": folder / "truth.csv"}
    return {**named, "order": str(folder / "order.txt"), **changes}


def test_the_numbers_are_those_of_the_curve(system, tmp_path):
    arrays, relevance, order = system
    found = run(**files(tmp_path))
    new, old = arrays["queries_new"], arrays["queries_old"]
    curve = hot_refresh(
        new, arrays["gallery_new"], new, arrays["gallery_old"], relevance, order, SHARES
    )
    before = search(old, arrays["gallery_old"], relevance)
    assert found["shares"] == SHARES.tolist()
    np.testing.assert_allclose(found["mAP"], np.nanmean(curve.ap, axis=1))
    assert found["M_old_old"] == pytest.approx(np.nanmean(before.ap))
    assert found["M_new_old"] == pytest.approx(found["mAP"][0])
    assert found["M_new_new"] == pytest.approx(found["mAP"][-1])
    crossed = search(old, arrays["gallery_new"], relevance)
    assert found["M_old_new"] == pytest.approx(np.nanmean(crossed.ap))
    right, now = before.success[0, 0, :-1], curve.success[:, 0, :-1]
    np.testing.assert_allclose(found["NFR_at_1"], (right & ~now).sum(1) / (QUERIES - 1))
    np.testing.assert_allclose(found["PFR_at_1"], (~right & now).sum(1) / (QUERIES - 1))
    flipped = {entry["query"] for entry in found["flipped_queries"]}
    assert flipped == {str(query) for query in np.flatnonzero((right & ~now).any(0))}
    assert found["old_share_of_top_10"][0] == 1
    assert found["old_share_of_top_10"][-1] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_index_that_finds_everything_serves_the_exact_curve(system, tmp_path):
    found = run(**files(tmp_path, index="Flat"))
    served = found["served"]
    assert served["recall"] == [1.0] * len(SHARES)
    np.testing.assert_allclose(served["mAP"], found["mAP"], atol=1e-6)
    assert 4 * WIDTH <= served["bytes_per_item"] < 4 * WIDTH + 16
    assert min(served["searches_per_s"], served["updates_per_s"], served["latency_ms_p50"]) > 0
    with pytest.raises(BenchError, match="FAISS cannot make an index 'Flatt'"):
        run(**files(tmp_path, index="Flatt"))


def test_without_old_queries_what_needs_them_is_unknown(system, tmp_path):
    found = run(**files(tmp_path, queries_old=None))
    assert found["M_old_old"] is None
    assert found["M_old_new"] is None
    assert "NFR_at_1" not in found
    assert found["mAP"] == run(**files(tmp_path))["mAP"]


def test_every_format_gives_the_same_numbers(system, tmp_path):
    arrays, _, _ = system
    expected = run(**files(tmp_path))
    save_file({"embeddings": torch.tensor(arrays["gallery_old"])}, tmp_path / "old.safetensors")
    table = pd.DataFrame({"embedding": list(arrays["gallery_new"])})
    table.to_parquet(tmp_path / "new.parquet")
    columns = pd.DataFrame(arrays["queries_new"], columns=[f"d{n}" for n in range(WIDTH)])
    columns.to_parquet(tmp_path / "queries.parquet")
    qrels = (tmp_path / "truth.csv").read_text().splitlines()[1:]
    qrels = [f"{q} 0 {item} {level}" for q, item, level in (line.split(",") for line in qrels)]
    (tmp_path / "truth.qrels").write_text("\n".join(qrels))
    found = run(
        **files(
            tmp_path,
            gallery_old=tmp_path / "old.safetensors",
            gallery_new=tmp_path / "new.parquet",
            queries_new=tmp_path / "queries.parquet",
            relevance=tmp_path / "truth.qrels",
        )
    )
    assert found == {**expected, "order": found["order"]}


def test_ids_align_a_gallery_in_another_order(system, tmp_path):
    arrays, _, _ = system
    expected = run(**files(tmp_path))
    names = np.array([f"item-{row}" for row in range(SIZE)])
    shuffle = np.random.default_rng(5).permutation(SIZE)
    np.save(tmp_path / "gallery_new.npy", arrays["gallery_new"][shuffle])
    (tmp_path / "gallery_new.ids.txt").write_text("\n".join(names[shuffle]))
    (tmp_path / "gallery_old.ids.txt").write_text("\n".join(names))
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    lines[1:] = [line.replace(",", ",item-", 1) for line in lines[1:]]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    order = (tmp_path / "order.txt").read_text().splitlines()
    (tmp_path / "order.txt").write_text("\n".join(f"item-{row}" for row in order))
    assert run(**files(tmp_path))["mAP"] == expected["mAP"]
    names[7] = "another"
    (tmp_path / "gallery_old.ids.txt").write_text("\n".join(names))
    with pytest.raises(BenchError, match="1 ids of .*gallery_old.npy are not in .*gallery_new.npy"):
        run(**files(tmp_path))


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (
            "gallery_old",
            np.ones((SIZE, 5)),
            "queries_new.npy has width 6 but .*gallery_old.npy has",
        ),
        (
            "gallery_new",
            np.ones((SIZE, 9)),
            "queries_new.npy has width 6 but .*gallery_new.npy has",
        ),
        (
            "gallery_new",
            np.ones((9, WIDTH)),
            "gallery_new.npy has 9 rows but .*gallery_old.npy has",
        ),
        (
            "queries_old",
            np.ones((3, WIDTH)),
            "queries_old.npy has 3 rows but .*queries_new.npy has",
        ),
        ("gallery_new", np.full((SIZE, WIDTH), np.nan), "gallery_new.npy: row 0 holds NaN"),
        ("gallery_old", np.eye(SIZE, WIDTH), "gallery_old.npy: row 6 holds only zeros"),
        ("gallery_old", np.array([{}, 1]), "gallery_old.npy cannot be read .*never loaded"),
        ("gallery_old", np.ones(SIZE), r"gallery_old.npy holds float64 of shape \(60,\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(system, tmp_path, name, array, words):
    np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(BenchError, match=words):
        run(**files(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("query,item\n0,60", "line 2: item '60' is not in .*gallery_old.npy.*0..59"),
        ("query,item\n99,1", "line 2: query '99' is not in .*queries_new.npy"),
        ("query,item,relevance\n0,1,yes", "line 2: relevance is 'yes'"),
        ("query,item,relevance\n0,1,0", "lists no relevant item"),
        ("query,item,relevance\n0,1,1\n0,1,-1", "both relevant and junk"),
        ("image,item\n0,1", "expected query, item"),
    ],
)
def test_relevance_that_is_not_understood_is_refused_by_line(system, tmp_path, text, words):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(BenchError, match=words):
        run(**files(tmp_path))


def test_orders_are_files_or_names(system, tmp_path):
    run(**files(tmp_path, order="oracle"))
    with pytest.raises(BenchError, match="needs old head"):
        run(**files(tmp_path, order="margin-old-head"))
    with pytest.raises(BenchError, match="neither a file nor a backfill order"):
        run(**files(tmp_path, order="sideways"))
    (tmp_path / "order.txt").write_text("0\n1\n")
    with pytest.raises(BenchError, match="order.txt lists 2 items, 2 of them different"):
        run(**files(tmp_path))


def invoke(folder, *limits):
    app = typer.Typer()
    app.command()(command)
    named = files(folder)
    named["order"] = str(named["order"])
    options = [
        part for name, path in named.items() for part in (f"--{name.replace('_', '-')}", path)
    ]
    outputs = ["--json", folder / "out" / "found.json", "--html", folder / "out" / "found.html"]
    return CliRunner().invoke(app, [str(part) for part in (*options, *outputs, *limits)])


def test_the_verdict_decides_the_exit_status(system, tmp_path):
    generous = invoke(tmp_path, "--max-nfr", 1, "--min-gain", -1)
    assert generous.exit_code == 0, generous.output
    assert "go\n" in generous.output
    strict = invoke(tmp_path, "--max-nfr", 0, "--min-gain", 0.9)
    assert strict.exit_code == NO_GO
    assert "no-go" in strict.output
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found["verdict"]["go"] is False
    assert any("limit at least 0.9: fails" in reason for reason in found["verdict"]["reasons"])
    html = (tmp_path / "out" / "found.html").read_text()
    assert "<svg" in html
    assert "no-go" in html
    assert "src=" not in html
    assert "<link" not in html


def test_limits_need_the_old_queries(system, tmp_path):
    with pytest.raises(BenchError, match="give them with --queries-old"):
        command(**files(tmp_path, queries_old=None, max_nfr=0.1))


def test_names_are_escaped_in_the_page(system, tmp_path):
    (tmp_path / "queries_new.ids.txt").write_text("\n".join(f"<b>{n}" for n in range(QUERIES)))
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    (tmp_path / "truth.csv").write_text(
        "\n".join([lines[0], *(f"<b>{line}" for line in lines[1:])])
    )
    html = page(run(**files(tmp_path)))
    assert "<b>" not in html
