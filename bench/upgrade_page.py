"""One self-contained HTML page about an evaluated upgrade."""

from __future__ import annotations

import io
from html import escape
from typing import Any

from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto }
table { border-collapse: collapse; margin: 1rem 0 }
tr { border-bottom: 1px solid #ddd }
td, th { padding: .2rem .8rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.verdict { padding: .6rem 1rem; border-left: .4rem solid }
.go { color: #1a7f37 }
.no-go { color: #b3261e }
svg { max-width: 100%; height: auto }
"""


def page(found: dict[str, Any]) -> str:
    """Lay out what `bench.upgrade.evaluate` found, with its verdict if there is one."""
    title = f"Hot refresh of {found['gallery']} items, {found['queries_evaluated']} queries"
    cells = {f"{q} queries, {g} gallery": found[f"M_{q}_{g}"] for q, g in _CELLS}
    scalars = {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not name.startswith("M_")
    }
    parts = [
        f"<h1>{escape(title)}</h1>",
        _verdict(found.get("verdict")),
        _svg(found),
        f"<h2>Mean {escape(found['metric'])}</h2>{_table(cells)}",
        f"<h2>Scalars</h2>{_table(scalars)}",
        _flipped(found.get("flipped_queries")),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


_CELLS = (("old", "old"), ("new", "old"), ("old", "new"), ("new", "new"))


def _verdict(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return ""
    word = "go" if verdict["go"] else "no-go"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    return f'<div class="verdict {word}"><strong>{word}</strong><ul>{reasons}</ul></div>'


def _table(values: dict[str, Any]) -> str:
    rows = []
    for name, value in values.items():
        shown = (
            "not known" if value is None else f"{value:.4f}" if isinstance(value, float) else value
        )
        rows.append(f'<tr><td>{escape(name)}</td><td class="number">{shown}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _flipped(flipped: list[dict[str, Any]] | None) -> str:
    if not flipped:
        return ""
    rows = "".join(
        f"<tr><td>{escape(entry['query'])}</td>"
        f"<td>{', '.join(f'{share:.0%}' for share in entry['wrong_at_shares'])}</td></tr>"
        for entry in flipped
    )
    head = "<tr><th>query</th><th>wrong at backfilled share</th></tr>"
    return f"<h2>Queries that flip at rank 1</h2><table>{head}{rows}</table>"


def _svg(found: dict[str, Any]) -> str:
    """Draw mAP, and the flip rates if there are any, over the backfilled share."""
    rates = [name for name in ("NFR_at_1", "NFR_at_5", "PFR_at_1", "PFR_at_5") if name in found]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2 if rates else 1, squeeze=False)[0]
    axes[0].plot(found["shares"], found["mAP"], marker=".", label="new queries, mixed gallery")
    if found["M_old_old"] is not None:
        axes[0].axhline(found["M_old_old"], color="gray", linestyle="--", label="old system")
    axes[0].set_ylabel(f"mean {found['metric']}")
    for name in rates:
        axes[1].plot(found["shares"], found[name], marker=".", label=name.replace("_at_", "@"))
    for axis in axes:
        axis.set_xlabel("backfilled share")
        axis.legend()
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    text = image.getvalue()
    return text[text.index("<svg") :]
