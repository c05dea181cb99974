"""The harness: trains compatible embedding models, walks the backfill, keeps per-query records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api.suite import compare as compare
    from bench.api.suite import compare_results as compare_results
    from bench.api.suite import read_records as read_records
    from bench.api.suite import run as run
    from bench.errors import BenchError as BenchError
    from bench.upgrade.inputs import evaluate_upgrade as evaluate_upgrade
    from bench.upgrade.judge import Limits as Limits

__version__ = "0.1.0"
_LAZY = {
    **dict.fromkeys(("run", "read_records", "compare", "compare_results"), "bench.api.suite"),
    "BenchError": "bench.errors",
    "evaluate_upgrade": "bench.upgrade.inputs",
    "Limits": "bench.upgrade.judge",
}


def __getattr__(name: str) -> Any:
    """Import what is offered from Python when it is first asked for: it brings torch along."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Name also what is not imported yet."""
    return sorted({*globals(), *_LAZY})
