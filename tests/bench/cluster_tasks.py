"""What the tests of the cluster do on its nodes; a node imports this file alone, and no torch."""

import os
import signal
import time
from pathlib import Path

import ray

from bench.execution.resources import THREAD_VARIABLES


def where(task):
    """Name the node that does a task."""
    time.sleep(0.3)
    return task, here()


def here():
    """Name this node."""
    return ray.get_runtime_context().get_node_id()


def visible_gpus():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def span(task):
    """Tell when a task began and ended."""
    began = time.time()
    time.sleep(0.2)
    return began, time.time()


def double_or_die(task, folder):
    """Double a number; a task `(n, "die")` kills its process as the out-of-memory killer does."""
    number, *how = task
    (folder / f"{number}.{os.getpid()}").touch()
    if how == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def fail(task):
    raise ZeroDivisionError(f"task {task}")


def surroundings(task):
    """Tell what a task finds set: threads, interrupts, folder."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return {name: os.environ.get(name) for name in THREAD_VARIABLES}, ignored, Path.cwd()


def tell(task, send):
    send((task, "from", os.getpid()))


def on_own_disk(task, work):
    """Do a task as on a machine whose results folder is its own."""
    folder = work.keywords["results"] / ray.get_runtime_context().get_node_id()
    return work(task, results=folder)


def gpu_and_process(task):
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()
