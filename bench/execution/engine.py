"""The interface of what runs tasks: worker processes or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self, TypeVar

from bench.execution.messages import Send

Task = TypeVar("Task")


Result = TypeVar("Result")


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

        A task whose process dies is tried again, and one that meets a failure of the machine
        (`MachineError`) is, in a process of its own; when that goes on, its result is
        `killed(task, error)`.
        """

    def messages(self, hear: Send) -> AbstractContextManager[Send]:
        """Return a function that tasks call wherever they run; `hear` gets its argument here."""
