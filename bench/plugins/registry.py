"""Finds plug-ins: a file in `methods/` or `datasets/` is known by its stem, imported when used.

Methods and datasets of other installed packages are found through the entry-point groups
`bench.methods` and `bench.datasets`, whose values name a module.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, unknown
from bench.plugins.sources import module_sources
from bench.settings import validated

if TYPE_CHECKING:
    from bench.protocol import DatasetAdapter, Method

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was found, not yet imported."""

    name: str
    module: str
    path: Path

    def summary(self) -> str:
        """First line of the module's docstring, read without importing it."""
        try:
            docstring = ast.get_docstring(ast.parse(self.path.read_text()))
        except (OSError, SyntaxError, ValueError) as error:
            return f"broken: {error}"
        return (docstring or "no docstring").splitlines()[0]


def discover(kind: str) -> dict[str, Plugin]:
    """Find every plug-in of a kind, `methods` or `datasets`, by name."""
    folder = _package_folder(kind)
    found = {
        path.stem: Plugin(path.stem, f"{kind}.{path.stem}", path)
        for path in sorted(folder.glob("[!_]*.py"))
    }
    for entry in _installed(kind):
        spec = importlib.util.find_spec(entry.module)
        if entry.name not in found and spec is not None and spec.origin is not None:
            found[entry.name] = Plugin(entry.name, entry.module, Path(spec.origin))
    return found


@cache
def _installed(kind: str) -> importlib.metadata.EntryPoints:
    """Read the entry points of all installed packages once: it takes as long as many methods."""
    return importlib.metadata.entry_points(group=f"bench.{kind}")


def find(kind: str, name: str) -> Plugin:
    """Find one plug-in; raises BenchError with the nearest name when there is none."""
    plugins = discover(kind)
    if name not in plugins:
        raise unknown(kind.removesuffix("s"), name, plugins)
    return plugins[name]


def method_class(name: str) -> type[Method]:
    """Import a method and return its class."""
    from bench.protocol import Method

    found: type[Method] = _load(find("methods", name), Method)
    return found


def make_method(name: str, options: dict[str, Any] | None = None) -> Method:
    """Make a method with its validated settings."""
    made = method_class(name)
    return made(validated(made.Config, options or {}, name))


def dataset_class(name: str) -> type[DatasetAdapter]:
    """Import a dataset's adapter and return its class."""
    from bench.protocol import DatasetAdapter

    found: type[DatasetAdapter] = _load(find("datasets", name), DatasetAdapter)
    return found


def make_dataset(name: str, options: dict[str, Any] | None = None) -> DatasetAdapter:
    """Make a dataset adapter, `NAME` or `NAME:SOURCE`, with its validated settings."""
    kind, colon, source = name.partition(":")
    made = dataset_class(kind)
    options = dict(options or {})
    field = made.Config.model_fields.get("source")
    if colon and field is None:
        raise BenchError(
            f"dataset '{kind}' takes no source, yet '{name}' gives one; write '{kind}'"
        )
    if colon:
        options["source"] = source
    if field is not None and field.is_required() and not options.get("source"):
        raise BenchError(
            f"dataset '{kind}' needs a source, {field.description}: write '{kind}:SOURCE'"
        )
    return made(validated(made.Config, options, kind))


def sources(kind: str, name: str) -> list[Path]:
    """Files whose text decides what a plug-in computes: its own and those beside it it imports."""
    plugin = find(kind, name)
    return module_sources(plugin.path, plugin.module)


def _load(plugin: Plugin, base: type) -> Any:
    try:
        module = importlib.import_module(plugin.module)
    except Exception as error:
        raise BenchError(
            f"{plugin.path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise BenchError(
            f"{plugin.path} defines {len(own)} subclasses of {base.__name__}; it must define one"
        )
    return own[0]


def _package_folder(kind: str) -> Path:
    """Folder of this project's package `kind`, or a sentence when another one shadows it."""
    spec = importlib.util.find_spec(kind)
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin is None or origin.parent != ROOT / kind:
        raise BenchError(
            f"the package '{kind}' comes from {origin and origin.parent}, not from {ROOT / kind}; "
            f"uninstall the other package named '{kind}' or run from {ROOT}"
        )
    if (
        kind in sys.modules
        and Path(str(sys.modules[kind].__file__)).parent.resolve() != ROOT / kind
    ):
        raise BenchError(f"another package named '{kind}' was imported before this project's")
    return ROOT / kind
