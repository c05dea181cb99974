"""Runs the command line, in processes of its own or here."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--suite", str(ROOT / "tests" / "tiny.toml"), "--jobs", "1"]


def bench(*arguments, check=True, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.update(variables)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def here(*arguments, check=True, **variables):
    """Run a command in this process, which need not import everything anew."""
    import torch

    from bench.cli import commands, console

    threads, out, err = torch.get_num_threads(), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in {"OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables}.items():
            patch.setenv(name, value)
        for terminal in (console.console, console.errors):
            patch.setattr(terminal, "_width", int(os.environ["COLUMNS"]))
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        patch.chdir(ROOT)
        try:
            commands.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            torch.set_num_threads(threads)
    done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
