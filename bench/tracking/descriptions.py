"""What MLflow shows above an experiment's runs and above a comparison, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.analysis.rankings import rankings
from bench.report.table import Cell, Column, Table
from bench.report.verdict import suite_verdict
from bench.tracking.views import View, plain_path

if TYPE_CHECKING:
    from bench.analysis.estimates import Estimates
    from bench.analysis.scenarios import Scenario

NOTE_TAG = "mlflow.note.content"
LONGEST_NOTE = 8000  # characters that MLflow keeps of a run's description


def experiment_note(
    suite: str,
    dataset: str,
    summary: str,
    views: Sequence[View],
    experiment: str,
    comparison: str | None,
) -> str:
    """State what an experiment holds and how to read it, with links to its views and comparison."""
    links = [f"- [{view.name}](#{view.path(experiment)[2:]})" for view in views]
    if comparison:
        path = f"{plain_path(experiment)}/{comparison}"
        links.append(f"- [verdict, tables and figures](#{path[2:]})")
    listed = "\n".join(links)
    summary = summary or "upgrade scenarios × methods × seeds"
    return f"""**Suite `{suite}` on `{dataset}`**: {summary}

A run trains one method's new model against an old one, then walks the gallery from 0 % to 100 %
backfilled with new embeddings. Compare methods in the prepared views:

{listed}

**How to read it**

- `mAP` by step (the backfilled percent): accuracy of new queries on the partly backfilled gallery;
  higher is better. `AUC_mAP` is its mean over the backfill.
- `NFR_at_1` by step: share of all queries that the old system answered at rank 1 and the refreshed
  one does not; lower is better. `AUC_NFR_at_1` is its mean.
- `M_old_old` is the old system, `M_new_old` new queries on the old gallery, `M_new_new` everything
  new.
- Tag `kind`: `cell` is one method × scenario × seed, `summary` its mean over seeds with 95 % bounds
  (`…_low`, `…_high`), `comparison` the tables, the tests and the report.
"""


def comparison_note(scenarios: Sequence[Scenario], report: Path, run: str) -> str:
    """State what a comparison found: verdict, a table and figures per scenario, as many as fit."""
    figures = sorted(path for path in report.glob("figures/*.png") if "trade-off" in path.name)
    return _joined(
        [
            " ".join(suite_verdict(scenarios, rankings(scenarios))),
            *(overview_table(scenario).markdown() for scenario in scenarios),
            *(f"![{path.stem}]({_artifact(run, path.relative_to(report))})" for path in figures),
            "All figures are under *Model metrics*, tables and `report.html` under *Artifacts*.",
        ]
    )


def overview_table(scenario: Scenario) -> Table:
    """Make the short table of a scenario: mAP and negative flips along the backfill."""
    rows = []
    for position, method in enumerate(scenario.methods):
        ap, flips = (scenario.curves[name] for name in ("mAP", "NFR_at_1"))
        mean_ap, mean_flips = (scenario.estimates[key] for key in ("AUC_mAP", "AUC_NFR_at_1"))
        rows.append(
            (
                Cell(method),
                _bounded(mean_flips, position),
                Cell(float(flips.value[position].max())),
                Cell(float(ap.value[position, 0])),
                _bounded(mean_ap, position),
                Cell(float(ap.value[position, -1])),
            )
        )
    columns = {"mean NFR@1": -1, "max NFR@1": -1, "mAP at 0 %": 1, "mean mAP": 1, "mAP at 100 %": 1}
    old = scenario.value("M_old_old", scenario.methods[0])
    return Table(
        title=f"{scenario.name} on {scenario.dataset}",
        columns=(Column("method"), *(Column(name, 3, better) for name, better in columns.items())),
        rows=tuple(rows),
        caption=f"Means over seeds, with 95 % intervals. mAP of the old system: {old:.3f}.",
    )


def _bounded(found: Estimates, position: int) -> Cell:
    value, low, high = (float(part[position]) for part in (found.value, found.low, found.high))
    return Cell(value, low, high)


def _artifact(run: str, path: Path) -> str:
    """Return where MLflow's server has a file of the report, relative to its pages."""
    place = quote(f"report/{path.as_posix()}", safe="")
    return f"get-artifact?path={place}&run_uuid={run}"


def _joined(parts: Sequence[str]) -> str:
    """Join as many paragraphs as a description may hold, the last one always."""
    *others, last = parts
    kept: list[str] = []
    for part in others:
        if sum(len(each) + 2 for each in (*kept, part, last)) > LONGEST_NOTE:
            break
        kept.append(part)
    return "\n\n".join([*kept, last])
