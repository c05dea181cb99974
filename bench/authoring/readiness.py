"""Which datasets are ready on this machine, and what is missing for the others."""

from __future__ import annotations

from bench.errors import BenchError
from bench.plugins import registry


def readiness() -> dict[str, str]:
    """State of every dataset what is missing for it on this machine; nothing when it is ready.

    Index files and folders are looked at; whether every image is there `python -m bench data NAME`
    finds out.
    """
    return {name: _obstacle(name) for name in registry.discover("datasets")}


def _obstacle(name: str) -> str:
    try:
        registry.make_dataset(name).revision()
    except BenchError as error:
        return str(error)
    return ""
