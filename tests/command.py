"""Runs the command line in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = [
    *("--dataset", "synthetic", "--scenarios", "extended-class", "--seeds", "0"),
    *("--set", "epochs=1", "--set", "image_size=16", "--set", "width=16"),
    *("--set", "synthetic.images_per_class=4", "--jobs", "1"),
]


def bench(*arguments, check=True, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.update(variables)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
