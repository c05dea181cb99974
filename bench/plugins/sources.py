"""The source files that a plug-in is made of."""

from __future__ import annotations

import ast
from pathlib import Path


def module_sources(path: Path, module: str) -> list[Path]:
    """Files of a module and of those in its package that it imports, directly or not."""
    package = module.rpartition(".")[0]
    found, waiting = [], [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += _imported_beside(path, package)
    return sorted(found)


def _imported_beside(path: Path, package: str) -> list[Path]:
    """Find the modules of the same package that a file imports, without importing it."""
    try:
        tree = ast.parse(path.read_text())
    except SyntaxError:
        return []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{package}.{node.module or alias.name}" for alias in node.names}
    inside = [name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")]
    beside = [path.parent / f"{name}.py" for name in sorted(inside)]
    return [module for module in beside if module.is_file()]
