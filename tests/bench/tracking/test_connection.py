"""MLflow away, broken or hanging: told in seconds, and everything is sent later."""

import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console

from bench.errors import BenchError
from bench.evaluation import records
from bench.storage.metadata import RunMetadata
from bench.storage.results import lock_path
from bench.tracking import connection, ui
from bench.tracking.runs import make_database
from bench.tracking.tracker import Tracker
from tests.bench.conftest import PLACE, make_cell


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """MLflow's database without an experiment of ours; making one takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    make_database(path)
    return path


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in connection.REQUESTS.items():
        monkeypatch.setenv(name, value)


def add_records(results, *methods):
    """Write records below a results folder; return their paths."""
    paths = []
    for method in methods:
        rows, note = make_cell("extended-class", method, 0, queries=10)
        note = RunMetadata.model_validate({**note, "losses": []})
        path = results / "records" / note.suite / note.dataset / note.scenario / method
        path.mkdir(parents=True)
        records.write(path / "seed-0.parquet", rows.drop(columns=PLACE), note)
        paths.append(path / "seed-0.parquet")
    (results / "cache").mkdir(exist_ok=True)
    return paths


class Broken(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(503)
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer  # noqa: N815 - names of http.server

    def log_message(self, *arguments):
        pass


@pytest.fixture(params=["killed", "answering 503", "hanging", "no web server"])
def server(request):
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        port = listener.getsockname()[1]
        if request.param == "hanging":  # it takes connections, and never answers
            yield f"http://me:secret@127.0.0.1:{port}"
        if request.param == "no web server":

            def talk():
                while True:
                    try:
                        line, _ = listener.accept()
                    except OSError:
                        return
                    line.sendall(b"220 mail.example ESMTP\r\n")
                    line.close()

            threading.Thread(target=talk, daemon=True).start()
            yield f"http://me:secret@127.0.0.1:{port}"
    if request.param == "killed":
        yield f"http://me:secret@127.0.0.1:{port}"
    if request.param == "answering 503":
        web = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{web.server_port}"
        web.shutdown()
        web.server_close()


def test_a_server_away_is_told_within_seconds_once_and_holds_no_lock(
    server, tmp_path, monkeypatch, capsys
):
    paths = add_records(tmp_path, "l2", "ract")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    held = []
    lock = FileLock(lock_path(tmp_path, "mlflow"))
    monkeypatch.setattr(FileLock, "acquire", lambda self, *a, **k: held.append(self))
    started, tracker = time.monotonic(), Tracker(tmp_path, Console(width=500))
    tracker.begin(2, 0)
    assert not any(tracker.log(path) for path in paths)
    assert not tracker.has_suite("made-up", "key")
    assert time.monotonic() - started < 10
    assert not held, lock
    told = capsys.readouterr().out
    assert told.count("warning: MLflow at http://***@127.0.0.1") == 1
    assert f"`python -m bench track --results {tmp_path}` sends them later" in told
    assert "secret" not in told
    cells = [str(path.relative_to(tmp_path)) for path in paths]
    assert set(tracker.unsent) == {"MLflow", *cells, "comparison of made-up"}


class Failing(BaseHTTPRequestHandler):
    """Answers the first requests as MLflow does, and then no more, in the way of its server."""

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        with self.server.counting:
            self.server.left -= 1
        if self.server.left >= 0:
            found = "get-by-name" not in self.path
            content = b'{"experiment_id": "1"}'
            if not found:
                content = b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}'
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        elif self.server.how == "hangs":
            self.server.ended.wait(60)
        elif self.server.how == "drips":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):
                while not self.server.ended.wait(0.02):
                    self.wfile.write(b" ")
        else:
            self.connection.close()

    do_GET = do_POST = answer  # noqa: N815 - names of http.server

    def log_message(self, *arguments):
        pass


@contextmanager
def failing(how, left):
    """A server that answers so many requests."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    web.daemon_threads, web.counting, web.ended = True, threading.Lock(), threading.Event()
    web.how, web.left = how, left
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield web
    finally:
        web.ended.set()
        web.shutdown()
        web.server_close()


@pytest.mark.parametrize("left", [1, 2, 4])
@pytest.mark.parametrize("how", ["hangs", "drips", "resets"])
def test_a_server_that_goes_away_in_the_middle_of_a_session_is_told(
    how, left, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(connection, "PATIENCE", 0.4)
    monkeypatch.setattr(connection, "CHECK", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    (path,) = add_records(tmp_path, "l2")
    with failing(how, left) as web:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{web.server_port}")
        tracker = Tracker(tmp_path, Console(width=400))
        tracker.begin(1, 0)
        assert not tracker.broken
        began = time.monotonic()
        assert not tracker.log(path)
        assert time.monotonic() - began < 3  # on a busy machine
    assert web.left < 0
    assert tracker.broken
    assert "warning: MLflow at" in capsys.readouterr().out
    with FileLock(lock_path(tmp_path, "mlflow"), timeout=1):
        pass


def test_a_server_that_has_gone_stays_untold_for_ten_seconds_at_most():
    assert connection.CHECK + connection.KNOCK + connection.PATIENCE <= 10


def test_a_slow_server_is_no_dead_one_and_is_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.tracking.connection.UNTOLD", 0.05)
    monkeypatch.setattr(connection, "CHECK", 0.1)
    asked = []
    monkeypatch.setattr(connection, "reach", lambda *_: asked.append(1))
    monkeypatch.setattr("bench.tracking.tracker.reach", lambda *_: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    (tmp_path / "cache").mkdir()
    tracker = Tracker(tmp_path, Console(width=400))
    assert tracker._attempt("cell", lambda: time.sleep(0.5))
    assert len(asked) > 1
    told = capsys.readouterr().out
    assert told.count("note: MLflow is there, but slow to take cell, at most 120 s") == 1


def test_whoever_waits_for_the_views_of_a_slow_server_is_told_once(tmp_path, monkeypatch, capsys):
    def views(*_):
        time.sleep(0.5)
        return {"suite": "http://there/#/experiments/1"}

    monkeypatch.setattr(connection, "UNTOLD", 0.05)
    monkeypatch.setattr(connection, "CHECK", 0.1)
    monkeypatch.setattr(connection, "reach", lambda *_: None)
    monkeypatch.setattr(ui, "reach", lambda *_: None)
    monkeypatch.setattr(ui, "comparison_views", views)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    ui.serve(tmp_path, 0, Console(width=400))
    slow, view = capsys.readouterr().out.splitlines()
    assert slow == f"MLflow is there, but slow: at most {ui.ANSWER_SECONDS} s"
    assert view == "suite: http://there/#/experiments/1"


def test_whoever_waits_for_a_server_that_starts_hears_of_it(monkeypatch, capsys):
    monkeypatch.setattr(ui, "NEWS", 0.3)
    monkeypatch.setattr(ui, "START_SECONDS", 1)
    with subprocess.Popen(["sleep", "60"]) as never:
        try:
            with pytest.raises(BenchError, match="did not answer within 1 s"):
                ui._wait(never, ui.free_port(), Console(width=400))
        finally:
            never.kill()
    assert capsys.readouterr().out.count("MLflow's server is still starting") in (2, 3)


def test_who_waits_for_another_process_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.tracking.tracker.UNTOLD", 0.05)
    monkeypatch.setattr("bench.tracking.tracker.BUSY", 0.1)
    monkeypatch.setattr("bench.tracking.tracker.reach", lambda *_: None)
    (tmp_path / "cache").mkdir()
    tracker = Tracker(tmp_path, Console(width=400))
    with FileLock(lock_path(tmp_path, "mlflow")):
        assert not tracker._attempt("cell", int)
    told = capsys.readouterr().out
    assert "cell waits for another process that logs to MLflow, at most 0.1 s" in told
    assert "failed" in told


def test_a_server_that_hangs_under_the_lock_is_given_up(monkeypatch):
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"does not answer within 0.1 seconds"):
        connection.within(0.1, lambda: time.sleep(5))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "uri", ["http:/me:secret@host", "http://me:se/cret@host", "https://", "http://host:x"]
)
def test_what_is_no_address_is_told_without_its_password(uri, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Tracker(tmp_path, Console(width=500)).begin(1, 0)
    told = capsys.readouterr().out
    assert "MLFLOW_TRACKING_URI is no address" in told
    assert "se/cret" not in told.replace("characters like", "")
    assert "secret" not in told
    with pytest.raises(BenchError, match="no address"):
        ui.serve(tmp_path, 0, Console())


def break_database(database, how):
    if how == "no database":
        database.write_bytes(b"this is no database at all" * 400)
    elif how == "cut":
        content = database.read_bytes()
        database.write_bytes(content[: len(content) // 2])
    elif how == "folder":
        database.unlink()
        database.mkdir()
    elif how == "other version":
        with closing(sqlite3.connect(database)) as connected, connected:
            connected.execute("update alembic_version set version_num = 'f00'")


@pytest.mark.parametrize("how", ["no database", "cut", "folder", "other version"])
def test_a_database_that_is_none_is_moved_away_by_what_the_sentence_says(
    how, empty, tmp_path, capsys
):
    results = tmp_path / "my results"
    results.mkdir()
    (path,) = add_records(results, "l2")
    shutil.copy(empty, results / "mlflow.db")
    break_database(results / "mlflow.db", how)
    started, tracker = time.monotonic(), Tracker(results, Console(width=2000))
    assert not tracker.log(path)
    assert tracker.broken
    assert time.monotonic() - started < 10
    told = capsys.readouterr().out
    (command,) = re.findall("`(mv .*?)`", told)
    subprocess.run(command, shell=True, check=True)
    shutil.copy(empty, results / "mlflow.db")
    again = results.rename(tmp_path / "again")  # this process keeps the former file open
    assert Tracker(again, Console()).log(again / path.relative_to(results))


def test_a_deleted_experiment_comes_back_by_what_the_sentence_says(empty, tmp_path, capsys):
    from mlflow.experiments import commands

    paths = add_records(tmp_path, "l2", "ract")
    shutil.copy(empty, tmp_path / "mlflow.db")
    assert Tracker(tmp_path, Console()).log(paths[0])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    name = "/".join(paths[0].parts[-5:-3])
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    tracker = Tracker(tmp_path, Console(width=2000))
    assert not any(tracker.log(path) for path in paths)
    told = capsys.readouterr().out
    assert told.count("was deleted in MLflow") == 1
    (command,) = re.findall("`(MLFLOW_TRACKING_URI=.*?)`", told)
    variable, program, group, *arguments = shlex.split(command)
    assert (program, group) == ("mlflow", "experiments")
    environment = dict([variable.split("=", 1)])
    done = CliRunner().invoke(commands, arguments, env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert all(Tracker(tmp_path, Console()).log(path) for path in paths)


def test_what_mlflow_refuses_stops_nothing_else(empty, tmp_path, monkeypatch, capsys):
    paths = add_records(tmp_path, "l2", "ract")
    shutil.copy(empty, tmp_path / "mlflow.db")
    original = MlflowClient.create_run

    def create_run(self, *arguments, **options):
        if options["tags"].get("method") == "l2":
            raise MlflowException.invalid_parameter_value("Invalid metric name: 'l2@old'")
        return original(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracker = Tracker(tmp_path, Console(width=2000))
    assert [tracker.log(path) for path in paths] == [False, True]
    assert "l2/seed-0.parquet is not in MLflow: " in capsys.readouterr().out
    assert not tracker.broken
    assert list(tracker.unsent) == [str(paths[0].relative_to(tmp_path))]


def test_an_altered_record_is_told_as_such(empty, tmp_path, capsys):
    paths = add_records(tmp_path, "l2", "ract")
    shutil.copy(empty, tmp_path / "mlflow.db")
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    tracker = Tracker(tmp_path, Console(width=2000))
    assert [tracker.log(path) for path in paths] == [False, True]
    told = capsys.readouterr().out
    assert "is damaged" in told
    assert "failed" not in told


def test_a_database_lies_in_the_folder_that_was_named(empty, tmp_path):
    results = tmp_path / "a b#c;d&e"
    results.mkdir()
    assert connection.sqlite_uri(results / "mlflow.db") == f"sqlite:///{results}/mlflow.db"
    shutil.copy(empty, results / "mlflow.db")
    (path,) = add_records(results, "l2")
    assert Tracker(results, Console()).log(path)
    assert [each.name for each in tmp_path.iterdir()] == [results.name]


@pytest.mark.parametrize("name", ["why?", "50%3F"])
def test_a_folder_that_no_address_can_name_is_refused(name, tmp_path, monkeypatch):
    with pytest.raises(BenchError, match="holds a '\\?' or a '%'"):
        Tracker(tmp_path / name, Console())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert Tracker(tmp_path / name, Console()).uri == "http://127.0.0.1:1"


def test_the_interface_gets_its_database_by_the_environment(tmp_path, monkeypatch):
    uri = "postgresql://me:secret@host/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(ui, "reach", lambda *arguments: None)
    started = {}

    def popen(command, env, **options):
        started.update(command=command, uri=env["MLFLOW_BACKEND_STORE_URI"])
        raise OSError("not here")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(BenchError, match="not here"):
        ui.serve(tmp_path, 1, Console())
    assert started["uri"] == uri
    assert not any("secret" in word for word in started["command"])


def test_a_server_that_answers_drop_by_drop_is_given_up(tmp_path, monkeypatch, capsys):
    """Within every limit of a single read, hence for ever."""
    monkeypatch.setattr("bench.tracking.tracker.LONGEST", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr("bench.tracking.tracker.reach", lambda *_: None)
    monkeypatch.setattr(connection, "reach", lambda *_: None)
    (tmp_path / "cache").mkdir()
    tracker, never = Tracker(tmp_path, Console(width=400)), threading.Event()
    assert not tracker._attempt("cell", lambda: never.wait(60))
    assert tracker.broken
    assert "is not done within 0.2 seconds" in capsys.readouterr().out
    with FileLock(lock_path(tmp_path, "mlflow"), timeout=1):
        never.set()


def test_a_database_that_stays_locked_is_told_before_mlflow_waits_for_it(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, timeout=0.1, **k))
    with closing(connect(tmp_path / "mlflow.db", isolation_level=None)) as held:
        held.execute("create table a (b)")
        held.execute("begin exclusive")
        with pytest.raises(BenchError, match="mlflow.db is locked by another program"):
            connection.reach(connection.sqlite_uri(tmp_path / "mlflow.db"), tmp_path)
