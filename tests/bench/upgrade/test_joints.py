"""From the command line to the evaluation, and from an interval to a decision."""

import inspect
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import bench
from bench.analysis.limits import Bound
from bench.cli.commands import app
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.upgrade import bridges, inputs, judge
from bench.upgrade.bridges import COLD, NAIVE


class SeenError(BenchError):
    """The evaluation was reached."""


# Every option that is handed on, away from its default.
GIVEN = {
    "queries_new": Path("qn.npy"),
    "gallery_old": Path("go.npy"),
    "gallery_new": Path("gn.npy"),
    "relevance": Path("truth.csv"),
    "queries_old": Path("qo.npy"),
    "pairs_old": Path("po.npy"),
    "pairs_new": Path("pn.npy"),
    "pairs": 7,
    "bridges": ["procrustes", "rank_merge"],
    "order": "mine.txt",
    "centres": Path("centres.npy"),
    "shares": 9,
    "metric": "AP@10",
    "groups": Path("groups.csv"),
    "weights": Path("weights.csv"),
    "drop_self": True,
    "query_table": Path("questions.csv"),
    "item_table": Path("items.csv"),
    "id_column": "name",
    "index": "HNSW32",
    "index_parameters": "efSearch=64",
    "items_per_second": 11.0,
    "price_per_hour": 3.5,
    "seed": 5,
}
LIMITS = {
    "--max-nfr": ("nfr", 0.03),
    "--min-gain": ("gain", 0.02),
    "--min-recall": ("recall", 0.9),
    "--max-p99-ms": ("p99_ms", 4.0),
}


def words(name, value):
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    return [option, ",".join(value) if isinstance(value, list) else str(value)]


def test_every_option_reaches_the_evaluation(monkeypatch):
    calls, original = [], inputs.evaluate_upgrade

    def spy(*arguments, **options):
        calls.append(inspect.signature(original).bind(*arguments, **options).arguments)
        raise SeenError("seen")

    monkeypatch.setattr(inputs, "evaluate_upgrade", spy)
    options = [part for name, value in GIVEN.items() for part in words(name, value)]
    done = CliRunner().invoke(app, ["evaluate", *options, "--min-metric", "nDCG@5=0.4"])
    assert isinstance(done.exception, SeenError), done.output
    (arguments,) = calls
    assert arguments["further"] == ("nDCG@5",)
    handed_on = set(inspect.signature(original).parameters) - {"further", "report"}
    assert handed_on == set(GIVEN)
    assert callable(arguments["report"])
    for name, value in GIVEN.items():
        default = inspect.signature(original).parameters[name].default
        assert arguments[name] == value != default, name


@pytest.mark.parametrize("option", LIMITS)
def test_every_limit_reaches_the_verdict(monkeypatch, option):
    asked = []

    class Result:
        def verdict(self, limits):
            asked.append(limits)
            raise SeenError("seen")

    monkeypatch.setattr(inputs, "evaluate_upgrade", lambda *_, **__: Result())
    name, value = LIMITS[option]
    files = [
        part
        for each in ("queries_new", "gallery_old", "gallery_new")
        for part in words(each, GIVEN[each])
    ]
    done = CliRunner().invoke(app, ["evaluate", *files, option, str(value), "--each-slice"])
    assert isinstance(done.exception, SeenError), done.output
    assert asked == [judge.Limits(**{name: value}, each_slice=True)]


@pytest.mark.parametrize(
    ("given", "measured", "state"),
    [
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1, 0.05, 0.2)}, "pass"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1, 0.05, 0.21)}, "undecided"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.3, 0.21, 0.4)}, "fail"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1)}, "undecided"),
        ({"gain": 0.2}, {"gain": Bound(0.3, 0.2, 0.4)}, "pass"),
        ({"gain": 0.2}, {"gain": Bound(0.3, 0.19, 0.4)}, "undecided"),
        ({"gain": 0.2}, {"gain": Bound(0.1, 0.05, 0.19)}, "fail"),
        ({"least": {"AP": 0.2}}, {"AP": Bound(0.3, 0.2, 0.4)}, "pass"),
        ({"least": {"AP": 0.2}}, {"AP": Bound(0.3, 0.1, 0.4)}, "undecided"),
    ],
)
def test_each_limit_is_held_against_its_own_interval(monkeypatch, given, measured, state):
    others = {"NFR@1": Bound.exact(9), "gain": Bound.exact(-9), "AP": Bound.exact(-9)}
    monkeypatch.setattr(judge, "bounds", lambda *_: others | measured)
    found = SimpleNamespace(metric="AP")
    checks = judge._part(found, None, judge.Limits(**given), None, "slice 'x': ", None)
    assert [check.state for check in checks] == [state]
    assert checks[0].words.startswith("slice 'x': ")


# ------------------------------------------------- from vectors, traffic and slices to the verdict

QUERIES, ITEMS, SHARES = 24, 90, (0, 0.5, 1)
UNJUDGED = (0, 7)  # queries without a right answer: what is of the others is not at their places


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory):
    """An upgrade whose queries differ in traffic and slice, and what it has to say, query by query.

    The mixed galleries are searched one by one, in float64 and in the order of a file.
    """
    folder, rng = tmp_path_factory.mktemp("upgrade"), np.random.default_rng(8)
    classes, asked = rng.integers(0, 6, ITEMS), rng.integers(0, 6, QUERIES)
    centres = rng.normal(size=(6, 10))
    arrays = {}
    for side, noise in (("old", 1.6), ("new", 1.1)):
        turn = np.linalg.qr(rng.normal(size=(10, 10)))[0] if side == "new" else np.eye(10)
        turn = np.eye(10) + 0.6 * (turn - np.eye(10))
        for name, of in (("queries", asked), ("gallery", classes)):
            drawn = (centres[of] + noise * rng.normal(size=(len(of), 10))) @ turn
            arrays[f"{name}_{side}"] = drawn.astype(np.float32)
    right = (classes[None] == asked[:, None]) & ~np.isin(np.arange(QUERIES), UNJUDGED)[:, None]
    order, traffic = rng.permutation(ITEMS), rng.random(QUERIES)
    slices = np.array(["a", "b", "c"])[rng.integers(0, 3, QUERIES)]
    (folder / "order.txt").write_text("\n".join(map(str, order)))
    for name, column, values in (("w", "weight", traffic), ("g", "group", slices)):
        lines = [f"query,{column}", *(f"{q},{value}" for q, value in enumerate(values))]
        (folder / f"{name}.csv").write_text("\n".join(lines))
    query, item = np.nonzero(right)
    truth = Relevance.from_judgements(query, item, np.ones(len(query)), QUERIES, ITEMS)
    result = bench.evaluate_upgrade(
        **{name: arrays[name] for name in ("queries_new", "gallery_old", "gallery_new")},
        queries_old=arrays["queries_old"],
        relevance=truth,
        shares=len(SHARES),
        order=str(folder / "order.txt"),
        weights=folder / "w.csv",
        groups=folder / "g.csv",
        bridges=["rank_merge", NAIVE],
    )
    judged = np.setdiff1d(np.arange(QUERIES), UNJUDGED)
    unit = {
        name: rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for name, rows in ((name, rows.astype(float)) for name, rows in arrays.items())
    }
    old, crossed, new = (
        unit[one] @ unit[other].T
        for one, other in (
            ("queries_old", "gallery_old"),
            ("queries_new", "gallery_old"),
            ("queries_new", "gallery_new"),
        )
    )
    naive = {"old": scored(old[judged], right[judged])}
    for name, before in ((NAIVE, crossed), ("rank_merge", old)):
        points = []
        for share in SHARES:
            moved = np.isin(np.arange(ITEMS), order[: int(share * ITEMS + 0.5)])
            points.append(scored(np.where(moved, new, before)[judged], right[judged]))
        naive[name] = tuple(np.array(part) for part in zip(*points, strict=True))
    ends = [scored(part[judged], right[judged]) for part in (old, old, new)]
    naive[COLD] = tuple(np.array(part) for part in zip(*ends, strict=True))
    world = SimpleNamespace(
        judged=judged, traffic=traffic[judged], slices=slices[judged], right=right, old=old, new=new
    )
    return result, naive, world


def scored(scores, right):
    """AP, success@1 and success@5 of every query."""
    ap, first, five = [], [], []
    for row, relevant in zip(scores, right, strict=True):
        hits = relevant[np.argsort(-row, kind="stable")]
        places = np.flatnonzero(hits) + 1
        ap.append(np.mean(np.arange(1, len(places) + 1) / places))
        first.append(hits[0])
        five.append(hits[:5].any())
    return np.array(ap), np.array(first), np.array(five)


def test_curves_flips_and_gains_are_of_the_judged_queries_by_their_traffic(upgrade):
    result, naive, world = upgrade
    told = result.json()

    def mean(values):
        return np.average(values, axis=-1, weights=world.traffic)

    assert told["queries_evaluated"] == len(world.judged)
    assert told["old_system"]["AP"] == pytest.approx(mean(naive["old"][0]))
    assert set(told["bridges"]) == {NAIVE, "rank_merge", COLD}
    for name, entry in told["bridges"].items():
        ap, first, five = naive[name]
        assert entry["metrics"]["AP"] == pytest.approx(mean(ap))
        flips = [mean(naive["old"][k] & ~now) for k, now in ((1, first), (2, five))]
        assert entry["NFR@1"] == pytest.approx(flips[0])
        assert entry["NFR@5"] == pytest.approx(flips[1])
        assert flips[0].tolist() != flips[1].tolist()
        bounds = entry["intervals"]
        assert bounds["NFR@1"]["estimate"] == pytest.approx(flips[0].max())
        assert bounds["gain"]["estimate"] == pytest.approx(mean(ap[-1]) - mean(naive["old"][0]))
        assert bounds["AP"]["estimate"] == pytest.approx(mean(ap).min())
        wrong = {
            str(world.judged[q]): [SHARES[s] for s in np.flatnonzero(lost)]
            for q, lost in enumerate((naive["old"][1] & ~first).T)
            if lost.any()
        }
        found = {each["query"]: each["wrong_at_shares"] for each in entry["flipped_queries"]}
        assert found == wrong


def test_each_slice_is_of_its_own_queries(upgrade):
    result, naive, world = upgrade
    heads = [column.name for column in result.by_slice().columns]
    assert heads == ["slice", "bridge", "queries", "lowest mAP", "worst NFR@1"]
    seen = set()
    for row in result.by_slice().rows:
        name, bridge, *numbers = (cell.value for cell in row)
        own = world.slices == name
        ap, first, _ = naive[bridge]
        weights = world.traffic[own]
        lowest = np.average(ap[:, own], axis=1, weights=weights).min()
        lost = (naive["old"][1] & ~first)[:, own]
        worst = np.average(lost, axis=1, weights=weights).max()
        assert numbers == pytest.approx([own.sum(), lowest, worst])
        seen.add((name, bridge))
    assert len(seen) == 3 * 3


def test_costs_stand_in_their_own_columns_and_the_cheapest_is_named(upgrade):
    result, _, _ = upgrade
    frame = result.table().frame().set_index("bridge")
    columns = {
        "encodings per query": "encodings",
        "items embedded per query": "purchases",
        "searches per query": "searches",
        "bytes per item": "bytes_per_item",
        "pairs to fit": "fit_pairs",
        "s to fit": "fit_seconds",
        "search ms": "milliseconds",
    }
    for bridge in result.found.bridges:
        costs = asdict(bridge.costs)
        for column, name in columns.items():
            assert frame.loc[bridge.name, column] == costs[name], column
    decided = result.verdict(judge.Limits(nfr=1))
    assert [each.bridge for each in decided.bridges] == [NAIVE, "rank_merge", COLD]
    assert decided.cheapest == NAIVE


def test_cuts_are_of_the_scale_that_they_are_said_to_be_of(upgrade):
    result, _, world = upgrade
    for side, cosines in (("old", world.old), ("new", world.new)):
        found = result.found.thresholds[f"median_relevant_{side}"]
        assert found == pytest.approx(np.median(cosines[world.right]), abs=1e-6)
    assert world.old[world.right].mean() != pytest.approx(world.new[world.right].mean(), abs=0.01)


def test_a_served_index_is_judged_by_what_it_answers(upgrade):
    result, naive, world = upgrade
    bridge = next(each for each in result.found.bridges if each.name == NAIVE)
    ap, first, _ = naive["rank_merge"]  # another system's answers, in the place of the index's
    served = SimpleNamespace(values=ap, success=first[:, None], old_values=None)
    known = judge.bounds(result.found, bridge, served)
    lost = np.average(naive["old"][1] & ~first, axis=1, weights=world.traffic)
    assert known["NFR@1"].estimate == pytest.approx(lost.max())
    lowest = np.average(ap, axis=1, weights=world.traffic).min()
    assert known["AP"].estimate == pytest.approx(lowest)
    assert known["NFR@1"].estimate != judge.bounds(result.found, bridge)["NFR@1"].estimate


def test_agreement_is_with_the_answers_at_the_end_and_with_the_old_ones():
    rng = np.random.default_rng(1)
    arrays = {
        f"{name}_{side}": rng.normal(size=(count, 8)).astype(np.float32)
        for name, count in (("queries", 9), ("gallery", 60))
        for side in ("old", "new")
    }
    found = bench.evaluate_upgrade(**arrays, shares=3, bridges=[NAIVE]).found
    (told,) = (each.agreement for each in found.bridges)

    def answers(query, gallery):
        unit = arrays[gallery] / np.linalg.norm(arrays[gallery], axis=1, keepdims=True)
        return np.argsort(-(arrays[query] @ unit.T), axis=1)[:, : told.depth]

    def common(one, other):
        return np.mean([len({*a} & {*b}) / len(a) for a, b in zip(one, other, strict=True)])

    first, last, old = (
        answers(*pair)
        for pair in (
            ("queries_new", "gallery_old"),
            ("queries_new", "gallery_new"),
            ("queries_old", "gallery_old"),
        )
    )
    assert told.overlap_final[[0, -1]] == pytest.approx([common(first, last), 1])
    assert told.overlap_old[[0, -1]] == pytest.approx([common(first, old), common(last, old)])
    assert told.first_changed[-1] == pytest.approx((last[:, 0] != old[:, 0]).mean())


def test_every_bridge_is_fitted_with_random_numbers_of_its_own_and_of_the_seed(monkeypatch):
    seen = []

    def refuse(method, old, new, seed):
        seen.append(seed)
        raise bridges.UnavailableEmbeddingError("seen")

    monkeypatch.setattr(bridges, "_fit", refuse)
    rows = np.eye(4, dtype=np.float32)
    names = ["procrustes", "mlp_adapter"]
    for seed in (0, 1, 0):
        assert list(bridges.make_bridges(None, rows, rows, rows, (rows, rows), seed, names)) == [
            (name, "seen") for name in names
        ]
    assert seen[:2] == seen[4:]
    assert len({*seen}) == 4
