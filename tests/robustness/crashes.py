"""Kills a run at a chosen touch of the file system, starts it again, and counts what was lost.

    python -m tests.robustness.crashes [--every 1] [--chains 5]

A run touches its results folder at some hundred moments: each time it opens, renames, makes or
removes something there. For every n-th of them a process is started in an empty folder and killed
with SIGKILL just before that touch; then the run is started again. It must end with the records
and the weights of an undisturbed run, to the last bit, and must not make anew what was finished.
A chain kills the same run again and again, at random touches, before it may end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


from bench.evaluation import records
from bench.pipeline.plan import make_plan
from bench.pipeline.runner import run
from bench.pipeline.tasks import RunSettings
from bench.storage.metadata import RunMetadata
from bench.storage.results import record_paths
from bench.storage.store import Store
from bench.suites.loading import compose

CONTENT: dict[str, object] = {
    "name": "toy",
    "summary": "a toy",
    "dataset": "synthetic",
    "scenarios": ["extended-class"],
    "methods": ["independent", "l2"],
    "seeds": [0],
    "shares": 3,
    "recipe": {"epochs": 3, "image_size": 16, "width": 16, "batch_size": 16},
    "options": {"synthetic": {"images_per_class": 4}},
}
TOUCHES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.link"}


class Nobody:
    """Watches nothing."""

    def begin(self, runs: int, models: int) -> None: ...

    def progress(self, label: str, stage: str, done: int, total: int) -> None: ...

    def finish(self, outcome: object) -> None: ...


def run_suite(results: Path, suite: dict[str, object], die_at: int | None = None) -> int:
    """Run a suite in a child process, killed before touch `die_at`; return how it ended.

    The answer is 0, −SIGKILL, or 1 for a run with a failed cell.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    touches = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touches
        if event in TOUCHES and any(str(results) in str(argument) for argument in arguments):
            touches += 1
            if touches == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        Store(results).open()
        conduct = RunSettings(jobs=1, threads=1, checkpoint_seconds=0)
        outcomes = run(make_plan(compose(suite)), results, Nobody(), conduct)
        (results.parent / "touches").write_text(str(touches))
        os._exit(int(any(outcome.status == "failed" for outcome in outcomes)))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def content(results: Path) -> dict[str, object]:
    """Everything that a suite leaves and that must not depend on what happened on the way."""
    found: dict[str, object] = {}
    for path in record_paths(results):
        rows, note = records.read(path)
        found[str(path.relative_to(results))] = (rows.to_csv(float_format="%r"), untimed(note))
    for path in sorted((results / "cache" / "models").glob("*/weights.safetensors")):
        found[str(path.relative_to(results))] = path.read_bytes()
    return found


def untimed(note: RunMetadata) -> str:
    """Return what a run's metadata says but for measured times and the hours of work."""
    measured = {"encoder_ms": {}, "search_ms": [], "fit_seconds": 0.0}
    costs = note.costs and note.costs.model_copy(update=measured)
    stages = sorted(note.work)  # what was worked on, not when
    return str(note.model_copy(update={"rates": {}, "costs": costs, "work": stages}))


def finished(results: Path) -> dict[Path, int]:
    """When each finished stage was made."""
    manifests = (results / "cache").glob("*/*/manifest.json")
    return {path: path.stat().st_mtime_ns for path in manifests if path.parent.suffix == ""}


@dataclass
class Tally:
    """What was tried and what was lost."""

    points: int = 0
    lost: int = 0
    remade: int = 0
    leftovers: int = 0
    faults: list[str] = field(default_factory=list)

    def check(self, name: str, results: Path, expected: dict[str, object]) -> None:
        """Finish a run that was killed and compare what it leaves."""
        before = finished(results)
        code = run_suite(results, CONTENT)
        after, now = finished(results), content(results)
        lost = [key for key in expected if code or now.get(key) != expected[key]]
        remade = [path for path, made in before.items() if after.get(path) != made]
        # A dot file is a write that was cut off; it is removed when it is an hour old.
        leftovers = [*(results / "cache").glob("*/*.partial"), *results.rglob("*.damaged")]
        leftovers += (results / "cache" / "checkpoints").glob("[!.]*")
        self.lost += len(lost)
        self.remade += len(remade)
        self.leftovers += len(leftovers)
        if code or lost or remade or leftovers:
            self.faults.append(f"{name}: ended with {code}, {lost=}, {remade=}, {leftovers=}")


def main() -> int:
    """Try the kill points and print the figures; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="try each n-th touch")
    parser.add_argument("--first", type=int, default=1, help="begin with this touch")
    parser.add_argument("--chains", type=int, default=3, help="runs that are killed many times")
    arguments = parser.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed" / "results"
        undisturbed.parent.mkdir()
        assert run_suite(undisturbed, CONTENT) == 0
        expected = content(undisturbed)
        touches = int((undisturbed.parent / "touches").read_text())
        for point in range(arguments.first, touches + 1, arguments.every):
            results = Path(folder) / f"point-{point}" / "results"
            results.parent.mkdir()
            assert run_suite(results, CONTENT, point) == -signal.SIGKILL
            tally.points += 1
            tally.check(f"touch {point}", results, expected)
        generator = random.Random(0)
        for chain in range(arguments.chains):
            results = Path(folder) / f"chain-{chain}" / "results"
            results.parent.mkdir()
            half = partial(generator.randint, 1, touches // 2)
            while run_suite(results, CONTENT, half()) == -signal.SIGKILL:
                tally.points += 1
            tally.check(f"chain {chain}", results, expected)
    print("\n".join(tally.faults))
    print(
        f"{tally.points} kill points of {touches} touches tried, {tally.lost} records or weights "
        f"lost, {tally.remade} finished stages made anew, {tally.leftovers} leftovers"
    )
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
