"""Worker processes that are killed, hang or take too long."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from bench.execution import limits
from bench.execution import resources as sizes
from bench.execution.limits import TimeLimitError, time_limit
from bench.execution.resources import resources
from bench.execution.workers import Workers


def double_or_die(task):
    """Double a number; a task `(n, "die")` kills its process as the out-of-memory killer does."""
    number, *how = task
    if how == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def name_the_dead(task, error):
    return f"{task[0]} was killed: {'SIGKILL' in str(error)}"


def test_a_killed_worker_takes_nothing_along_but_its_own_task():
    tasks = [(0,), (1, "die"), (2,), (3,), (4, "die"), (5,)]
    with Workers(jobs=2, threads=1) as team:
        found = list(team.each(tasks, double_or_die, name_the_dead))
        assert sorted(map(str, found)) == sorted(
            ["0", "4", "6", "10", "1 was killed: True", "4 was killed: True"]
        )
        assert list(team.each([(7,)], double_or_die, name_the_dead)) == [14]


def test_one_job_runs_in_this_process():
    with Workers(jobs=1, threads=1) as team:
        assert list(team.each([1, 2], lambda task: (task, os.getpid()), name_the_dead)) == [
            (1, os.getpid()),
            (2, os.getpid()),
        ]


def threads_of_worker(task):
    return os.environ["OMP_NUM_THREADS"], signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_get_their_share_of_threads_and_leave_interrupts_to_the_parent():
    with Workers(jobs=2, threads=3) as team:
        assert list(team.each([0], threads_of_worker, name_the_dead)) == [("3", True)]


def stubborn():
    """Sleep on after any exception."""
    while True:
        with suppress(Exception):
            time.sleep(10)


def test_a_task_that_takes_too_long_is_stopped_even_when_it_catches_every_exception():
    started = time.monotonic()
    with pytest.raises(TimeLimitError, match="longer than 0.2 seconds"), time_limit(0.2):
        stubborn()
    assert time.monotonic() - started < 5
    with time_limit(0.2):
        pass
    time.sleep(0.3)  # the limit ended with its block


def hang(task):
    """Hang where no Python signal handler runs, as a deadlock in a C library does."""
    limits.GRACE = 0.2
    with time_limit(0.2):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)


def test_a_task_that_does_not_react_is_ended_with_its_process():
    started = time.monotonic()
    with Workers(jobs=2, threads=1) as team:
        found = list(team.each(["h"], hang, lambda task, error: "ended"))
    assert found == ["ended"]
    assert time.monotonic() - started < 55


def test_memory_and_cores_bound_the_number_of_workers(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sizes, "cpu_count", lambda: 8)
    monkeypatch.setattr(sizes, "free_memory", lambda: 1 << 50)
    assert (resources(0, 0), resources(0, 3), resources(5, 0)) == ((8, 1), (2, 3), (5, 1))
    monkeypatch.setattr(sizes, "free_memory", lambda: 3 * sizes.MEMORY_PER_WORKER)
    assert (resources(0, 0), resources(5, 0)) == ((3, 1), (5, 1))
    assert resources(0, 0, memory=lambda: sizes.MEMORY_PER_WORKER * 3 // 2) == (2, 1)
    monkeypatch.setattr(sizes, "free_memory", lambda: 0)
    assert resources(0, 0) == (1, 1)


def test_cells_share_gpus_and_cores(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(sizes, "cpu_count", lambda: 32)
    monkeypatch.setattr(sizes, "free_memory", lambda: 1 << 40)
    assert resources(0, 0) == (4, 8)
    assert resources(0, 0, devices=2) == (2, 8)
    assert resources(0, 0, devices=4) == (1, 8)
    assert resources(1, 0) == (1, 32)
    assert sizes.idle_cores(8) == 7


def claim(task):
    count, barrier = task

    torch.cuda.device_count = lambda: 4
    sizes.claim_gpus(count)
    barrier.wait(60)  # nobody lets go before everybody has chosen
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_every_worker_has_gpus_of_its_own_while_there_are_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with multiprocessing.Manager() as manager:
        barrier = manager.Barrier(3)
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            found = pool.map(claim, [(2, barrier)] * 3, chunksize=1)
    # Two pairs are apart, and a third worker shares one of them.
    assert sorted(found) == ["0,1", "0,1", "2,3"]


WORKERS_OF_A_KILLED_RUN = """
import os, sys, time
from bench.execution.workers import Workers
def busy(task):
    open(f"{sys.argv[1] if len(sys.argv) > 1 else task}/{os.getpid()}", "w").close()
    time.sleep(1)
with Workers(2, 1) as team:
    list(team.each([sys.argv[1]] * 2, busy, None))
"""


@pytest.mark.slow
def test_workers_of_a_killed_run_end_by_themselves(tmp_path):
    code = WORKERS_OF_A_KILLED_RUN
    run = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parents[3])
    while not (pids := [int(path.name) for path in tmp_path.iterdir()]):
        assert run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.wait()
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError("workers outlive their run")


@pytest.mark.parametrize("theirs", ["link", "file", "open to all", "another user's"])
def test_claims_lie_where_nobody_else_can_write(theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = tmp_path / f"bench-gpus-{os.getuid()}"
    assert sizes._claims_folder() == first
    first.rmdir()
    if theirs == "link":
        (tmp_path / "elsewhere").mkdir()
        first.symlink_to(tmp_path / "elsewhere")
    elif theirs == "file":
        first.touch()
    else:
        first.mkdir()
        first.chmod(0o777 if theirs == "open to all" else 0o700)
    if theirs == "another user's":
        if os.getuid() != 0:
            pytest.skip("only root may give a folder away")
        os.chown(first, 4001, 4001)
    folder = sizes._claims_folder()
    assert folder.name == f"{first.name}-1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


ORPHANS = """
import sys, time
from bench.execution.workers import Workers
def wait(task):
    time.sleep(300)
if __name__ == "__main__":
    with Workers(jobs=2, threads=1) as team, team.messages(print) as send:
        print("started", flush=True)
        list(team.each([0, 1], wait, None))
"""


LATE = """
import multiprocessing, os, time
from bench.execution.limits import end_with_parent
def work(first):
    while os.getppid() == first:
        time.sleep(0.01)
    end_with_parent()
    time.sleep(300)
if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),))
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


def test_a_process_whose_parent_died_before_it_began_ends_too():
    with subprocess.Popen(
        [sys.executable, "-c", LATE],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        child = psutil.Process(int(run.stdout.readline()))
        run.kill()
        run.wait()
        _, alive = psutil.wait_procs([child], timeout=30)
    for process in alive:
        process.kill()
    assert not alive


def members(group):
    return subprocess.run(
        ["pgrep", "-g", str(group)], capture_output=True, text=True
    ).stdout.split()


def test_no_process_stays_when_the_parent_alone_is_killed(tmp_path):
    """Two workers amid their tasks, the manager of messages and loky's resource tracker."""
    (tmp_path / "orphans.py").write_text(ORPHANS)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "orphans.py"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(members(run.pid)) < 5 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(members(run.pid)) >= 5
        time.sleep(2)  # the workers begin their tasks
        run.kill()
        run.wait()
        deadline = time.monotonic() + 60
        while members(run.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert members(run.pid) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.stdout.close()
