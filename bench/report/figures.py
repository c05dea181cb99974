"""Figures of a suite: drawn once, then SVG for the page, SVG and PNG as files.

On the page the colours are CSS variables, so that a figure follows the light or dark theme; every
method has a marker and a line style as well, so that nothing is told by colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from bench.analysis.costs import MethodCosts
from bench.analysis.estimates import Estimates
from bench.analysis.quantities import TRAINING_RATE
from bench.analysis.rankings import SuiteRanking
from bench.analysis.scenarios import Scenario

# Okabe and Ito's palette, darkened where it is too faint on white; brighter twins for the dark.
LIGHT = ("#0064a6", "#b84a00", "#00795a", "#a8457f", "#8a6500", "#1f78a8", "#5d4fb3", "#6b6b6b")
DARK = ("#56b4e9", "#ff9552", "#2fd3a5", "#e79cc6", "#f0c000", "#9ad4f5", "#b7aaff", "#b8b8b8")
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
INK, GRID = "#1b1f24", "#d3d7dc"  # replaced on the page by the theme's own
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # names are no formulas
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure: a file name, what it shows, and its text alternative."""

    name: str
    title: str
    description: str
    canvas: Canvas

    def svg(self) -> str:
        """Stand-alone SVG, the same bytes each time."""
        return self._svg

    @cached_property
    def _svg(self) -> str:
        return self._saved("svg", metadata={"Date": None, "Creator": None}).decode()

    def png(self) -> bytes:
        """PNG on white, at twice the screen's resolution."""
        return self._saved("png", dpi=200, facecolor="white", metadata={"Software": None})

    def inline(self) -> str:
        """SVG for the page: the theme's colours, and unique names."""
        source = self.svg()
        source = source[source.index("<svg") :]
        source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
        source = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", source)
        source = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", source)
        source = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{self.name}-", source)
        source = source.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
        for position, colour in enumerate(LIGHT):
            source = source.replace(colour, f"var(--method-{position})")
        return source.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")

    def _saved(self, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        with rc_context(STYLE):
            self.canvas.savefig(stream, format=kind, **{"transparent": True, **options})
        return stream.getvalue()


@dataclass(frozen=True)
class Look:
    """How one method is drawn, everywhere in a report."""

    colour: str
    marker: str
    dashes: Any


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Assign each method of a suite its colour, marker and line style."""
    return {
        method: Look(
            LIGHT[position % len(LIGHT)],
            MARKERS[position % len(MARKERS)],
            DASHES[(position // len(LIGHT) + position) % len(DASHES)],
        )
        for position, method in enumerate(sorted(methods))
    }


def _axes(width: float, height: float) -> tuple[Canvas, Any]:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    return canvas, canvas.subplots()


def _legend(canvas: Canvas) -> None:
    canvas.legend(loc="outside lower center", ncols=3, fontsize=8)


def _mark(method: str, style: dict[str, Look]) -> dict[str, Any]:
    """Return how a method's point with its intervals is drawn."""
    look = style[method]
    size = {"markersize": 8, "elinewidth": 0.8, "alpha": 0.9}
    return {"color": look.colour, "marker": look.marker, "label": method, **size}


def _bar(estimates: Estimates, position: int) -> list[list[float]]:
    """Return how far an interval reaches below and above its value."""
    value = estimates.value[position]
    return [[value - estimates.low[position]], [estimates.high[position] - value]]


def curve(scenario: Scenario, name: str, style: dict[str, Look]) -> Figure:
    """Draw mAP or NFR against the backfilled share, with 95 % bands."""
    label = name.replace("_at_", "@")
    with rc_context(STYLE):
        canvas, axes = _axes(4.7, 4.1)
        found = scenario.curves[name]
        for position, method in enumerate(scenario.methods):
            look = style[method]
            values, low, high = (part[position] for part in (found.value, found.low, found.high))
            axes.fill_between(scenario.shares, low, high, color=look.colour, alpha=0.13, lw=0)
            axes.plot(
                scenario.shares,
                values,
                color=look.colour,
                marker=look.marker,
                linestyle=look.dashes,
                markersize=4.5,
                markevery=max(1, (len(scenario.shares) - 1) // 10),
                label=method,
            )
        if name == "mAP":
            old = scenario.estimates["M_old_old"].value.mean()
            axes.axhline(old, color=INK, lw=1, linestyle=(0, (2, 2)), label="old system")
        axes.set_xlabel("backfilled share of the gallery")
        axes.set_ylabel(f"{label}: {'higher' if name == 'mAP' else 'lower'} is better")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
        _legend(canvas)
    ends = "; ".join(
        f"{method} from {found.value[position][0]:.3f} to {found.value[position][-1]:.3f}"
        for position, method in enumerate(scenario.methods)
    )
    return Figure(
        f"{_slug(scenario)}-{name}",
        f"{label} during the backfill",
        f"Line chart of {label} against the backfilled share in {scenario.name}: {ends}. "
        "Bands are 95 % intervals; all values are in the table of curves.",
        canvas,
    )


def trade_off(scenario: Scenario, style: dict[str, Look]) -> Figure:
    """Map accuracy after the backfill against flips during it."""
    regret, final = scenario.estimates["AUC_NFR_at_1"], scenario.estimates["M_new_new"]
    with rc_context(STYLE):
        canvas, axes = _axes(4.7, 4.1)
        for position, method in enumerate(scenario.methods):
            axes.errorbar(
                regret.value[position],
                final.value[position],
                xerr=_bar(regret, position),
                yerr=_bar(final, position),
                **_mark(method, style),
            )
        axes.set_xlabel("AUC NFR@1: fewer negative flips to the left")
        axes.set_ylabel("M(n,n): better final search at the top")
        _legend(canvas)
    places = "; ".join(
        f"{method}: AUC NFR@1 {regret.value[position]:.3f}, M(n,n) {final.value[position]:.3f}"
        for position, method in enumerate(scenario.methods)
    )
    return Figure(
        f"{_slug(scenario)}-trade-off",
        "Negative flips vs. final accuracy",
        f"Scatter chart of {scenario.name}; the upper left corner is best. {places}.",
        canvas,
    )


def serving(
    scenario: Scenario, costs: dict[str, MethodCosts], style: dict[str, Look]
) -> Figure | None:
    """Map flips during the backfill against milliseconds of a query; None where none are known."""
    regret = scenario.estimates["AUC_NFR_at_1"]
    known = [name for name in scenario.methods if name in costs]
    if not known:
        return None
    places = {}
    with rc_context(STYLE):
        canvas, axes = _axes(4.7, 4.1)
        for method in known:
            row, x = scenario.methods.index(method), costs[method].mean_milliseconds
            y = regret.value[row]
            axes.errorbar(x, y, yerr=_bar(regret, row), **_mark(method, style))
            places[method] = f"{method}: {x:.2f} ms, AUC NFR@1 {y:.3f}"
        axes.set_xlabel("ms per query, mean over the backfill: cheaper to the left")
        axes.set_ylabel("AUC NFR@1: fewer flips at the bottom")
        # Methods that cost the same stand apart from the frame, too.
        axes.set_xlim(0, 1.08 * max(costs[method].mean_milliseconds for method in known) or 1)
        _legend(canvas)
    return Figure(
        f"{_slug(scenario)}-serving",
        "What it costs to serve",
        f"Scatter chart of {scenario.name}; the lower left corner is best. "
        f"{'; '.join(places.values())}.",
        canvas,
    )


def throughput(scenarios: Sequence[Scenario], style: dict[str, Look]) -> Figure:
    """Draw the images that each method trains on per second, a mean over all scenarios.

    What an architecture embeds and searches does not depend on the method: that is a table.
    """
    methods = sorted({method for scenario in scenarios for method in scenario.methods})
    rates = [
        float(
            np.mean(
                [
                    scenario.training_rates[scenario.methods.index(method)]
                    for scenario in scenarios
                    if method in scenario.methods
                ]
            )
        )
        for method in methods
    ]
    with rc_context(STYLE):
        canvas, axes = _axes(9.2, 1.4 + 0.27 * len(methods))
        axes.barh(methods, rates, color=[style[method].colour for method in methods])
        for row, value in enumerate(rates):
            axes.annotate(f" {value:,.0f}", (value, row), va="center", fontsize=8)
        axes.set_title(TRAINING_RATE.label, fontsize=9.5)
        axes.margins(x=0.1)
        axes.xaxis.set_visible(False)
        axes.grid(visible=False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.invert_yaxis()
        axes.tick_params(left=False)
    listed = ", ".join(f"{m} {v:,.0f}" for m, v in zip(methods, rates, strict=True))
    return Figure(
        "throughput", "Training throughput", f"Bar chart. {TRAINING_RATE.label}: {listed}.", canvas
    )


def critical_difference(found: SuiteRanking, style: dict[str, Look]) -> Figure:
    """Draw mean ranks over scenarios; a bar joins methods that Nemenyi's test leaves together."""
    import scikit_posthocs

    ranks = pd.Series(found.ranking.mean_ranks, index=list(found.methods))
    significance = pd.DataFrame(
        found.ranking.nemenyi_p, index=list(found.methods), columns=list(found.methods)
    )
    with rc_context({**STYLE, "axes.grid": False}):
        canvas, axes = _axes(9.2, 2.0 + 0.25 * len(ranks))
        drawn = scikit_posthocs.critical_difference_diagram(
            ranks,
            significance,
            cd=found.ranking.critical_difference,
            ax=axes,
            color_palette={method: style[method].colour for method in found.methods},
            crossbar_props={"color": INK, "linewidth": 2.5, "marker": ""},
            label_props={"fontweight": "normal"},
            text_h_margin=0.02,
        )
        # The library draws each bar through a set, whose order is another in each process.
        for line in (line for bar in drawn["crossbars"] for line in bar):
            line.set_xdata(np.sort(line.get_xdata()))
    listed = ", ".join(f"{method} {rank:.2f}" for method, rank in ranks.sort_values().items())
    return Figure(
        f"critical-difference-{found.quantity.key}",
        f"Ranks by {found.quantity.label}",
        f"Critical-difference diagram of mean ranks over {found.ranking.scenarios} scenarios, 1 "
        f"is best: {listed}. Differences below {found.ranking.critical_difference:.2f} tell "
        "nothing apart.",
        canvas,
    )


def _slug(scenario: Scenario) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"{scenario.dataset}-{scenario.name}").strip("-")
