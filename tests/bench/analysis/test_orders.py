"""Orders compared with the first one: pairs, groups, tests and warnings, against naive recounts."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from bench.analysis import cells, stats
from bench.analysis.orders import QUANTITIES, compare_orders
from bench.evaluation import metrics, records
from tests.bench.made_up import metadata

SHARES = np.linspace(0, 1, 5)
KEYS = [each.key for each in QUANTITIES]


def rows(generator, method, seed, order, groups, better=0.0):
    """Rows of one cell in one order: the old system is the same in every order of a cell."""
    ids = np.array([f"q{number}" for number in range(len(groups))])
    fixed = np.random.default_rng([seed, *map(ord, method)])
    old, right = fixed.uniform(0.1, 0.2, (1, len(ids))), fixed.random((1, 2, len(ids))) < 0.8
    first, last = fixed.uniform(0.1, 0.3, len(ids)), fixed.uniform(0.7, 0.9, len(ids))
    ap = np.linspace(first, last, 5) + generator.uniform(-0.05, 0.05, (5, len(ids)))
    ap[0], ap[-1] = first, last
    ap[1:-1] += better
    success = generator.random((5, 2, len(ids))) < 0.6 + better
    frames = [
        records.frame(ids, np.array([np.nan]), old, right, "old", groups=groups),
        records.frame(ids, SHARES, ap, success, "refreshed", order, groups),
    ]
    place = {"dataset": "d", "scenario": "c", "method": method, "seed": seed}
    return pd.concat(frames, ignore_index=True).assign(**place)


def suite(orders, methods=("ract",), seeds=(0,), groups=tuple("aabbbccd"), better=None, **note):
    """Rows by order and notes of a made-up suite; `better` by (method, order)."""
    better, generator = better or {}, np.random.default_rng(5)
    read = {
        order: pd.concat(
            [
                rows(generator, method, seed, order, groups, better.get((method, order), 0.0))
                for method, seed in product(methods, seeds)
            ],
            ignore_index=True,
        )
        for order in orders
    }
    notes = [
        metadata(method=method, seed=seed, **{"queries_in_gallery": 0, **note})
        for method, seed in product(methods, seeds)
    ]
    return read, notes


def line(comparison, method, order):
    (found,) = [each for each in comparison.lines if (each.method, each.order) == (method, order)]
    return found


def scalars(read, order, method, seed):
    """A cell's numbers as all other tables have them."""
    found = read[order]
    cell = cells.arrays(found[(found["method"] == method) & (found["seed"] == seed)])
    numbers, curve = cells.scalars(cell), cells.curve(cell)["mAP"]
    share = metrics.cost_to_gain(cell.shares, curve, numbers["M_old_old"])
    return np.array([numbers["AUC_mAP"], numbers["AUC_NFR_at_1"], share])


def test_every_line_has_the_numbers_of_its_own_cells():
    methods, orders = ("bct", "ract"), ("random", "margin-old-head", "centre-distance")
    read, notes = suite(orders, methods, seeds=(3, 8))
    (found,) = compare_orders(read, notes)
    assert (found.reference, found.queries, found.groups, found.seeds) == ("random", 8, 4, 2)
    for method, order in product(methods, orders):
        own, first = (
            np.mean([scalars(read, name, method, seed) for seed in (3, 8)], axis=0)
            for name in (order, "random")
        )
        for key, value, reference in zip(KEYS, own, first, strict=True):
            change = line(found, method, order).changes[key]
            assert change.value == pytest.approx(value)
            if order == "random":
                assert np.isnan([change.difference, change.low, change.p]).all()
            elif not np.isnan(change.difference):
                assert change.difference == pytest.approx(value - reference)
                assert change.low <= change.difference <= change.high


def test_p_values_are_those_of_exchanging_whole_groups_in_every_way():
    """Five groups can be exchanged in 32 ways: every one is recounted query by query."""
    groups = tuple("aabbbccdde")
    read, notes = suite(("random", "margin-old-head"), seeds=(0, 1), groups=groups)
    (found,) = compare_orders(read, notes)
    laid = {
        order: [cells.arrays(read[order][read[order]["seed"] == seed]) for seed in (0, 1)]
        for order in read
    }

    def difference(swapped):
        totals = []
        for one, other in zip(laid["margin-old-head"], laid["random"], strict=True):
            swap = np.isin(one.groups, swapped)
            pair = []
            for first, second in ((one, other), (other, one)):
                ap = np.where(swap, second.ap, first.ap)
                right = np.where(swap, second.success[1], first.success[1])
                flips = metrics.negative_flip_rate(one.old_success[1], right)
                pair.append(
                    [
                        metrics.area(SHARES, ap.mean(1)),
                        metrics.area(SHARES, flips),
                        metrics.cost_to_gain(SHARES, ap.mean(1), one.old_ap.mean()),
                    ]
                )
            totals.append(np.subtract(*pair))
        return np.abs(np.mean(totals, axis=0))

    every = np.array(
        [
            difference([name for name, kept in zip("abcde", way, strict=True) if kept])
            for way in product((0, 1), repeat=5)
        ]
    )
    exact = (every >= every[0] - 1e-12).mean(0)
    for key, p in zip(KEYS[:2], exact[:2], strict=True):
        assert line(found, "ract", "margin-old-head").changes[key].p == pytest.approx(p, abs=0.02)
    share = line(found, "ract", "margin-old-head").changes[KEYS[2]]
    assert np.isnan(share.p) or share.p == pytest.approx(exact[2], abs=0.02)


def test_more_queries_of_the_same_groups_tell_nothing_new():
    """Every query four times over, in its own group: the same intervals and p-values."""
    read, notes = suite(("random", "margin-old-head"), seeds=(0, 1, 2))
    copied = {
        order: pd.concat([found.assign(query=found["query"] + f"-{n}") for n in range(4)])
        for order, found in read.items()
    }
    one, four = compare_orders(read, notes)[0], compare_orders(copied, notes)[0]
    assert (one.queries, four.queries, one.groups, four.groups) == (8, 32, 4, 4)
    for key in KEYS:
        once, often = (line(each, "ract", "margin-old-head").changes[key] for each in (one, four))
        for part in ("value", "difference", "low", "high", "p"):
            assert getattr(often, part) == pytest.approx(getattr(once, part), nan_ok=True)


GROUPS = tuple(f"g{number % 40}" for number in range(120))


def test_a_difference_that_stands_is_claimed_in_its_direction_and_a_null_is_not():
    better = {("ract", "margin-old-head"): 0.2, ("bct", "margin-old-head"): -0.2}
    read, notes = suite(
        ("random", "margin-old-head"), ("l2", "bct", "ract"), (0, 1, 2), GROUPS, better
    )
    (found,) = compare_orders(read, notes)
    for method, sign in (("ract", 1), ("bct", -1), ("l2", 0)):
        changes = line(found, method, "margin-old-head").changes
        for key, better_is in zip(KEYS[:2], (1, -1), strict=True):
            assert changes[key].claimed == (sign != 0)
            if sign:
                assert np.sign(changes[key].difference) == sign * better_is
                assert changes[key].low * changes[key].high > 0


def test_p_values_are_corrected_over_the_followable_lines_of_a_scenario():
    orders = ("random", "margin-old-head", "centre-distance", "oracle-mAP")
    read, notes = suite(orders, ("bct", "ract"), groups=GROUPS)
    (found,) = compare_orders(read, notes)
    assert [(each.method, each.order) for each in found.tested] == [
        *(("bct", name) for name in orders[1:3]),
        *(("ract", name) for name in orders[1:3]),
    ]
    for key in KEYS[:2]:
        family = [each.changes[key] for each in found.tested]
        expected = stats.holm([each.p for each in family])
        assert [each.corrected_p for each in family] == pytest.approx(expected.tolist())
        oracle = line(found, "ract", "oracle-mAP").changes[key]
        assert np.isnan(oracle.p)
        assert not oracle.claimed
        assert oracle.low < oracle.high


@pytest.mark.parametrize(("known", "warned"), [(7, True), (None, True), (0, False)])
def test_an_order_that_reads_the_queries_is_warned_of_and_claims_nothing(known, warned):
    better = {("ract", name): 0.2 for name in ("gallery-distance", "centre-distance")}
    orders = ("random", "gallery-distance", "centre-distance")
    read, notes = suite(
        orders, seeds=(0, 1, 2), groups=GROUPS, better=better, queries_in_gallery=known
    )
    (found,) = compare_orders(read, notes)
    reading = line(found, "ract", "gallery-distance")
    assert reading.reads_queries == warned
    assert reading.changes["AUC_mAP"].claimed == (not warned)
    other = line(found, "ract", "centre-distance")
    assert not other.reads_queries
    assert other.changes["AUC_mAP"].claimed


def test_nothing_is_told_of_a_gain_that_is_not_there_or_of_orders_that_agree():
    read, notes = suite(("random", "margin-old-head"), groups=GROUPS)
    same = {order: read["random"].assign(order=read["random"]["order"]) for order in read}
    (found,) = compare_orders(same, notes)
    for change in line(found, "ract", "margin-old-head").changes.values():
        assert np.isnan([change.difference, change.low, change.high, change.p]).all()
        assert not change.claimed
    lost = {order: found.copy() for order, found in read.items()}
    for each in lost.values():
        each.loc[each["system"] == "old", "AP"] = 0.95
    (found,) = compare_orders(lost, notes)
    share = line(found, "ract", "margin-old-head").changes["share_to_gain"]
    assert np.isnan([share.value, share.difference, share.p]).all()


def test_one_order_is_compared_with_nothing():
    assert compare_orders(*suite(("random",))) == []
