"""Failed runs, kept as JSON files so that a later command knows of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from bench.errors import BenchError
from bench.pipeline.outcomes import Outcome
from bench.pipeline.specs import CellSpec
from bench.storage.files import write_text
from bench.storage.verified import read_json, sealed_json


def former_failure(results: Path, spec: CellSpec) -> Outcome | None:
    """Recall that a cell failed in a former run with the same code and settings."""
    try:
        content = read_json(spec.cell.failure_path(results))
        if content["key"] != spec.key or content["transient"]:
            return None
        error = f"{content['error']} (in a former run; --retry-failed tries it again)"
        return Outcome(spec, "failed", error=error, traceback=str(content["traceback"]))
    except (BenchError, LookupError):  # a damaged one costs another try
        return None


def keep_failure(results: Path, outcome: Outcome) -> Outcome:
    """Keep a failed cell's error and traceback as a record; remove it when the cell succeeds."""
    if not isinstance(outcome.spec, CellSpec):
        return outcome
    path = outcome.spec.cell.failure_path(results)
    content = {
        **asdict(outcome.spec.cell),
        "key": outcome.spec.key,
        "error": outcome.error,
        "transient": outcome.transient,
        "traceback": outcome.traceback,
    }
    try:
        if outcome.status == "failed":
            write_text(path, sealed_json(content))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:  # of a full disk, only the display can tell
        return replace(outcome, notes=(*outcome.notes, f"{path} could not be written: {error}"))
    return outcome
