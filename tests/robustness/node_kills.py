"""Kills a node of a Ray cluster while it has a task in hand, and counts what the suite lost.

    python -m tests.robustness.node_kills [--kills 5] [--apart]

A cluster of two real nodes, each with its own raylet and workers, runs a small suite. At a moment
that differs from kill to kill, every process of the second node is killed while one of its tasks
is under way: one that would end meanwhile is held. The suite must end by itself with the records
and the weights of an undisturbed run in one process, to the last bit, and leave nothing half made.
A new second node then joins. With `--apart` the nodes share no folder, but a mirror.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine a nice worker gets no turn

import argparse
import sys
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from bench.execution.cluster import OBJECT_STORE, Cluster
from bench.pipeline.plan import make_plan
from bench.pipeline.runner import run
from bench.pipeline.tasks import RunSettings
from bench.storage.store import Store
from bench.suites.loading import compose
from tests.bench.cluster_tasks import on_own_disk
from tests.robustness.crashes import CONTENT, Nobody, content

PLAN = make_plan(compose(CONTENT, ["epochs=40"]))
DOOMED = ".doomed"
NODE = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}


def start_head() -> Nodes:
    """Start a cluster of one node."""
    return Nodes(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})


def noted(task, work, folder):
    """Do a task, and note which node has it in hand; on a node about to die it does not end."""
    node = ray.get_runtime_context().get_node_id()
    note = folder / f"{node}.{uuid.uuid4().hex}"
    note.touch()
    result = work(task)
    while (folder / f"{node}{DOOMED}").exists():
        time.sleep(0.05)
    note.rename(note.with_suffix(".ended"))
    return result


class NotedCluster(Cluster):
    """Runs tasks that note where they are, each node in a folder of its own if they are apart."""

    def __init__(self, *shares, address, folder, apart):
        super().__init__(*shares, address=address)
        self.folder, self.apart = folder, apart

    def each(self, tasks, work, killed):
        work = partial(on_own_disk, work=work) if self.apart else work
        return super().each(tasks, partial(noted, work=work, folder=self.folder), killed)


class Killer(Nobody):
    """Watches a run, and kills a node that has a task in hand, at the n-th sign of progress."""

    def __init__(self, nodes: Nodes, folder: Path, moment: int) -> None:
        self.nodes, self.folder, self.left = nodes, folder, moment
        self.node = nodes.add_node(**NODE)
        self.killed = False

    def torn(self) -> list[Path]:
        """Notes of tasks that the node has begun and not ended."""
        notes = self.folder.glob(f"{self.node.node_id}.*")
        return [note for note in notes if note.suffix not in (".ended", DOOMED)]

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        self.left -= 1
        if self.left > 0 or self.killed:
            return
        doomed = self.folder / f"{self.node.node_id}{DOOMED}"
        doomed.touch()  # what is in hand now stays there until the node is dead
        if self.torn():
            self.nodes.remove_node(self.node, allow_graceful=False)
            self.killed = True
        else:
            doomed.unlink()


def main() -> int:
    """Kill nodes and print the figures; 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="nodes that are killed")
    parser.add_argument("--apart", action="store_true", help="nodes share a mirror, no folder")
    arguments = parser.parse_args()
    kills, apart = arguments.kills, arguments.apart
    torn, survived, lost, leftovers, faults = 0, 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        run(PLAN, undisturbed, Nobody(), RunSettings(jobs=1, threads=1))
        # Weights of nodes apart are at the mirror, under their checksums.
        wanted = "records" if apart else ""
        expected = {k: v for k, v in content(undisturbed).items() if k.startswith(wanted)}
        nodes = start_head()
        for kill in range(kills):
            results, notes = Path(folder) / f"kill-{kill}", Path(folder) / f"notes-{kill}"
            notes.mkdir()
            Store(results).open()
            killer = Killer(nodes, notes, 1 + 23 * kill)
            conduct = RunSettings(
                jobs=0,
                threads=1,
                engine=partial(NotedCluster, address=nodes.address, folder=notes, apart=apart),
                mirror=f"file://{folder}/mirror-{kill}" if apart else None,
                checkpoint_seconds=0,
            )
            outcomes = run(PLAN, results, killer, conduct)
            found = content(results)
            missing = [name for name in expected if found.get(name) != expected[name]]
            left = [*(results / "cache").glob("*/*.partial"), *results.rglob("*.damaged")]
            failed = [outcome.error for outcome in outcomes if outcome.status == "failed"]
            torn += len(killer.torn())
            lost, leftovers = lost + len(missing), leftovers + len(left)
            if killer.killed and not (failed or missing or left):
                survived += 1
            else:
                faults.append(f"kill {kill}: {killer.killed=}, {failed=}, {missing=}, {left=}")
        nodes.shutdown()
    print("\n".join(faults))
    print(
        f"node kills survived: {survived} of {kills}, with {torn} tasks torn, {lost} records or "
        f"weights lost, {leftovers} leftovers"
    )
    return int(survived < kills)


if __name__ == "__main__":
    sys.exit(main())
