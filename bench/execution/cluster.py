"""Cells as Ray tasks on the nodes of a cluster; a lost node costs the time of its tasks alone.

Cells are idempotent: a task that Ray tries again on another node finds what is finished, in a
folder that all nodes share or at a mirror (`bench.storage.mirror`), and makes the rest. Who runs
where, retries and GPUs are Ray's. Every node must have the same code and packages, since a table
must not mix results of two; a node that differs is refused, also one that joins later.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Self

from bench.errors import BenchError
from bench.execution.engine import Result, Task
from bench.execution.limits import begin_worker
from bench.execution.machine import MachineError
from bench.execution.messages import Send, listening
from bench.execution.resources import host_memory, least_memory, variables
from bench.plugins import registry
from bench.storage.digest import source_digest
from bench.storage.provenance import environment

RETRIES = 3  # times that a task is tried again when its worker or its node dies
KNOCK = 10.0  # seconds that a Ray may take to answer at all
HTTP2_SETTINGS = b"\x04"  # type of a frame
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + HTTP2_SETTINGS + bytes(5)
PATIENCE = 60.0  # seconds that a node may take to say which code it has
OBJECT_STORE = 100 << 20  # bytes: specs and outcomes are small, everything else is a file
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # That a node is lost is told in a sentence; the log of its daemon would follow.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated",
}
# Ray's switch to the loopback address, read when it is imported: nobody else is to send tasks to a
# Ray of this machine's own.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
INSTALL = 'install it with `pip install -e ".[cluster]"`'


class Cluster:
    """Up to `jobs` tasks at once, 0 for as many as fit, on a Ray cluster.

    Each task takes `devices` times `threads` cores (0: one, or a GPU's share of them), and as many
    GPUs where the cluster has any, with a process of its own and memory of the machine beside them;
    where not, `devices` times the bytes that `memory()` tells.
    Without an address, or `RAY_ADDRESS`, a Ray of this machine's own is started and stopped. Raises
    BenchError, once entered, when Ray is missing, out of reach or too small, and when a node has
    other code than this process.
    """

    def __init__(
        self,
        jobs: int,
        threads: int,
        devices: int = 1,
        memory: Callable[[], int] = least_memory,
        address: str | None = None,
    ) -> None:
        self.jobs, self.threads, self.devices, self.memory = jobs, threads, devices, memory
        self.address = address or os.environ.get("RAY_ADDRESS")

    def __enter__(self) -> Self:
        for name, value in {**RAY_VARIABLES, **({} if self.address else ALONE)}.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise BenchError(f"--engine ray needs Ray, which is missing; {INSTALL}") from error
        self.ray: Any = ray
        self._connect()
        try:
            self._choose_share()
            self._compare_nodes()
        except BaseException:
            self.ray.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def each(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Result],
        killed: Callable[[Task, Exception], Result],
    ) -> Iterator[Result]:
        """Do every task on some node, yielding results as they come; see `Engine`."""
        # A process sees the GPUs that it was given at its first task, and a CUDA error stays with
        # it: where GPUs are counted, each task has a process of its own; `options` would lose that.
        do = self.ray.remote(max_retries=RETRIES, max_calls=1 if self.gpus else 0, **self.share)(
            _do
        )
        waiting, running = deque(tasks), dict[Future[Result], Task]()
        again = set[Task]()
        while waiting or running:
            while waiting and len(running) < (self.jobs or len(tasks)):
                task = waiting.popleft()
                # A future, since Ctrl-C breaks a wait in Ray's own code.
                running[do.remote(task, work, identity(), os.getcwd()).future()] = task
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(ended)
                try:
                    yield self._result(ended, task, killed)
                except MachineError as error:
                    if task in again:
                        yield killed(task, error)
                        continue
                    again.add(task)
                    waiting.appendleft(task)

    def _result(
        self, ended: Future[Result], task: Task, killed: Callable[[Task, Exception], Result]
    ) -> Result:
        errors = self.ray.exceptions
        try:
            return ended.result()
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            return killed(task, error)

    def ask(self, question: Callable[[], Any]) -> list[Any]:
        """Answer of every node that cells may run on: those with GPUs, where there are any."""
        ask = self.ray.remote(max_calls=1)(question)
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        working = [node for node in nodes if node["Resources"].get("GPU")] or nodes
        answers = []
        for node in working:
            gpus = 1 if node["Resources"].get("GPU") else 0
            options = {**self._on(node["NodeID"]), "num_gpus": gpus}
            answers.append(ask.options(**options).remote().future())
        return [answer.result(PATIENCE) for answer in answers]

    @contextmanager
    def messages(self, hear: Send) -> Iterator[Send]:
        """Return a function that tasks may call on any node; `hear` gets its argument here.

        The queue lives on this node, so that no lost node takes it along. A sender does not wait:
        Ray would lend its cores to another task meanwhile.
        """
        from ray.util.queue import Queue

        queue = Queue(actor_options=self._on(self.ray.get_runtime_context().get_node_id()))
        with listening(queue, hear):
            yield queue.actor.put_nowait.remote

    def _on(self, node: str) -> dict[str, Any]:
        """Options of what must run on one node and takes nothing from its tasks."""
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return {"num_cpus": 0, "scheduling_strategy": strategy(node, soft=False)}

    # ---------------------------------------------------------------------------- connecting

    def _connect(self) -> None:
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        if self.address:
            if self.address.startswith("ray://"):
                raise _unreachable(self.address, "that is a port of Ray's client")
            _knock(self.address)
        try:
            self.ray.init(
                address=self.address or "local",
                log_to_driver=False,
                logging_level="error",
                **({} if self.address else own),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreachable(self.address, str(error).splitlines()[0]) from error

    def _choose_share(self) -> None:
        """State what of a node each task takes; raises BenchError when no node has as much."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = self.devices * any(node.get("GPU") for node in nodes)
        if not self.threads:
            shares = [node["CPU"] // node["GPU"] for node in nodes if node.get("GPU")]
            self.threads = max(1, int(min(shares, default=1)))
        cores = self.devices * self.threads
        memory = host_memory(self.devices) if gpus else self.devices * self.memory()
        self.gpus = gpus
        self.share = {
            "num_cpus": cores,
            "num_gpus": gpus,
            "memory": memory,
            "runtime_env": {"env_vars": variables(self.threads)},
        }
        least = {"CPU": cores, "GPU": gpus, "memory": memory}
        if not any(all(node.get(k, 0) >= v for k, v in least.items()) for node in nodes):
            more = f"{f', {gpus} GPUs' if gpus else ''} and {memory / 2**30:.1f} GiB of memory"
            raise BenchError(
                f"no node of the cluster has {cores} cores{more} for one cell; give fewer "
                "--threads or --devices, or a smaller batch_size"
            )

    def _compare_nodes(self) -> None:
        """Refuse a cluster where a node has other code or packages than this process."""
        probe, errors = self.ray.remote(_tell_identity), self.ray.exceptions
        answers = [
            (
                node["NodeManagerAddress"],
                probe.options(**self._on(node["NodeID"])).remote().future(),
            )
            for node in self.ray.nodes()
            if node["Alive"]
        ]
        for name, answer in answers:
            try:
                _refuse_difference(name, answer.result(PATIENCE), identity())
            except (errors.NodeDiedError, errors.WorkerCrashedError, errors.TaskUnschedulableError):
                continue  # lost this moment; every task compares again
            except (errors.RayError, TimeoutError) as error:
                cause = (str(error).strip() or "it does not answer").splitlines()[-1]
                raise _other_code(name, f"it cannot say which code it has: {cause}") from error


@cache
def identity() -> dict[str, str]:
    """State which code and which packages compute in this process, part by part."""
    here = environment()
    plugins = {
        f"{kind}/{name}": source_digest(registry.sources(kind, name))
        for kind in ("methods", "datasets")
        for name in registry.discover(kind)
    }
    bench = source_digest((registry.ROOT / "bench").rglob("*.py"))
    return {"bench": bench, **plugins, "Python": here["python"], **here["packages"]}


def _tell_identity() -> dict[str, str]:
    return identity()


def _do(
    task: Task, work: Callable[[Task], Result], expected: dict[str, str], folder: str
) -> Result:
    """Do one task in a process of some node, if that has the code of the process that asks."""
    begin_worker()
    with suppress(OSError):  # relative paths mean what they mean there, where the node has them
        os.chdir(folder)
    _refuse_difference(socket.gethostname(), identity(), expected)
    return work(task)


def _refuse_difference(node: str, there: dict[str, str], here: dict[str, str]) -> None:
    parts = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if parts:
        told = [f"{name} {there.get(name)} (here {here.get(name)})" for name in parts[:3]]
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        raise _other_code(node, f"it differs from this machine in {', '.join(told)}{more}")


def _other_code(node: str, fault: str) -> BenchError:
    return BenchError(
        f"node {node} is refused: {fault}; install the same checkout, plug-ins and packages on "
        "every node, and leave them as they are while a suite runs"
    )


def _unreachable(address: str | None, reason: str) -> BenchError:
    if address is None:
        return BenchError(f"Ray could not be started on this machine: {reason}")
    return BenchError(
        f"there is no Ray cluster at {address}: {reason}; give --address HOST:PORT as `ray start` "
        "prints it, or none to start Ray on this machine"
    )


def _knock(address: str) -> None:
    """Try an address that names a port: where no Ray answers, Ray itself tries for minutes.

    Ray speaks HTTP/2, whose servers begin with a frame of settings (RFC 9113, §3.4).
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        with socket.create_connection((host, int(port)), timeout=KNOCK) as line:
            line.sendall(HTTP2_PREFACE)
            header = line.makefile("rb").read(9)
            if header[3:4] != HTTP2_SETTINGS and os.environ.get("RAY_USE_TLS") != "1":
                raise OSError("something else answers there, perhaps Ray's dashboard")
    except OSError as error:
        raise _unreachable(address, str(error)) from error
