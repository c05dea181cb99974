"""MLflow's web interface over a results folder, bound to this machine alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from rich.console import Console

from bench.errors import BenchError, shown
from bench.tracking import own_database, tracking_uri

HOST = "127.0.0.1"
START_SECONDS = 60


def serve(results: Path, port: int, console: Console) -> None:
    """Run MLflow's server until interrupted, and print where to compare the methods.

    A server of one's own (`MLFLOW_TRACKING_URI`) is not started, only its addresses are printed.
    Raises BenchError when there is nothing to show or the server does not start.
    """
    uri = tracking_uri(results)
    database = own_database(results)
    if database is not None and not database.exists():
        raise BenchError(f"{results} holds no mlflow.db; run `python -m bench all` first")
    if uri.startswith("http"):
        _print_views(uri, uri.rstrip("/"), console)
        return
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A session of its own: MLflow's workers are to end with the server that started them.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            _wait(server, port)
            _print_views(uri, f"http://{HOST}:{port}", console)
            console.print("Ctrl-C ends it.")
            server.wait()
        except KeyboardInterrupt:
            console.print("ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _print_views(uri: str, address: str, console: Console) -> None:
    for name, view in comparison_views(uri, address).items():
        console.print(f"{name}: {shown(view)}", soft_wrap=True)


def comparison_views(uri: str, address: str) -> dict[str, str]:
    """Addresses at which MLflow compares the cells of each experiment, by its name."""
    client = MlflowClient(uri)
    views = {}
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'")
        if runs:
            chosen = quote(json.dumps([run.info.run_id for run in runs]))
            place = quote(json.dumps([experiment.experiment_id]))
            views[experiment.name] = f"{address}/#/compare-runs?runs={chosen}&experiments={place}"
    return views


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise BenchError(f"MLflow's server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1)
            return
        except OSError:
            time.sleep(0.2)
    raise BenchError(f"MLflow's server did not answer within {START_SECONDS} s")
