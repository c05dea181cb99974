"""`evaluate`: bridges against a naive recomputation, verdicts, pages, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import bench
from bench.cli.evaluate import NO_GO, command
from bench.errors import BenchError
from bench.evaluation.orders import OrderInputs
from bench.evaluation.orders import order as order_of
from bench.seeds import derive_seed
from bench.upgrade.answers import best_answers, bridge_answers, rank_biased_overlap
from bench.upgrade.bounds import Sampling
from bench.upgrade.bridges import COLD, NAIVE, make_bridges, names

QUERIES, SIZE, OLD, NEW = 40, 400, 12, 20


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def system(tmp_path):
    """A seeded pair of models of unequal dimension that see the same items, with graded truth."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, SIZE)
    asked = rng.integers(0, 20, QUERIES)
    centres = rng.normal(size=(20, 30))
    arrays = {}
    for side, width, noise in (("old", OLD, 1.2), ("new", NEW, 0.6)):
        seen = rng.normal(size=(30, width))
        for name, classes in (("queries", asked), ("gallery", labels)):
            points = centres[classes] + noise * rng.normal(size=(len(classes), 30))
            arrays[f"{name}_{side}"] = (points @ seen).astype(np.float32)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    grades = rng.integers(1, 4, SIZE)
    lines = ["query,item,relevance"]
    lines += [
        f"{q},{i},{grades[i]}" for q in range(QUERIES) for i in np.flatnonzero(labels == asked[q])
    ]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    truth = np.where(labels[None] == asked[:, None], grades[None], 0)
    return arrays, truth


def files(folder, **changes):
    named = {
        name: folder / f"{name}.npy"
        for name in ("queries_new", "queries_old", "gallery_old", "gallery_new")
    }
    return {**named, "relevance": folder / "truth.csv", **changes}


def naive(scores, truth):
    """AP, nDCG@10 and success@1 of one mixed ranking, in float64, item by item."""
    ap, ndcg, right = [], [], []
    for row, grades in zip(scores, truth, strict=True):
        ranked = grades[np.argsort(-row, kind="stable")]
        hits = ranked > 0
        ap.append(np.mean(np.arange(1, hits.sum() + 1) / (np.flatnonzero(hits) + 1)))
        discount = 1 / np.log2(np.arange(2, 12))
        best = np.sort(grades)[::-1][:10]
        ndcg.append((ranked[:10] * discount).sum() / (best * discount).sum())
        right.append(hits[0])
    return np.array(ap), np.array(ndcg), np.array(right)


def test_the_table_equals_a_naive_recomputation(system, tmp_path):
    arrays, truth = system
    chosen = ["procrustes", "rank_merge", "reciprocal_rank_fusion", "cascade"]
    result = bench.evaluate_upgrade(
        **files(tmp_path), shares=5, further=["nDCG@10"], bridges=chosen, pairs=150
    )
    old, new, go, gn = (
        unit(arrays[name].astype(float))
        for name in ("queries_old", "queries_new", "gallery_old", "gallery_new")
    )
    rng = np.random.default_rng(derive_seed("pairs", 0))
    rows = np.sort(rng.choice(SIZE, 150, replace=False))
    left, _, right = np.linalg.svd(go[rows].T @ gn[rows], full_matrices=False)
    systems = {
        "procrustes": (new @ unit(go @ left @ right).T, new @ gn.T),
        "rank_merge": (old @ go.T, new @ gn.T),
        "reciprocal_rank_fusion": (old @ go.T, new @ gn.T),
        "cascade": (old @ go.T, new @ gn.T),
    }
    order = order_of("random", OrderInputs(SIZE), np.random.default_rng(derive_seed("order", 0)))
    _, _, was_right = naive(old @ go.T, truth)
    measured = {bridge.name: bridge for bridge in result.found.bridges}
    assert set(measured) == {COLD, *chosen}
    for name in chosen:
        before, after = systems[name]
        for share, point in enumerate((0, 0.25, 0.5, 0.75, 1)):
            moved = np.zeros(SIZE, bool)
            moved[order[: int(point * SIZE + 0.5)]] = True
            mixed = np.where(moved, after, before)
            if name == "reciprocal_rank_fusion":
                for part in (moved, ~moved):
                    ranks = np.argsort(np.argsort(-mixed[:, part], kind="stable"), kind="stable")
                    mixed[:, part] = 1 / (61 + ranks)
            if name == "cascade":  # the best 100 of the old items have new scores
                place = np.argsort(np.argsort(-np.where(moved, -9, before), axis=1), axis=1)
                mixed = np.where(moved | (place < 100), after, before - 9)
            ap, ndcg, right_now = naive(mixed, truth)
            tolerance = 1e-9 if name != "procrustes" else 1e-6  # its rotation is float32
            assert result.curve(measured[name])[share] == pytest.approx(ap.mean(), abs=tolerance)
            assert result.curve(measured[name], "nDCG@10")[share] == pytest.approx(
                ndcg.mean(), abs=tolerance
            )
            assert result.flips(measured[name])[share] == (was_right & ~right_now).mean()
    costs = {name: measured[name].costs for name in measured}
    told = {n: (c.encodings, c.searches, c.bytes_per_item, c.fit_pairs) for n, c in costs.items()}
    assert told[COLD] == (1, 1, 4 * (OLD + NEW), 0)
    assert told["procrustes"] == (1, 1, 4 * NEW, 150)
    assert told["rank_merge"] == (2, 2, 4 * NEW, 0)
    assert told["reciprocal_rank_fusion"] == (2, 2, 4 * NEW, 0)
    assert told["cascade"] == (2, 2, 4 * NEW, 0)
    assert {name: cost.purchases for name, cost in costs.items() if cost.purchases} == {
        "cascade": 100
    }
    dearest = result.table().rows[-1]
    heads = [column.name for column in result.table().columns]
    assert dearest[0].value == "cascade"
    assert dearest[heads.index("items embedded per query")].value == 100


def test_every_method_without_training_is_a_bridge_or_says_why_not(system, tmp_path):
    result = bench.evaluate_upgrade(**files(tmp_path), shares=3, pairs=64)
    told = {bridge.name for bridge in result.found.bridges} | set(result.found.left_out)
    assert told == {COLD, NAIVE, *names()}
    assert "differ in dimension" in result.found.left_out[NAIVE]
    assert "classes of the pairs" in result.found.left_out["fastfill"]
    assert (
        "embeddings of one width, but they have 12 and 20" in result.found.left_out["query_drift"]
    )
    alone = bench.evaluate_upgrade(**files(tmp_path, queries_old=None), shares=3, pairs=64)
    assert "old embeddings" in alone.found.left_out["rank_merge"]


def test_the_cold_switch_is_the_old_system_until_the_end(system, tmp_path):
    result = bench.evaluate_upgrade(**files(tmp_path), shares=4, bridges=["rank_merge"])
    cold, merged = result.found.bridges
    before = result.found.sampling.mean(result.found.old["AP"])
    np.testing.assert_allclose(result.curve(cold)[:-1], before)
    np.testing.assert_allclose(result.curve(merged)[[0, -1]], result.curve(cold)[[0, -1]])
    assert result.flips(cold)[:-1].max() == 0


def invoke(folder, *more, **changes):
    app = typer.Typer()
    app.command()(command)
    options = []
    for name, path in files(folder, **changes).items():
        options += [f"--{name.replace('_', '-')}", path] if path is not None else []
    fixed = ["--shares", 4, "--bridges", "rank_merge,procrustes"]
    return CliRunner().invoke(app, [str(part) for part in (*options, *fixed, *more)])


def test_the_verdict_decides_the_exit_status(system, tmp_path):
    html, found = tmp_path / "o" / "f.html", tmp_path / "o" / "f.json"
    generous = invoke(tmp_path, "--max-nfr", 1, "--min-gain", -1, "--html", html, "--json", found)
    assert generous.exit_code == 0, generous.output
    assert "go: procrustes" in generous.output  # it encodes once and searches once
    content = json.loads(found.read_text())
    assert content["verdict"]["cheapest"] == "procrustes"
    assert "<svg" in html.read_text()
    assert "src=" not in html.read_text()
    strict = invoke(tmp_path, "--min-gain", 0.95)
    assert strict.exit_code == NO_GO
    assert "required ≥ 0.95: fail" in strict.output


def test_outputs_never_replace_inputs(system, tmp_path):
    before = (tmp_path / "truth.csv").read_bytes()
    refused = invoke(tmp_path, "--json", tmp_path / "truth.csv")
    assert "is an input" in str(refused.exception)
    assert (tmp_path / "truth.csv").read_bytes() == before


def test_without_relevance_agreement_is_told_and_not_quality(system, tmp_path):
    result = bench.evaluate_upgrade(
        **files(tmp_path, relevance=None), shares=3, bridges=["rank_merge"]
    )
    told = result.found.bridges[0].agreement
    assert (told.overlap_old[0], told.overlap_final[-1], told.first_changed[0]) == (1, 1, 0)
    assert 0 < told.overlap_final[0] < 1
    assert "not their quality" in result.table().caption
    with pytest.raises(BenchError, match="agreement is known, not quality"):
        result.verdict(bench.Limits(nfr=0.1))
    assert "<svg" in result.page()


def test_answers_are_those_of_a_full_ranking(system):
    arrays, _ = system
    query, gallery = arrays["queries_new"], arrays["gallery_new"]
    scores = unit(query.astype(float)) @ unit(gallery.astype(float)).T
    found = best_answers([(query, gallery)], [np.zeros(SIZE, bool)], 10)
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :10])


def test_answers_that_are_bought_stand_before_those_that_are_not(system, tmp_path):
    arrays, _ = system
    old, new, go, gn = (
        unit(arrays[name].astype(float))
        for name in ("queries_old", "queries_new", "gallery_old", "gallery_new")
    )
    (bridge,) = make_bridges(
        *(arrays[f"{part}"] for part in ("queries_old", "gallery_old", "queries_new")),
        arrays["gallery_new"],
        (arrays["gallery_old"], arrays["gallery_new"]),
        0,
        ["cascade"],
    )
    bridge = replace(bridge, costs=replace(bridge.costs, purchases=4))
    moved = np.arange(SIZE) < 3  # 4 bought and 3 backfilled items, then old ones
    found = bridge_answers(bridge, moved, 10)
    waiting = np.argsort(np.where(moved, 9, -(old @ go.T)), axis=1)
    for query in range(QUERIES):
        scored = [*range(3), *waiting[query, :4].tolist()]
        scored.sort(key=lambda row: -(new[query] @ gn[row]))
        assert found[query].tolist() == [*scored, *waiting[query, 4:7].tolist()]


def test_answers_of_merged_searches_are_those_of_the_merged_ranking(system):
    arrays, _ = system
    (bridge,) = make_bridges(
        *(arrays[f"{part}"] for part in ("queries_old", "gallery_old", "queries_new")),
        arrays["gallery_new"],
        (arrays["gallery_old"], arrays["gallery_new"]),
        0,
        ["reciprocal_rank_fusion"],
    )
    moved = np.arange(SIZE) < 150
    found = bridge_answers(bridge, moved, 6, np.arange(3, 9))
    old, new = (
        unit(arrays[f"queries_{age}"].astype(float))
        @ unit(arrays[f"gallery_{age}"].astype(float)).T
        for age in ("old", "new")
    )
    for row, query in enumerate(range(3, 9)):
        first_old = 150 + np.argsort(-old[query, 150:])[:3]
        first_new = np.argsort(-new[query, :150])[:3]
        pairs = zip(first_old, first_new, strict=True)
        assert found[row].tolist() == [item for pair in pairs for item in sorted(pair)]


def test_rank_biased_overlap_by_hand():
    lists = np.array([[1, 2, 3], [1, 2, 3]])
    other = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(rank_biased_overlap(lists, other), [1, 0])
    # X = 0, 2: common to the first d; 2/2·.81 + .1/.9·(0 + 2/2·.81)
    swapped = rank_biased_overlap(np.array([[1, 2]]), np.array([[2, 1]]))
    assert swapped[0] == pytest.approx(0.81 + 0.1 / 0.9 * 0.81)


def test_no_flip_among_ten_queries_passes_no_strict_limit():
    few = Sampling(np.arange(10), np.ones(10)).largest_rate(np.zeros((3, 10)))
    assert few.high == pytest.approx(0.3085, abs=1e-4)  # Clopper and Pearson, 0 of 10
    alone = Sampling(np.full(10, 7), np.ones(10)).largest_rate(np.zeros((1, 10)))
    assert alone.high == pytest.approx(0.975)  # one group is one query


def test_means_of_identical_values_are_bounded_by_how_many_they_are():
    generator = np.random.default_rng(0)
    ten, many = (Sampling(np.arange(n), np.ones(n)) for n in (10, 1000))
    found = [each.lowest(np.ones((2, each.groups)), generator) for each in (ten, many)]
    assert [bound.low for bound in found] == pytest.approx([1 - 0.3085, 0.9963], abs=1e-4)
    none = ten.lowest(np.zeros((1, 10)), generator, least=-1)
    assert none.low == pytest.approx(-none.high)
    assert none.high > 0.5


def test_no_bound_of_a_rate_is_one_that_no_rate_can_have():
    values = np.zeros((1, 12))
    values[0, :2] = 0.4, 0.6
    few = Sampling(np.repeat(np.arange(3), 4), np.ones(12))
    for found, estimate in ((values, 1 / 12), (1 - values, 11 / 12)):
        bound = few.lowest(found, np.random.default_rng(0))
        assert bound.estimate == pytest.approx(estimate)
        assert 0 <= bound.low < estimate < bound.high <= 1


def test_the_lowest_mean_is_that_of_weights_and_groups():
    random = np.random.default_rng(4)
    values, weight = random.random((3, 60)), random.random(60)
    sampling = Sampling(np.repeat([5, 3, 8, 1], 15), weight)
    found = sampling.lowest(values, random)
    assert found.estimate == pytest.approx(np.average(values, axis=1, weights=weight).min())
    assert found.low < found.estimate < found.high
    apart = Sampling(np.arange(60), weight).lowest(values, random)
    assert found.high - found.low != pytest.approx(apart.high - apart.low, rel=0.01)


def test_weights_are_traffic(system, tmp_path):
    weights = np.random.default_rng(3).random(QUERIES)
    lines = ["query,weight", *(f"{q},{weight}" for q, weight in enumerate(weights))]
    (tmp_path / "w.csv").write_text("\n".join(lines))
    options = {"shares": 3, "bridges": ["rank_merge"]}
    plain = bench.evaluate_upgrade(**files(tmp_path), **options)
    weighed = bench.evaluate_upgrade(**files(tmp_path), **options, weights=tmp_path / "w.csv")
    values = plain.found.bridges[1].values["AP"]
    np.testing.assert_allclose(
        weighed.curve(weighed.found.bridges[1]), np.average(values, axis=1, weights=weights)
    )


def test_slices_tell_who_is_worse_off(system, tmp_path):
    lines = ["query,group", *(f"{q},{'even' if q % 2 == 0 else '<b>odd'}" for q in range(QUERIES))]
    (tmp_path / "g.csv").write_text("\n".join(lines))
    result = bench.evaluate_upgrade(
        **files(tmp_path), shares=3, bridges=["rank_merge"], groups=tmp_path / "g.csv"
    )
    rows = [[cell.value for cell in row] for row in result.by_slice().rows]
    values = result.found.bridges[1].values["AP"][:, ::2].mean(1).min()
    assert rows[-1][:3] == ["even", "rank_merge", QUERIES / 2]
    assert rows[-1][3] == pytest.approx(values)
    assert "<b>" not in result.page()
    assert "&lt;b&gt;odd" in result.page()
    each = result.verdict(bench.Limits(nfr=1, each_slice=True)).bridges[0].checks
    assert len(each) == 3


def test_queries_that_are_items_are_refused_or_dropped(system, tmp_path):
    arrays, _ = system
    for side in ("old", "new"):
        gallery = arrays[f"gallery_{side}"]
        np.save(tmp_path / f"queries_{side}.npy", gallery)
    (tmp_path / "truth.csv").write_text("query,item\n0,1\n1,0\n")
    with pytest.raises(BenchError, match="400 queries .* are items .*--drop-self"):
        bench.evaluate_upgrade(**files(tmp_path), shares=2, bridges=["rank_merge"])
    result = bench.evaluate_upgrade(
        **files(tmp_path), shares=2, bridges=["rank_merge"], drop_self=True
    )
    scores = unit(arrays["gallery_new"].astype(float)) @ unit(arrays["gallery_new"].astype(float)).T
    expected = 1 / (scores[0] > scores[0, 1]).sum()  # rank among all, less the query itself
    assert result.found.bridges[1].values["AP"][-1, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shares": 10**9}, "--shares 1000000000; expected 2 to 1001"),
        ({"seed": -1}, "--seed -1"),
        ({"index_parameters": "nprobe=2"}, "--index-parameters are for an index"),
        ({"metric": "map"}, "unknown metric 'map'"),
        ({"bridges": ["procrustse"]}, "did you mean 'procrustes'"),
        ({"order": "margin-prototypes"}, "needs train (old|labels)"),
        ({"order": "sideways"}, "neither a file nor a backfill order"),
        (
            {"order": "random", "centres": "c.npy", "relevance": None, "index": "Flat"},
            "--relevance",
        ),
        ({"order": "o.txt", "centres": "c.npy"}, "--centres are for an order by prototypes"),
        ({"price_per_hour": 3}, "--items-per-second"),
        ({"items_per_second": float("inf")}, "expected a finite one"),
    ],
)
def test_options_that_make_no_sense_are_refused(system, tmp_path, options, words):
    with pytest.raises(BenchError, match=words):
        bench.evaluate_upgrade(**{**files(tmp_path), "shares": 2, **options})


def test_centres_give_orders_by_prototypes(system, tmp_path):
    arrays, _ = system
    result = bench.evaluate_upgrade(
        **files(tmp_path),
        shares=2,
        bridges=["rank_merge"],
        order="centre-distance",
        centres=arrays["gallery_old"][:8],
    )
    assert result.found.order == "centre-distance"


def test_prices_turn_shares_into_hours_and_money(system, tmp_path):
    result = bench.evaluate_upgrade(
        **files(tmp_path),
        shares=3,
        bridges=["rank_merge"],
        items_per_second=SIZE / 7200,
        price_per_hour=3,
    )
    assert any("400 items, 2.00 h, 6.00 in money" in note for note in result.table().notes)


def test_limits_that_cannot_be_told_are_refused(system, tmp_path):
    alone = bench.evaluate_upgrade(
        **files(tmp_path, queries_old=None), shares=2, bridges=["procrustes"]
    )
    with pytest.raises(BenchError, match="--queries-old"):
        alone.verdict(bench.Limits(nfr=0.1))
    with pytest.raises(BenchError, match="no nDCG@10 was evaluated"):
        alone.verdict(bench.Limits(least={"nDCG@10": 0.1}))
    assert alone.verdict(bench.Limits(least={"AP": 0.0})).go
    with pytest.raises(BenchError, match="not a finite number"):
        bench.Limits(gain=float("nan"))
    with pytest.raises(BenchError, match="need a served index"):
        alone.verdict(bench.Limits(recall=0.9))


@pytest.mark.parametrize("labels", [True, False])
def test_queries_that_are_some_items_are_found_without_ids(system, tmp_path, labels):
    arrays, _ = system
    chosen = np.random.default_rng(5).permutation(SIZE)[:QUERIES]
    for side in ("old", "new"):
        noise = 1 + 1e-7 * np.arange(NEW if side == "new" else OLD)  # as another batch would give
        np.save(tmp_path / f"queries_{side}.npy", arrays[f"gallery_{side}"][chosen] * noise)
    others = {int(row): (int(row) + 1) % SIZE for row in chosen}
    lines = [f"{query},{others[int(row)]}" for query, row in enumerate(chosen)]
    (tmp_path / "truth.csv").write_text("query,item\n" + "\n".join(lines))
    options = {"shares": 2, "bridges": ["rank_merge"]}
    options |= {} if labels else {"relevance": None}
    with pytest.raises(BenchError, match=f"{QUERIES} queries .* are items .*--drop-self"):
        bench.evaluate_upgrade(**{**files(tmp_path), **options})
    result = bench.evaluate_upgrade(**{**files(tmp_path), **options}, drop_self=True)
    if labels:
        scores = unit(arrays["gallery_new"].astype(float))
        scores = scores[chosen] @ scores.T
        better = (scores > scores[range(QUERIES), (chosen + 1) % SIZE][:, None]).sum(1)
        np.testing.assert_allclose(result.found.bridges[1].values["AP"][-1], 1 / better)
        return
    old, new = (unit(arrays[f"gallery_{side}"].astype(float)) for side in ("old", "new"))
    lists = []
    for rows in (old, new):
        scores = rows[chosen] @ rows.T
        scores[range(QUERIES), chosen] = -9
        lists.append(np.argsort(-scores, axis=1)[:, :10])
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)]
    told = result.found.bridges[0].agreement
    assert told.overlap_final[0] == pytest.approx(np.mean(shared))
    assert told.first_changed[-1] == (lists[0][:, 0] != lists[1][:, 0]).mean()


def test_no_bridge_is_fitted_on_a_query(system, tmp_path):
    arrays, _ = system
    asked = {f"queries_{side}": arrays[f"gallery_{side}"][:QUERIES] for side in ("old", "new")}
    options = {"shares": 2, "bridges": ["procrustes"], "drop_self": True, "pairs": SIZE}
    result = bench.evaluate_upgrade(**{**files(tmp_path), **asked}, **options)
    assert result.found.bridges[1].costs.fit_pairs == SIZE - QUERIES
    given = {f"pairs_{side}": arrays[f"gallery_{side}"][30:90] for side in ("old", "new")}
    with pytest.raises(BenchError, match="10 of the pairs are queries, such as '30'"):
        bench.evaluate_upgrade(**{**files(tmp_path), **asked}, **options, **given)


def test_the_page_shows_texts_and_pictures(system, tmp_path):
    from PIL import Image

    Image.new("RGB", (30, 20), "red").save(tmp_path / "p.png")
    (tmp_path / "q.csv").write_text(
        "id,text\n" + "\n".join(f"{q},asked <{q}>" for q in range(QUERIES))
    )
    lines = [f"{i},p.png,text {i}\x1b[2J" for i in range(SIZE)]
    (tmp_path / "i.csv").write_text("\n".join(["id,picture,text", *lines]))
    options = {"shares": 3, "bridges": ["procrustes"], "pairs": 40}
    tables = {"query_table": tmp_path / "q.csv", "item_table": tmp_path / "i.csv"}
    result = bench.evaluate_upgrade(**files(tmp_path), **options, **tables)
    (example, *_) = result.found.examples["procrustes"]
    page = result.page()
    assert f"asked &lt;{example.query}&gt;" in page
    assert f"text {example.refreshed[0][0]}\\x1b[2J</span>" in page
    assert "data:image/png;base64," in page
    assert "no picture" not in page
    (tmp_path / "p.png").write_bytes(b"no picture at all")
    assert "(no picture: " in result.page()
    (tmp_path / "q.csv").write_text("id,txt\n0,a\n")
    with pytest.raises(BenchError, match="has a column 'txt'"):
        bench.evaluate_upgrade(**files(tmp_path), **options, **tables)
    (tmp_path / "q.csv").write_text("id,text\nzz,a\n")
    with pytest.raises(BenchError, match="knows no id of .*such as '0'"):
        bench.evaluate_upgrade(**files(tmp_path), **options, **tables)


def test_weights_must_reach_a_judged_query(system, tmp_path):
    (tmp_path / "truth.csv").write_text("query,item\n0,1\n")
    lines = [f"{q},{0 if q == 0 else 1}" for q in range(QUERIES)]
    (tmp_path / "w.csv").write_text("\n".join(["query,weight", *lines]))
    with pytest.raises(BenchError, match="none of the queries that have a relevant item"):
        bench.evaluate_upgrade(**files(tmp_path), shares=2, weights=tmp_path / "w.csv")


@pytest.mark.parametrize("outputs", [("a.ids.txt", None), ("folder/x.parquet", None), ("a", "a")])
def test_no_output_replaces_an_input_a_file_beside_it_or_the_other_output(tmp_path, outputs):
    from bench.cli.outputs import check_outputs

    (tmp_path / "folder").mkdir()
    (tmp_path / "link.npy").symlink_to(tmp_path / "a.npy")
    for name in ("a.npy", "a.ids.txt", "folder/x.parquet"):
        (tmp_path / name).touch()
    inputs = [tmp_path / "a.npy", tmp_path / "folder", None]
    chosen = tuple(None if name is None else tmp_path / name for name in outputs)
    with pytest.raises(BenchError, match="is an input or another output"):
        check_outputs(chosen, inputs)
    with pytest.raises(BenchError, match="is an input"):
        check_outputs((tmp_path / "link.npy",), inputs)
    with pytest.raises(BenchError, match="is a folder"):
        check_outputs((tmp_path,), inputs)
    check_outputs((tmp_path / "new.json", tmp_path / "new.html"), inputs)
