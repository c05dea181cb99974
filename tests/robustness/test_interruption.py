"""A run that is told to stop, or whose disk is full, ends in a sentence and goes on later."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import commands
from tests.command import ROOT, TINY, bench, here

LONG = [*TINY[:-2], "--methods", "independent,l2", "--set", "epochs=2000"]


def start(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_says_how_to_go_on_and_leaves_nothing_running(tmp_path, number, jobs):
    run = start("all", *LONG, "--results", tmp_path, "--jobs", jobs, "--checkpoint-every", 0)
    wait_for(lambda: list((tmp_path / "cache/checkpoints").glob("*.pt")))
    if number == signal.SIGINT:  # a terminal sends it to every process of the run
        os.killpg(run.pid, number)
    else:
        run.send_signal(number)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 128 + number
    assert "the same command goes on from there" in err
    assert "Traceback" not in out + err
    wait_for(lambda: not alive(run.pid), 20)
    assert list((tmp_path / "cache/checkpoints").glob("*.pt"))  # where the next run goes on


@pytest.mark.slow
def test_a_killed_worker_costs_a_retry_and_no_cell(tmp_path):
    arguments = [*TINY[:-2], "--methods", "independent,l2", "--set", "epochs=12"]
    run = start("all", *arguments, "--results", tmp_path, "--jobs", 2, "--checkpoint-every", 0)
    wait_for(lambda: list((tmp_path / "cache/checkpoints").glob("*.pt")))
    workers = [
        int(pid)
        for pid in subprocess.check_output(["pgrep", "-g", str(run.pid)], text=True).split()
        if b"loky.backend.popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(max(workers), signal.SIGKILL)
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, out + err
    assert len(list((tmp_path / "records").rglob("*.parquet"))) == 2


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(tmp_path):
    arguments = ["all", *TINY, "--methods", "independent", "--results", tmp_path]

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    out, err = start(*arguments, preexec_fn=fill).communicate(timeout=400)
    assert "1 of 1 runs failed" in err
    assert "Traceback" not in out + err
    assert not list((tmp_path / "cache").rglob("*.partial"))
    assert "failed" not in here(*arguments).stdout
    assert len(list((tmp_path / "records").rglob("*.parquet"))) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_at_the_end_is_a_sentence(number, monkeypatch, capsys):
    def write():
        raise OSError(number, os.strerror(number), "results/reports")

    monkeypatch.setattr(commands, "app", write)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err.strip()
    assert told == (
        f"error: {os.strerror(number)} at results/reports; what is finished is kept: make it "
        "possible to write, and give the same command again"
    )


def test_another_error_of_the_system_is_not_hidden(monkeypatch):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "a bug")

    monkeypatch.setattr(commands, "app", fail)
    with pytest.raises(FileNotFoundError):
        commands.main()


def test_a_folder_that_takes_no_files_is_named():
    done = bench("all", *TINY, "--results", "/proc/bench", check=False)
    assert done.returncode == 1
    assert "the results folder /proc/bench cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
