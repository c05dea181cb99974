"""What is drawn is what was measured, each method under its own name."""

import re

import numpy as np
import pytest
from scipy.stats import rankdata

from bench.analysis.costs import method_costs
from bench.analysis.rankings import rankings
from bench.report import figures
from bench.storage.metadata import RunMetadata
from tests.bench.conftest import METHODS

STYLE = figures.looks(list(METHODS))


@pytest.fixture(params=range(3))
def scenario(request, default_scenarios):
    return default_scenarios[request.param]


@pytest.fixture
def rows(default_suite, scenario):
    return default_suite[0][default_suite[0]["scenario"] == scenario.name]


def points(figure):
    """Where each method's point stands, by its label."""
    (axes,) = figure.canvas.axes
    return {
        container.get_label(): tuple(float(part[0]) for part in container[0].get_data())
        for container in axes.containers
    }


def mean_flips(rows, share=None):
    """NFR@1 of each method at a share, or its area, straight from the rows."""
    old = rows[rows["system"] == "old"].set_index(["method", "seed", "query"])["success_at_1"]
    now = rows[rows["system"] == "refreshed"].set_index(["method", "seed", "query"])
    flipped = old.reindex(now.index) & ~now["success_at_1"]
    curves = flipped.groupby([now.index.get_level_values("method"), now["share"]]).mean().unstack()
    return {m: np.trapezoid(curve, curves.columns) for m, curve in curves.iterrows()}


def test_curves_are_drawn_under_the_name_of_their_method(scenario, rows):
    refreshed = rows[rows["system"] == "refreshed"]
    expected = refreshed.groupby(["method", "share"])["AP"].mean().unstack()
    figure = figures.curve(scenario, "mAP", STYLE)
    (axes,) = figure.canvas.axes
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert set(drawn) == {*METHODS, "old system"}
    for method, curve in expected.iterrows():
        assert drawn[method].get_xdata() == pytest.approx(expected.columns)
        assert drawn[method].get_ydata() == pytest.approx(curve.to_numpy())
        assert drawn[method].get_color() == STYLE[method].colour
        assert f"{method} from {curve.iloc[0]:.3f} to {curve.iloc[-1]:.3f}" in figure.description
    old = rows[rows["system"] == "old"]["AP"].mean()
    assert drawn["old system"].get_ydata() == pytest.approx([old, old])
    for method, band in zip(scenario.methods, axes.collections, strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert all(heights.min() <= value <= heights.max() for value in expected.loc[method])


def test_a_point_has_flips_and_accuracy_of_one_method(scenario, rows):
    flips = mean_flips(rows)
    final = rows[rows["share"] == 1].groupby("method")["AP"].mean()
    found = points(figures.trade_off(scenario, STYLE))
    assert found == {name: pytest.approx((flips[name], final[name])) for name in METHODS}
    assert len({value.expected for value in map(pytest.approx, found.values())}) == len(METHODS)


def test_a_point_has_flips_and_time_of_one_method(scenario, rows, default_suite):
    notes = [RunMetadata.model_validate(note) for note in default_suite[1].to_dict("records")]
    costs = method_costs(notes)["icons", scenario.name]
    flips = mean_flips(rows)
    found = points(figures.serving(scenario, costs, STYLE))
    assert found == {
        name: pytest.approx((np.mean(costs[name].milliseconds), flips[name])) for name in METHODS
    }
    assert len({x for x, _ in found.values()}) > 2
    fewer = {name: costs[name] for name in list(METHODS)[:2]}
    assert set(points(figures.serving(scenario, fewer, STYLE))) == set(fewer)
    assert figures.serving(scenario, {}, STYLE) is None


def test_a_bar_is_as_long_as_its_method_is_fast(default_suite, default_scenarios):
    _, notes = default_suite
    figure = figures.throughput(default_scenarios, STYLE)
    (axes,) = figure.canvas.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    drawn = dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))
    for method, own in notes.groupby("method"):
        rate = np.mean([rates["train_images_per_s"] for rates in own["rates"]])
        assert drawn[method] == pytest.approx(rate)
    assert len(set(drawn.values())) > 2


def test_rank_1_is_the_best_in_each_quantity(default_scenarios):
    for found in rankings(default_scenarios):
        values = np.array(
            [[one.value(found.quantity.key, m) for m in found.methods] for one in default_scenarios]
        )
        better = 1 if found.quantity.key == "AUC_mAP" else -1
        ranks = rankdata(-better * values, axis=1).mean(0)
        text = figures.critical_difference(found, STYLE).description
        listed = dict(re.findall(r"(\w+) (\d\.\d\d)", text.partition("best: ")[2]))
        expected = dict(zip(found.methods, ranks, strict=True))
        assert {name: float(listed[name]) for name in METHODS} == pytest.approx(expected, abs=0.006)
    assert len(rankings(default_scenarios)) == 2
