"""Cores, memory and GPUs of this machine, and how many runs they hold at once."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from loky import cpu_count

from bench.errors import BenchError

MEMORY_PER_WORKER = 3 << 29  # bytes: torch, one dataset and its embeddings take about 1 GiB
# Beside a GPU: CUDA's own libraries, pinned batches, and readers, which share most of theirs.
MEMORY_PER_GPU = 4 << 30
PLACES = 64  # workers that may claim one GPU
SHARED_MEMORY = "/dev/shm"


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# glibc gives the large buffers of every training step back and fetches them anew: page faults that
# took a fifth of a float32 step. Bytes; the first is the most that glibc accepts.
MEMORY_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


_claims: list[FileLock] = []


def variables(threads: int) -> dict[str, str]:
    """Environment variables of a process that computes with so many threads."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), **MEMORY_VARIABLES}


def least_memory() -> int:
    """Bytes that a worker takes whatever it does."""
    return MEMORY_PER_WORKER


def resources(
    jobs: int, threads: int, devices: int = 1, memory: Callable[[], int] = least_memory
) -> tuple[int, int]:
    """Choose cells at a time and threads of each process, where a person has left them at 0.

    A cell takes `devices` processes. Beside GPUs as many cells run as these and the machine's free
    memory suffice for, and share the cores; without, as many as cores and free memory bear, with
    one thread in a process. Cores are those that affinity and control group leave to this process;
    `memory()` tells the bytes that each process takes where it computes on the CPU.
    """
    if jobs and threads:
        return jobs, threads
    cores, gpus = cpu_count(), gpu_count()
    if gpus:
        fitting = max(1, gpus // devices)
        if not jobs and fitting > 1:
            fitting = min(fitting, free_memory() // host_memory(devices))
        jobs = jobs or max(1, fitting)
        return jobs, threads or max(1, cores // (jobs * devices))
    threads = threads or 1
    fitting = cores // threads // devices
    if not jobs and fitting > 1:
        fitting = min(fitting, free_memory() // memory() // devices)
    return jobs or max(1, fitting), threads


def gpu_count() -> int:
    """Count the GPUs that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def host_memory(devices: int) -> int:
    """Bytes of the machine's own memory that a cell on so many GPUs takes: a process for each."""
    return devices * MEMORY_PER_GPU


def idle_cores(threads: int) -> int:
    """Threads of a process that its work leaves idle: all but one where a GPU computes."""
    return threads - 1 if gpu_count() else 0


def claim_gpus(count: int) -> None:
    """Make GPUs this process's own, while it lives, that fewest other workers have claimed.

    Workers beyond the number of GPUs are spread over all of them: none falls back to the first.
    Where there are fewer GPUs than `count`, nothing is claimed.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    every = [name.strip() for name in every if name.strip()]
    if not 0 < count <= len(every):
        return
    folder = _claims_folder()
    claims: dict[str, FileLock] = {}
    # Every GPU has places; the first ones are taken on all GPUs before a second one is.
    with FileLock(folder / "choosing"):  # of two that choose at once, each would get a part
        for place in range(PLACES):
            for name in every:
                lock = FileLock(folder / f"{name.replace('/', '_')}-{place}")
                if len(claims) < count and name not in claims and _acquired(lock):
                    claims[name] = lock
    if len(claims) == count:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(name for name in every if name in claims)
        _claims.extend(claims.values())


def reading_ahead(readers: int, ahead: int, bytes_of_batch: int) -> tuple[int, int]:
    """Choose readers and batches that each has ready, so that shared memory holds them.

    Batches of other processes lie in shared memory, of which a container has 64 MB unless it is
    told otherwise; a reader that finds none left dies of a bus error. This process takes half of
    its GPU's share of what is free; with too little for two batches, it reads by itself.
    """
    share = free_shared_memory() // (2 * max(1, len(list(Path("/dev").glob("nvidia[0-9]*")))))
    fitting = share // max(1, bytes_of_batch)
    if fitting < 2:
        return 0, ahead
    readers = min(readers, fitting // 2)
    return readers, max(2, min(ahead, fitting // max(1, readers)))


def free_shared_memory() -> int:
    """Bytes free in /dev/shm; plenty where there is no such place."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 1 << 62


def _claims_folder() -> Path:
    """Folder of this user's claims, into which nobody else can write.

    In a folder for everybody, another user may have made one of the same name, or a link.
    """
    for number in range(1000):
        folder = (
            Path(tempfile.gettempdir()) / f"bench-gpus-{os.getuid()}{f'-{number}' * (number > 0)}"
        )
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not found.st_mode & 0o022
        ):
            return folder
    raise BenchError(
        f"{tempfile.gettempdir()} holds no folder for claims of GPUs that is this user's own; name "
        "another place for temporary files with TMPDIR"
    )


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def free_memory() -> int:
    """Bytes that new processes may take: of the machine, within the limit of the control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")  # of which psutil knows nothing
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError):  # another system, or no limit
        pass
    return free
