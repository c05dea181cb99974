"""Worker processes: tasks in parallel, each within its time; a dead worker harms only its task.

An `Engine` says where tasks are done: `Workers` on this machine, `bench.execution.cluster` on many.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.managers import SyncManager
from typing import Any, Self

from loky import ProcessPoolExecutor

from bench.execution.engine import Result, Task
from bench.execution.limits import begin_worker, end_with_parent
from bench.execution.machine import MachineError
from bench.execution.messages import Send, listening
from bench.execution.resources import gpu_count, least_memory, resources, variables


class Workers:
    """Up to `jobs` processes of `threads` threads each; one job runs in this very process.

    Each worker has `devices` GPUs to itself, where there are as many; a GPU is used by a worker
    only, since a process that met a CUDA error can use it no more. `memory()` tells the bytes that
    a process takes.
    """

    def __init__(
        self, jobs: int, threads: int, devices: int = 1, memory: Callable[[], int] = least_memory
    ) -> None:
        self.jobs, self.threads = resources(jobs, threads, devices, memory)
        self.devices = devices
        self.here = self.jobs == 1 and not gpu_count()
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

        When a worker is killed, the tasks that may have done it are tried again, each alone; so is
        a task that met a failure of the machine (`MachineError`). One that fails alone as well gets
        the result `killed(task, error)`.
        """
        left = list(tasks)
        while left:
            done, suspects = set(), list[Task]()
            for task, result in (
                self._in_turn(left, work) if self.here else self._together(left, work, suspects)
            ):
                done.add(task)
                yield result
            left = [task for task in left if task not in done]
            # First come, first served: what was in hand stands at the front.
            suspects = suspects or left[: self.jobs]
            for task in suspects:
                yield self._alone(task, work, killed)
            left = [task for task in left if task not in suspects]

    @contextmanager
    def messages(self, hear: Send) -> Iterator[Send]:
        """Return a function that tasks call in their processes; `hear` gets its argument here."""
        if self.here:
            yield hear
            return
        # A child of this process itself, which `end_with_parent` looks for.
        manager = SyncManager(ctx=multiprocessing.get_context("fork"))
        manager.start(end_with_parent)
        with manager:
            channel = manager.Queue()
            with listening(channel, hear):
                yield channel.put

    def _in_turn(
        self, tasks: Sequence[Task], work: Callable[[Task], Result]
    ) -> Iterator[tuple[Task, Result]]:
        """Do one task after the other in this process, until the machine fails."""
        for task in tasks:
            try:
                yield task, work(task)
            except MachineError:
                return

    def _together(
        self, tasks: Sequence[Task], work: Callable[[Task], Result], suspects: list[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Do tasks in parallel, until they are done, a worker is killed or the machine fails.

        After a failure of the machine nothing more is begun; what is in hand elsewhere is finished.
        `suspects` gets the tasks that met one.
        """
        if self.pool is None:
            self.pool = self._start(self.jobs)
        waiting, running = deque(tasks), dict[Any, Task]()
        try:
            while running or (waiting and not suspects):
                while waiting and not suspects and len(running) < self.jobs:
                    task = waiting.popleft()
                    running[self.pool.submit(work, task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        result = future.result()
                    except MachineError:
                        suspects.append(running.pop(future))
                    else:
                        yield running.pop(future), result
        except BrokenProcessPool:
            suspects.extend(running.values())
            self._close(kill=True)
        if suspects:
            self._close(kill=True)

    def _alone(
        self,
        task: Task,
        work: Callable[[Task], Result],
        killed: Callable[[Task, Exception], Result],
    ) -> Result:
        """Do one task with nothing beside it: in a process of its own, but for a job of the CPU.

        Memory that ran out is free again then; no CUDA error stays with a process that uses none.
        """
        self._close()
        try:
            if self.here:
                return work(task)
            self.pool = self._start(1)
            result: Result = self.pool.submit(work, task).result()
            return result
        except (BrokenProcessPool, MachineError) as error:
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
