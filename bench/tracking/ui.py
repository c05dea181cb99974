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

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from rich.console import Console

from bench.errors import BenchError, command, shown
from bench.output.texts import told
from bench.tracking.connection import attended, explained, own_database, reach, tracking_uri
from bench.tracking.views import VIEWS_TAG, View, is_tried, plain_path

HOST = "127.0.0.1"
ANSWER_SECONDS = 60  # until a server elsewhere has told its views
START_SECONDS = 180  # until one of our own answers: a busy machine needs more than a minute
NEWS = 10.0  # seconds between two words on a server that is starting


def serve(results: Path, port: int, console: Console) -> None:
    """Run MLflow's server until interrupted, and print where to compare the methods.

    A server of one's own (`MLFLOW_TRACKING_URI`) is not started, only its addresses are printed.
    Raises BenchError when there is nothing to show or the server does not start.
    """
    uri = tracking_uri(results)
    database = own_database(results)
    if database is not None and not database.exists():
        raise BenchError(
            f"{results} holds no mlflow.db; run `{command('all', results=results)}` first"
        )
    try:
        reach(uri, results)
        if uri.startswith("http"):

            def slow() -> None:
                console.print(f"MLflow is there, but slow: at most {ANSWER_SECONDS} s")

            def ask() -> dict[str, str]:
                return comparison_views(uri, uri.rstrip("/"))

            _print_views(attended(ask, uri, results, ANSWER_SECONDS, slow), console)
        else:
            _run_server(uri, port or free_port(), console)
    except Exception as error:  # MLflow's are of many kinds
        reason = explained(error, uri, results)
        raise BenchError(f"MLflow at {uri} cannot be shown: {reason}") from error


def _run_server(uri: str, port: int, console: Console) -> None:
    server_command = [sys.executable, "-m", "mlflow", "server"]
    server_command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # Not among the arguments, where every user of this machine could read a password in it.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A session of its own: MLflow's workers are to end with the server that started them.
    with subprocess.Popen(
        server_command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            console.print("starting MLflow's server")
            _wait(server, port, console)
            _print_views(comparison_views(uri, f"http://{HOST}:{port}"), console)
            console.print("Ctrl-C ends it.")
            server.wait()
        except KeyboardInterrupt:
            console.print("ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _print_views(found: dict[str, str], console: Console) -> None:
    for name, view in found.items():
        console.print(f"{told(name)}: {told(shown(view))}", soft_wrap=True)


def comparison_views(uri: str, address: str) -> dict[str, str]:
    """Addresses at which MLflow compares methods, by suite, dataset and what is compared.

    A version of MLflow with which the prepared views were not tried shows each experiment's runs.
    """
    found = {}
    tried = is_tried(server_version(uri))
    for experiment in reversed(MlflowClient(uri).search_experiments()):
        if VIEWS_TAG not in experiment.tags:
            continue
        plain = f"{address}{plain_path(experiment.experiment_id)}"
        if not tried:
            found[experiment.name] = plain
            continue
        for key, name in json.loads(experiment.tags[VIEWS_TAG]).items():
            view = View(key, name, "")
            found[f"{experiment.name} · {name}"] = f"{address}{view.path(experiment.experiment_id)}"
    return found


def server_version(uri: str) -> str | None:
    """Return the version of MLflow that shows the runs; None where a server does not say."""
    if not uri.startswith("http"):
        return str(mlflow.__version__)
    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/version",
            "GET",
            max_retries=0,
            timeout=10,
        )
        return str(answer.text).strip() if answer.ok else None
    except MlflowException:
        return None


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int, console: Console) -> None:
    """Wait until the server answers, and say so every few seconds."""
    news = time.monotonic() + NEWS
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if time.monotonic() > news:
            console.print("MLflow's server is still starting")
            news += NEWS
        if server.poll() is not None:
            raise BenchError(f"MLflow's server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1)
            return
        except OSError:
            time.sleep(0.2)
    raise BenchError(f"MLflow's server did not answer within {START_SECONDS} s")
