"""Starts the same suite several times at once in one results folder and counts what went wrong.

    python -m tests.robustness.concurrency [--runs 3]

Every run must succeed; each stage is made by one of them; MLflow holds each cell once, with the
curve that its records give.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.command import ROOT, TINY
from tests.robustness.crashes import content

METHODS = ("independent", "l2")


def start(results: Path, *options: str) -> subprocess.Popen[str]:
    """Start one run of the suite, with further options."""
    arguments = ["all", *TINY, "--methods", ",".join(METHODS), "--results", str(results), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def logged(results: Path) -> tuple[list[str], int]:
    """Methods of the logged cells, and how many points of their curves are missing or wrong."""
    from mlflow import MlflowClient

    from bench.analysis import cells
    from bench.evaluation import records

    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name LIKE 'tiny%/synthetic'")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'")
    wrong = 0
    for run in runs:
        (path,) = (results / "records").rglob(f"{run.data.tags['method']}/seed-0.parquet")
        curve = cells.curve(cells.arrays(records.read(path)[0]))["mAP"]
        found = [point.value for point in client.get_metric_history(run.info.run_id, "mAP")]
        wrong += found != [float(value) for value in curve]
    return sorted(run.data.tags["method"] for run in runs), wrong


def main() -> int:
    """Try it and print the figures; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs at once")
    count, faults = parser.parse_args().runs, []
    with tempfile.TemporaryDirectory() as folder:
        alone, shared = Path(folder) / "alone", Path(folder) / "shared"
        start(alone).communicate()
        printed = [run.communicate()[0] for run in [start(shared) for _ in range(count)]]
        faults += [text for text in printed if "warning" in text or "Traceback" in text]
        faults += [f"no tables: {text}" for text in printed if "python -m bench ui" not in text]
        one, other = content(alone), content(shared)
        if differing := [name for name in {*one, *other} if one.get(name) != other.get(name)]:
            faults.append(f"not as a run alone leaves them: {', '.join(sorted(differing))}")
        models = [path for path in (shared / "cache" / "models").iterdir() if path.is_dir()]
        if len(models) != len(list((alone / "cache" / "models").glob("*/manifest.json"))):
            faults.append(f"stages beside the finished ones: {models}")
        methods, wrong = logged(shared)
        if methods != sorted(METHODS) or wrong:
            faults.append(f"MLflow holds {methods}, {wrong} with another curve")
    print("\n".join(faults))
    print(f"{count} concurrent runs tried, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
