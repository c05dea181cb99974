"""Time limits of tasks, and how a worker process begins."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.execution.resources import claim_gpus

HEARTBEAT = 1.0  # seconds between looks for the parent
GRACE = 30.0  # seconds between asking a task to stop and ending its process


_in_worker = False


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


def begin_worker(devices: int = 0) -> None:
    """Leave Ctrl-C to the parent, which ends its workers, and end with it; take GPUs of its own."""
    global _in_worker
    if not _in_worker:
        end_with_parent()
    _in_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if devices:
        claim_gpus(devices)


def end_with_parent() -> None:
    """End this process soon after its parent, also when that was killed: nobody else would.

    The parent may be gone before this is called, so who it was is known from how it began.
    """
    known = multiprocessing.parent_process()
    parent = os.getppid() if known is None or known.pid is None else known.pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(HEARTBEAT)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
