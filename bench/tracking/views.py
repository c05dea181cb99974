"""Prepared comparison views of an experiment in MLflow's own pages, each at a short address.

A view is an experiment tag that holds the state of MLflow's page. That format is MLflow's own and
undocumented: it was tried with the versions named here, and other ones get the plain page.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TRIED = ("3.17.",)
STATE_TAG = "mlflow.sharedViewState."
VIEWS_TAG = "views"  # of an experiment: names of its views by their keys, in order
ROWS_OF_A_PAGE = 100  # MLflow loads no more runs into a chart before somebody asks for more

LINES = ("mAP", "NFR_at_1")
BARS = ("AUC_mAP", "AUC_NFR_at_1")
TRADE_OFF = ("AUC_NFR_at_1", "M_new_new")


@dataclass(frozen=True)
class View:
    """Runs of an experiment to compare: `key` names the view in its address, `name` for people."""

    key: str
    name: str
    wanted: str

    def tag(self) -> tuple[str, str]:
        """Return the experiment's tag that keeps this view."""
        return f"{STATE_TAG}{self.key}", packed(self.state())

    def path(self, experiment: str) -> str:
        """Return where MLflow shows this view, below its address."""
        state = f"viewStateShareKey={self.key}&compareRunsMode=CHART"
        return f"{plain_path(experiment)}?{state}&workflowType=machine_learning"

    def state(self) -> dict[str, Any]:
        """Return the state of MLflow's page: curves, bars and the trade-off, grouped by method."""
        lines = [
            _chart("LINE", key) | {"selectedMetricKeys": [key], "xAxisKey": "step"} for key in LINES
        ]
        flips, final = ({"key": key, "type": "METRIC"} for key in TRADE_OFF)
        scatter = _chart("SCATTER", TRADE_OFF[0]) | {"xaxis": flips, "yaxis": final}
        return {
            "searchFilter": self.wanted,
            # Sorted by time, MLflow adds the runs that these are nested in.
            "orderByKey": f"metrics.`{TRADE_OFF[0]}`",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "runsHiddenMode": "SHOWALL",
            "groupBy": {
                "aggregateFunction": "average",
                "groupByKeys": [{"mode": "tag", "groupByData": "method"}],
            },
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "compareRunSections": [
                {
                    **{"uuid": _SECTION, "name": self.name, "display": True, "isReordered": True},
                    **{"columns": 2, "cardHeight": 360},
                }
            ],
            "compareRunCharts": [*lines, *(_chart("BAR", key) for key in BARS), scatter],
        }


_SECTION = "compared"


def _chart(kind: str, key: str) -> dict[str, Any]:
    return {
        "uuid": f"{kind}-{key}",
        "type": kind,
        "metricKey": key,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
    }


def views(scenarios: Sequence[str]) -> list[View]:
    """Return the views of an experiment whose cells are of these scenarios.

    There is one of each scenario and, where there are several, one over all of them before. Where
    a page cannot take all runs of a scenario, the view shows their means over seeds.
    """
    runs = Counter(scenarios)
    over = View("overview", "mean over scenarios", "tags.kind = 'summary'")
    return [
        *([over] if len(runs) > 1 else []),
        *(
            View(
                f"scenario-{name}",
                name,
                f"tags.kind = '{'cell' if count <= ROWS_OF_A_PAGE else 'summary'}' "
                f"and tags.scenario = '{name}'",
            )
            for name, count in runs.items()
        ),
    ]


def is_tried(version: str | None) -> bool:
    """Return whether a version of MLflow is one that takes these views."""
    return version is not None and version.startswith(TRIED)


def plain_path(experiment: str) -> str:
    """Return where any MLflow shows an experiment's runs, below its address."""
    return f"/#/experiments/{experiment}/runs"


def packed(state: dict[str, Any]) -> str:
    """Write a state as MLflow does: `deflate;` and base64 of its compressed JSON."""
    content = json.dumps(state, separators=(",", ":")).encode()
    return "deflate;" + base64.b64encode(zlib.compress(content, 9)).decode()
