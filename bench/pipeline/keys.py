"""Digests of the code and files that decide a result: parts of every key.

What keys a result is a folder, so that no file can be forgotten: a trained model and its embeddings
depend on all of `bench/training`, whatever is read on all of `bench/data`, records on all of
`bench/evaluation`. A plug-in brings its own file and those beside it that it imports.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bench.plugins import registry
from bench.storage.digest import digest, file_digest, source_digest
from bench.storage.provenance import training_packages

BENCH = Path(__file__).resolve().parents[1]
# Folders and files of `bench/` that decide what a stage computes.
STAGES = {
    "data": ("data",),
    "training": ("training", "protocol.py", "seeds.py"),
    "records": ("evaluation", "relevance.py"),
}


@cache
def stage_code(stage: str) -> str:
    """Digest of the code that a stage runs; `stage` is a key of `STAGES`."""
    places = [BENCH / name for name in STAGES[stage]]
    return source_digest(
        path for place in places for path in ([place] if place.suffix else place.rglob("*.py"))
    )


@cache
def plugin_code(kind: str, name: str) -> str:
    """Digest of the source files of a plug-in; `kind` is `methods` or `datasets`."""
    return source_digest(registry.sources(kind, name))


def code_digests(method: str, dataset: str) -> dict[str, str]:
    """Return the digests of all code behind a run, by stage, and the packages that train."""
    return {
        **{stage: stage_code(stage) for stage in STAGES},
        "method": plugin_code("methods", method),
        "dataset": plugin_code("datasets", dataset),
        "packages": training_packages(),
    }


def embeddings_digest(path: Path) -> str:
    """Digest of a file of precomputed embeddings and of the ids next to it."""
    ids = path.with_suffix(".ids.txt")
    return digest([file_digest(each) for each in (path, ids) if each == path or ids.is_file()])
