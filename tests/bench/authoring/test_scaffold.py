"""The file that `new method` writes is found and keeps the contract; a wrong name is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from bench.authoring.contract import check_method
from bench.authoring.scaffold import new_method
from bench.errors import BenchError
from bench.plugins import registry
from bench.protocol import Method, PairedEmbeddings, StoredEmbeddings
from bench.settings import search_space


def test_the_written_bridge_finds_the_linear_map_there_is(tmp_path, monkeypatch):
    made = imported(new_method("my_idea", tmp_path, "bridge"), monkeypatch)
    new, map_ = torch.randn(200, 8), torch.randn(8, 5)
    method = made(made.Config(ridge=1e-6))
    old = new @ map_
    method.prepare(SimpleNamespace(new_width=8, old_width=5))
    labels = torch.zeros(200, dtype=torch.int64)
    method.fit(PairedEmbeddings(old, new, labels, torch.zeros(1, 8)))
    view = StoredEmbeddings(new=new[:3])
    torch.testing.assert_close(method.query(view, "old"), old[:3], atol=1e-3, rtol=1e-3)
    assert torch.equal(method.query(view, "new"), new[:3])


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


@pytest.mark.parametrize("kind", ["loss", "bridge"])
def test_the_written_method_keeps_the_contract(tmp_path, monkeypatch, kind):
    made = imported(new_method("my_idea", tmp_path, kind), monkeypatch)
    assert made.__name__ == "MyIdea"
    assert made.trains == (kind == "loss")
    assert search_space(made.Config)
    assert check_method(made) == []


@pytest.mark.parametrize(("kind", "lines"), [("loss", 20), ("bridge", 27)])
def test_the_written_file_is_clean_and_short(tmp_path, kind, lines):
    path = new_method("my_idea", tmp_path, kind)
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= lines
    for check in (["format", "--check"], ["check", "--ignore", "D102"]):  # as in methods/
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


def test_nothing_is_written_into_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    with pytest.raises(BenchError, match="lost with the next installation"):
        new_method("my_idea")
    assert not list(tmp_path.iterdir())
