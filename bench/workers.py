"""Worker processes: tasks in parallel, each within its time; a dead worker harms only its task.

An `Engine` says where tasks are done: `Workers` on this machine, `bench.cluster` on many.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from filelock import FileLock, Timeout
from joblib.externals.loky import ProcessPoolExecutor, cpu_count

Task = TypeVar("Task")
Result = TypeVar("Result")
Send = Callable[[Any], None]
GRACE = 30.0  # seconds between asking a task to stop and ending its process
MEMORY_PER_WORKER = 3 << 29  # bytes: torch, one data set and its embeddings take about 1 GiB
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# glibc gives the large buffers of every training step back and fetches them anew: page faults that
# took a fifth of a float32 step. Bytes; the first is the most that glibc accepts.
MEMORY_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
_in_worker = False
_claims: list[FileLock] = []


def variables(threads: int) -> dict[str, str]:
    """Environment variables of a process that computes with so many threads."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), **MEMORY_VARIABLES}


class TimeLimitError(BaseException):
    """A task took too long; not an Exception, so that no task catches it by accident."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError in the block when it takes longer; None sets no limit.

    In a worker process a task that does not react, say in a hanging C call, is ended with its
    process after a time of grace. Outside the main thread, where no signal arrives, no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(number: int, frame: Any) -> None:
        raise TimeLimitError(f"it took longer than {seconds:g} seconds (--cell-timeout)")

    former = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if _in_worker:
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if _in_worker:
            faulthandler.cancel_dump_traceback_later()


def least_memory() -> int:
    """Bytes that a worker takes whatever it does."""
    return MEMORY_PER_WORKER


def resources(
    jobs: int, threads: int, devices: int = 1, memory: Callable[[], int] = least_memory
) -> tuple[int, int]:
    """Choose cells at a time and threads of each process, where a person has left them at 0.

    A cell takes `devices` processes. Beside GPUs as many cells run as these suffice for, and share
    the cores; without, as many as cores and free memory bear, with one thread in a process. Cores
    are those that affinity and control group leave to this process; `memory()` tells the bytes
    that each process takes.
    """
    if jobs and threads:
        return jobs, threads
    import torch

    cores = cpu_count()
    if torch.cuda.is_available():
        jobs = jobs or max(1, torch.cuda.device_count() // devices)
        return jobs, threads or max(1, cores // (jobs * devices))
    threads = threads or 1
    fitting = cores // threads // devices
    if not jobs and fitting > 1:
        fitting = min(fitting, _free_memory() // memory() // devices)
    return jobs or max(1, fitting), threads


def idle_cores(threads: int) -> int:
    """Threads of a process that its work leaves idle: all but one where a GPU computes."""
    import torch

    return threads - 1 if torch.cuda.is_available() else 0


def claim_gpus(count: int) -> None:
    """Make GPUs this process's own that no other worker of this machine has, while it lives.

    Where fewer than `count` are free, GPUs are shared with other workers.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    folder = Path(tempfile.gettempdir()) / f"bench-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    claims = list[tuple[str, FileLock]]()
    for name in every:
        lock = FileLock(folder / name)
        if len(claims) < count and _acquired(lock):
            claims.append((name, lock))
    if len(claims) == count:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(name for name, _ in claims)
        _claims.extend(lock for _, lock in claims)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _free_memory() -> int:
    """Bytes that new processes may take: of the machine, within the limit of the control group."""
    free = 1 << 62
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError, LookupError):  # another system, or no limit
        pass
    return free


class Engine(Protocol):
    """Does tasks somewhere, up to `jobs` at once with `threads` threads each, once it is entered.

    A task may take `devices` processes of as many threads, and a GPU for each where there are any.
    Whoever makes one may leave `jobs` and `threads` at 0; the engine chooses.
    """

    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def each(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Result],
        killed: Callable[[Task, Exception], Result],
    ) -> Iterator[Result]:
        """Do every task, yielding results as they come.

        A task whose process dies is tried again; when it dies again and again, its result is
        `killed(task, error)`.
        """

    def messages(self, hear: Send) -> AbstractContextManager[Send]:
        """Give a function that tasks may call wherever they run; `hear` gets its argument here."""


class Workers:
    """Up to `jobs` processes of `threads` threads each; one job runs in this very process.

    Each worker has `devices` GPUs to itself, where there are as many. `memory()` tells the bytes
    that a process takes.
    """

    def __init__(
        self, jobs: int, threads: int, devices: int = 1, memory: Callable[[], int] = least_memory
    ) -> None:
        self.jobs, self.threads = resources(jobs, threads, devices, memory)
        self.devices = devices
        self.pool: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close(kill=error[0] is not None)

    def each(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Result],
        killed: Callable[[Task, Exception], Result],
    ) -> Iterator[Result]:
        """Do every task, yielding results as they come.

        When a worker is killed, the tasks that may have done it are tried again, each alone;
        one whose worker dies again gets the result `killed(task, error)`.
        """
        if self.jobs == 1:
            yield from map(work, tasks)
            return
        left = list(tasks)
        while left:
            done = set()
            for task, result in self._together(left, work):
                done.add(task)
                yield result
            left = [task for task in left if task not in done]
            # First come, first served: what was in hand stands at the front.
            for task in left[: self.jobs]:
                yield self._alone(task, work, killed)
            left = left[self.jobs :]

    @contextmanager
    def messages(self, hear: Send) -> Iterator[Send]:
        """Give a function that tasks may call in their processes; `hear` gets its argument here."""
        if self.jobs == 1:
            yield hear
            return
        with multiprocessing.Manager() as manager:
            channel = manager.Queue()
            with listening(channel, hear):
                yield channel.put

    def _together(
        self, tasks: Sequence[Task], work: Callable[[Task], Result]
    ) -> Iterator[tuple[Task, Result]]:
        """Do tasks in parallel, until they are done or a worker is killed."""
        if self.pool is None:
            self.pool = self._start(self.jobs)
        try:
            futures = {self.pool.submit(work, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            self._close(kill=True)

    def _alone(
        self,
        task: Task,
        work: Callable[[Task], Result],
        killed: Callable[[Task, Exception], Result],
    ) -> Result:
        self._close()
        self.pool = self._start(1)
        try:
            result: Result = self.pool.submit(work, task).result()
            return result
        except BrokenProcessPool as error:
            return killed(task, error)
        finally:
            self._close(kill=True)

    def _start(self, count: int) -> Any:
        return ProcessPoolExecutor(
            count,
            timeout=10,  # an idle worker ends, also when its parent was killed
            initializer=begin_worker,
            initargs=(self.devices,),
            env=variables(self.threads),
        )

    def _close(self, kill: bool = False) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, kill_workers=kill)
            self.pool = None


@contextmanager
def listening(channel: Any, hear: Send) -> Iterator[None]:
    """Hear what is put into a queue, in a thread, while the block runs."""

    def listen() -> None:
        while (message := channel.get()) is not None:
            hear(message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        channel.put(None)
        listener.join()


def begin_worker(devices: int = 0) -> None:
    """Leave Ctrl-C to the parent, which ends its workers; take GPUs of its own."""
    global _in_worker
    _in_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if devices:
        claim_gpus(devices)
