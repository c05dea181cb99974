"""The way to MLflow: where it is, whether it answers, and what a person does when it does not.

A server that is away, broken or hanging costs seconds and is told before any work waits for it.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from bench.errors import BenchError
from bench.storage.results import database_path

Answer = TypeVar("Answer")
SQLITE = "sqlite:///"
# Seconds in which a server takes a connection, and answers; and those of work after which it is
# asked again. Together they are the longest that a server which has gone stays untold: ten.
KNOCK, PATIENCE, CHECK = 3.0, 5.0, 2.0
UNTOLD = 5.0  # seconds of waiting for another process or a slow server of which nothing is said
# MLflow itself would try for minutes; what a person has set stays.
REQUESTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
OTHER_VERSION = re.compile("out-of-date database schema|Can't locate revision", re.I)
DAMAGED = re.compile("malformed|not a database|disk image|no such (table|column)", re.I)


def tracking_uri(results: Path) -> str:
    """Where runs are logged: `MLFLOW_TRACKING_URI` when set, else a database in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(database_path(results))


def own_database(results: Path) -> Path | None:
    """The folder's own database; None where runs are logged elsewhere."""
    path = database_path(results)
    own = not os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri(results) == sqlite_uri(path)
    return path if own else None


def sqlite_uri(path: Path) -> str:
    """Address of an SQLite database for MLflow; raises BenchError where no address can name it."""
    place = str(path.resolve())
    if "?" in place or "%" in place:  # libraries differ in how they would be written
        raise BenchError(
            f"the path {place} holds a '?' or a '%', which the address of a database cannot; give "
            "another folder with --results, or set MLFLOW_TRACKING_URI"
        )
    return f"{SQLITE}{place}"


def reach(uri: str, results: Path) -> None:
    """Ask MLflow once, within seconds, whether it is there; raises whatever tells that it is not.

    Sets limits to its requests in the environment of this process.
    """
    for name, value in REQUESTS.items():
        os.environ.setdefault(name, value)
    if (database := _file(uri)) is not None:
        _refuse_unreadable(database, results)
    elif uri.startswith("http"):
        if (server := _server(uri)) is not None:
            within(KNOCK, lambda: socket.create_connection(server, KNOCK).close())
        from mlflow import MlflowClient

        within(PATIENCE, lambda: MlflowClient(uri).search_experiments(max_results=1))
    else:
        from mlflow import MlflowClient

        within(KNOCK + PATIENCE, lambda: MlflowClient(uri).search_experiments(max_results=1))


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Return the answer, or raise TimeoutError; a call that hangs stays behind in its thread."""
    call = _begun(ask)
    wait([call], seconds)
    if not call.done():
        raise TimeoutError(f"it does not answer within {seconds:g} seconds")
    return call.result()


def attended(
    ask: Callable[[], Answer], uri: str, results: Path, longest: float, slow: Callable[[], object]
) -> Answer:
    """Return the answer of work with a server, which is asked meanwhile whether it is still there.

    `slow` is called once, when it is there and the work not done after a few seconds. Raises
    whatever tells that the server is away, and TimeoutError after `longest` seconds.
    """
    call, began, told = _begun(ask), time.monotonic(), False
    while not wait([call], min(CHECK, longest)).done:
        spent = time.monotonic() - began
        if spent >= longest:
            raise TimeoutError(f"it is not done within {longest:g} seconds")
        try:
            reach(uri, results)
        except Exception:
            if not call.done():
                raise
        if spent > UNTOLD and not told:
            told = True
            slow()
    return call.result()


def _begun(ask: Callable[[], Answer]) -> Future[Answer]:
    """Start a call in a thread that nobody waits for when the process ends."""
    call: Future[Answer] = Future()

    def act() -> None:
        try:
            call.set_result(ask())
        except BaseException as error:
            call.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    return call


def explained(error: Exception, uri: str, results: Path) -> str:
    """State in one line what went wrong with MLflow, and what mends it where that is known."""
    text = " ".join(str(error).split())
    database = _file(uri)
    if isinstance(error, BenchError):
        return text
    if database is not None and OTHER_VERSION.search(text):
        return (
            f"{database} was made by another version of MLflow; bring an older one up to date "
            f"with `mlflow db upgrade {shlex.quote(uri)}`, or {_away(database, results)}"
        )
    if database is not None and DAMAGED.search(text):
        return f"{database} is damaged; {_away(database, results)}"
    return f"{type(error).__name__}: {text[:200]}"


def deleted(name: str, number: str, uri: str) -> BenchError:
    """State how to get an experiment back that was deleted in MLflow."""
    where = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if _file(uri) is not None else ""
    return BenchError(
        f"the experiment '{name}' was deleted in MLflow; restore it with "
        f"`{where}mlflow experiments restore --experiment-id {number}`"
    )


def _file(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _server(uri: str) -> tuple[str, int] | None:
    """Host and port to knock at; None behind a proxy, which alone reaches them."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        raise BenchError(
            "MLFLOW_TRACKING_URI is no address, expected http://HOST:PORT; characters like / "
            "and @ in a password are written %2F and %40"
        )
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    return host, port


def _refuse_unreadable(database: Path, results: Path) -> None:
    """See that a file can be opened as a database; MLflow would try again for minutes."""
    if database.is_dir():
        raise BenchError(f"{database} is a folder, expected a database; {_away(database, results)}")
    if not database.exists():
        return
    if not os.access(database, os.R_OK | os.W_OK):
        raise BenchError(f"{database} may not be changed by this user; ask its owner for `chmod`")
    try:
        address = f"file:{quote(str(database.resolve()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):  # for seconds: MLflow would wait for many more
            raise BenchError(
                f"{database} is locked by another program; end it, or wait for it"
            ) from error
        raise BenchError(f"{database} is damaged ({error}); {_away(database, results)}") from error


def _away(database: Path, results: Path) -> str:
    place = shlex.quote(str(database))
    move = f"mv {place} {shlex.quote(f'{database}.former')}"
    if own_database(results) != database:
        return f"move it away with `{move}`"
    return f"move it away with `{move}`; a new one is made from the records"
