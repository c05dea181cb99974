"""Kills the whole command with its workers, MLflow and report at a moment of chance.

    python -m tests.robustness.commands_killed [--kills 12] [--seed 0]

The command runs with two workers. One kill in two ends all its processes, the other the parent
alone, whose workers live on beside the next run. The same command is then given again: it must end
with the records, weights and MLflow curves of an undisturbed one, and leave nothing half made.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.robustness.concurrency import METHODS, logged, start
from tests.robustness.crashes import content

WORKERS = ("--jobs", "2", "--checkpoint-every", "0", "--set", "epochs=6")


def killed(results: Path, seconds: float, alone: bool) -> bool:
    """Start the command and kill it, or its parent alone; tell whether it was still there."""
    run = start(results, *WORKERS)
    try:
        run.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        (os.kill if alone else os.killpg)(run.pid, signal.SIGKILL)
        run.wait()
        return True


def faults(results: Path, expected: dict[str, object]) -> list[str]:
    """Give the command again and say what is not as it should be."""
    printed = start(results, *WORKERS).communicate()[0]
    found = [printed] if "warning" in printed or "Traceback" in printed else []
    found += [] if "python -m bench ui" in printed else [f"no tables: {printed}"]
    now = content(results)
    found += [f"lost {name}" for name in expected if now.get(name) != expected[name]]
    methods, wrong = logged(results)
    if methods != sorted(METHODS) or wrong:
        found.append(f"MLflow holds {methods}, {wrong} with another curve")
    left = [*(results / "cache").glob("*/*.partial"), *results.rglob("*.damaged")]
    left += [*(results / "cache" / "checkpoints").glob("[!.]*")]
    left += (results / "reports").glob("*.partial")
    return found + [f"left over: {path}" for path in left]


def main() -> int:
    """Try the kills and print the figures; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12, help="commands that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    generator, told, hits = random.Random(arguments.seed), list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, began = Path(folder) / "undisturbed", time.monotonic()
        start(undisturbed, *WORKERS).communicate()
        expected, length = content(undisturbed), time.monotonic() - began
        for kill in range(arguments.kills):
            results, moment = Path(folder) / f"kill-{kill}", generator.uniform(0, length)
            hits += killed(results, moment, alone=kill % 2 == 1)
            told += [f"kill {kill} at {moment:.2f} s: {each}" for each in faults(results, expected)]
    print("\n".join(told))
    print(f"{hits} commands killed within {length:.1f} s, {len(told)} faults")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main())
