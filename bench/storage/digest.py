"""Digests of content, source code and files."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import BenchError

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def digest(content: Any) -> str:
    """Hash canonical JSON to the 20 hexadecimal digits that name a result."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def source_digest(paths: Iterable[Path]) -> str:
    """Hash what source files do, so that changed code never meets old results.

    Docstrings, comments and layout do not count: wording costs nobody a training. Where the files
    lie does not count either, only what they are called.
    """
    states = ((path, path.stat()) for path in paths)
    return digest(
        sorted(
            (path.name, _code_digest(path, state.st_size, state.st_mtime_ns))
            for path, state in states
        )
    )


@cache
def _code_digest(path: Path, size: int, changed: int) -> str:
    """Hash the syntax tree of a file without docstrings; a file that is no Python, its bytes."""
    text = path.read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return hashlib.sha256(text).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash a file's bytes, once while it stays as it is; raises BenchError when it is not there."""
    try:
        status = path.expanduser().stat()
        return _file_digest(path.expanduser(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or error}") from error


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
