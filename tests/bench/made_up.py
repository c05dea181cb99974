"""Metadata of made-up runs: complete, so that it can be written and read like a real one's."""

from __future__ import annotations

from typing import Any

from bench.evaluation import records
from bench.storage.metadata import RunMetadata

MACHINE = {
    **{"device": "cpu", "processor": "a processor", "devices": 1, "threads": 1},
    "precision": "float32",
}
PROVENANCE = {
    **{"git_revision": "r", "python": "3", "platform": "p", "processor": "a processor"},
    **{"cores": 2, "packages": {}, "device": "cpu", "threads": 1, "devices": 1},
}
SETTINGS = {
    **{"shares": 11, "orders": ["random"], "dataset": {}, "split": "test", "method": {}},
    **{f"{age}_{part}": {} for age in ("old", "new") for part in ("side", "recipe")},
}
NOTE: dict[str, Any] = {
    **{"schema_version": records.SCHEMA_VERSION, "suite": "s", "dataset": "d", "scenario": "c"},
    **{"method": "m", "seed": 0, "key": "k", "metric": "AP", "dataset_revision": "1"},
    **{"dataset_key": "k", "dataset_counts": {}, "losses": [], "rates": {}},
    "measured_on": {"training": MACHINE, "embedding": MACHINE},
    "provenance": PROVENANCE,
}


def metadata(settings: dict[str, Any] | None = None, **changes: Any) -> RunMetadata:
    """Return the metadata of a run that differs from the usual in `changes` and `settings`."""
    return RunMetadata.model_validate(
        {**NOTE, **changes, "settings": {**SETTINGS, **(settings or {})}}
    )
