import sqlite3

import pytest

from bench.tracking.logged import Logbook


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "mlflow.db"
    change(path, "create table runs (name text)")
    return path


def change(path, statement):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def logbook(path):
    return Logbook(path.parent, f"sqlite:///{path}")


def test_what_was_logged_is_known_to_later_processes_by_its_key(database):
    first = logbook(database)
    for name in ("one", "two"):
        assert not first.holds(name, "key")
        with first.entry(name, "key"):
            change(database, f"insert into runs values ('{name}')")
    for book in (first, logbook(database)):
        assert book.holds("one", "key")
        assert book.holds("two", "key")
        assert not book.holds("one", "another key")


def test_nothing_is_known_of_a_database_that_others_changed(database):
    book = logbook(database)
    with book.entry("one", "key"):
        change(database, "insert into runs values ('one')")
    change(database, "delete from runs")
    assert not book.holds("one", "key")
    with book.entry("two", "key"):
        change(database, "insert into runs values ('two')")
    for each in (book, logbook(database)):
        assert each.holds("two", "key")
        assert not each.holds("one", "key")
    database.unlink()
    assert not book.holds("two", "key")


def test_what_failed_is_not_known(database):
    book = logbook(database)
    with pytest.raises(OSError, match="server"), book.entry("one", "key"):
        raise OSError("server")
    assert not book.holds("one", "key")


def test_a_server_and_a_damaged_logbook_know_nothing(database, tmp_path):
    remote = Logbook(tmp_path, "http://localhost:5000")
    with remote.entry("one", "key"):
        pass
    assert not remote.holds("one", "key")
    book = logbook(database)
    with book.entry("one", "key"):
        pass
    for damaged in ("", "[]", '{"state": 1}', '{"state": null, "logged": 3}'):
        book.path.write_text(damaged)
        assert not logbook(database).holds("one", "key")
