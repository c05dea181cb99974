"""Failures of the machine, as opposed to those of the work that it did."""

from __future__ import annotations

from bench.errors import BenchError

# What errors of memory and of GPUs say, whichever type a library gives them.
MARKS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "cuda error",
    "cudnn_status",
    "cudnn error",
    "cublas_status",
    "cusolver_status",
    "nccl error",
    "outofmemoryerror",
    "acceleratorerror",
    "bus error",
    "insufficient shared memory",
    "memoryerror",
)


class MachineError(BenchError):
    """Memory ran out, or a GPU failed: the same work may succeed elsewhere, or alone.

    After a CUDA error a process can use its GPU no more, so that whoever meets this goes on in
    another one.
    """


def is_machines(found: BaseException | str) -> bool:
    """Return whether an error, or the last line of its traceback, is the machine's."""
    if isinstance(found, MachineError | MemoryError):
        return True
    if isinstance(found, BaseException):
        if isinstance(found, BenchError) or not isinstance(found, RuntimeError):
            return False
        found = f"{type(found).__name__}: {found}"
    return any(mark in found.lower() for mark in MARKS)
