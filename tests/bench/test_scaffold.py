"""The file that `new method` writes is found and keeps the contract; a wrong name is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from bench import registry
from bench.check import check_method
from bench.errors import BenchError
from bench.protocol import Method
from bench.scaffold import new_method


def imported(path, monkeypatch):
    """Import the one method of a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    (made,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == path.stem
    ]
    return made


def test_the_written_method_keeps_the_contract(tmp_path, monkeypatch):
    made = imported(new_method("my_idea", tmp_path), monkeypatch)
    assert made.__name__ == "MyIdea"
    assert check_method(made) == []


def test_the_written_file_is_clean_and_short(tmp_path):
    path = new_method("my_idea", tmp_path)
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 20
    for check in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", "pyproject.toml", str(path)]
        assert subprocess.run(command, cwd=registry.ROOT, capture_output=True).returncode == 0


def test_the_written_method_is_discovered_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_package_folder", lambda kind: tmp_path)
    path = new_method("my_idea", tmp_path)
    found = registry.find("methods", "my_idea")
    assert found.path == path
    assert "what my_idea does" in found.summary()


@pytest.mark.parametrize("name", ["MyIdea", "my-idea", "2nd", "", "_hidden", "class", "../up"])
def test_a_name_that_is_no_module_name_is_refused(name, tmp_path):
    with pytest.raises(BenchError, match="cannot name a method"):
        new_method(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_refused(tmp_path):
    with pytest.raises(BenchError, match="there is a method 'ract' already"):
        new_method("ract", tmp_path)
    new_method("my_idea", tmp_path)
    before = (tmp_path / "my_idea.py").read_text()
    with pytest.raises(BenchError, match="there is a method 'my_idea' already"):
        new_method("my_idea", tmp_path)
    assert (tmp_path / "my_idea.py").read_text() == before
