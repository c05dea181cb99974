"""One self-contained HTML page about an evaluated upgrade, in the look of the suites' report."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from bench.errors import BenchError
from bench.report.figures import INK, STYLE, Figure, looks
from bench.report.rendering import rendered
from bench.upgrade.judge import Limits
from bench.upgrade.result import UpgradeTables
from bench.upgrade.shown import Shown


@dataclass(frozen=True)
class UpgradeResult(UpgradeTables):
    """What an evaluated upgrade shows: verdict, tables, and a page with texts and pictures."""

    shown_queries: Shown = field(default_factory=Shown)
    shown_items: Shown = field(default_factory=Shown)

    def page(self, limits: Limits | None = None) -> str:
        """Return a self-contained HTML page, with the verdict if there are limits."""
        return _render(self, limits)


def _render(result: UpgradeResult, limits: Limits | None) -> str:
    slices = result.by_slice()
    return rendered(
        "upgrade.html",
        result=result,
        verdict=result.verdict(limits) if limits else None,
        table=result.table(limits),
        query=cache(lambda name: _look(result.shown_queries, name)),
        item=cache(lambda name: _look(result.shown_items, name)),
        slices=slices,
        charts=_charts(result),
    )


def _look(shown: Shown, name: str) -> Markup:
    """Id, picture and text of a query or an item; a picture that cannot be read is told of."""
    text = shown.text(name)
    try:
        picture = shown.picture(name)
    except BenchError as error:
        picture, text = "", " ".join(filter(None, [text, f"(no picture: {error})"]))
    look = Markup('<span class="name">{}</span>').format(name)
    if picture:
        look = Markup('<img src="{}" alt="" width="48" height="48">').format(picture) + look
    return look + Markup('<span class="text">{}</span>').format(text) if text else look


def _charts(result: UpgradeTables) -> list[Figure]:
    found = result.found
    if not found.judged:
        return [
            _chart(
                result,
                "agreement",
                "Agreement with the final answers",
                {b.name: b.agreement.overlap_final for b in found.bridges if b.agreement},
            )
        ]
    before = None
    if found.old is not None:
        before = float(found.sampling.mean(found.old[found.metric]))
    curves = {bridge.name: result.curve(bridge) for bridge in found.bridges}
    charts = [_chart(result, "metric", f"{result.metric} during the backfill", curves, before)]
    if found.old_success is not None:
        flips = {bridge.name: result.flips(bridge) for bridge in found.bridges}
        charts.append(_chart(result, "flips", "NFR@1 during the backfill", flips))
    return charts


def _chart(
    result: UpgradeTables,
    name: str,
    title: str,
    curves: dict[str, object],
    level: float | None = None,
) -> Figure:
    """Draw a curve of each bridge over the backfilled share."""
    style = looks([bridge.name for bridge in result.found.bridges])
    with rc_context(STYLE):
        canvas = Canvas(figsize=(4.7, 4.6), layout="constrained")
        axes = canvas.subplots()
        for bridge, values in curves.items():
            look = style[bridge]
            axes.plot(
                result.found.shares,
                values,  # type: ignore[arg-type]
                color=look.colour,
                marker=look.marker,
                linestyle=look.dashes,
                markersize=4.5,
                markevery=max(1, (len(result.found.shares) - 1) // 10),
                label=bridge,
            )
        if level is not None:
            axes.axhline(level, color=INK, lw=1, linestyle=(0, (2, 2)), label="old system")
        axes.set_xlabel("backfilled share of the gallery")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
        canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    return Figure(name, title, f"Line chart: {title}; one line for each bridge.", canvas)
