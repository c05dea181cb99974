"""Whether records may stand in one table: made by the same code, on the same data, in one way."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.errors import BenchError
from bench.storage.metadata import RunMetadata

Note = RunMetadata


class MixedRecordsError(BenchError):
    """Records that must not stand in one table."""


def refuse_mixture(notes: Sequence[Note], where: str) -> None:
    """Raise MixedRecordsError when cells were not made alike, naming what differs and where.

    Everything that a method cannot choose must agree among all cells of a (dataset, scenario);
    what it can choose, among its seeds. `notes` are the metadata of the cells.
    """
    for what, group, value in _rules():
        groups: dict[Any, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for note in notes:
            groups[group(note)][json.dumps(value(note), sort_keys=True)].append(note.name)
        for found in groups.values():
            if len(found) > 1:
                sizes = sorted(found.values(), key=len, reverse=True)
                listed = "; ".join(f"{', '.join(names[:3])} ({len(names)})" for names in sizes)
                raise MixedRecordsError(
                    f"the records of {where} do not belong in one table: their {what} differs "
                    f"between {listed}; run the whole suite again with one set of settings, or "
                    "delete the records that are not wanted"
                )


def _rules() -> Iterable[tuple[str, Callable[[Note], Any], Callable[[Note], Any]]]:
    """What must agree, among which cells."""

    def setting(name: str) -> Callable[[Note], Any]:
        return lambda note: note.content()["settings"].get(name)

    def recipe(age: str) -> Callable[[Note], Any]:
        # A method may add dimensions of its own to the width.
        return lambda note: {**(setting(f"{age}_recipe")(note) or {}), "width": None}

    def code(stage: str) -> Callable[[Note], Any]:
        return lambda note: note.code.get(stage)

    def everywhere(note: Note) -> Any:
        return ()

    def of_dataset(note: Note) -> Any:
        return note.dataset

    def of_scenario(note: Note) -> Any:
        return note.dataset, note.scenario

    def of_method(note: Note) -> Any:
        return note.dataset, note.scenario, note.method

    for stage in ("data", "training", "records"):
        yield f"code of the stage '{stage}'", everywhere, code(stage)
    yield "suite", everywhere, lambda note: note.suite
    yield "version of torch or timm", everywhere, code("packages")
    yield "code of the method", lambda note: note.method, code("method")
    yield "dataset revision", of_dataset, lambda note: note.dataset_revision
    yield "setting of the dataset", of_dataset, lambda note: note.dataset_key
    yield "metric", of_dataset, lambda note: note.metric
    for name in ("split", "shares", "orders"):
        yield f"setting '{name}'", of_dataset, setting(name)
    for age in ("first", "old", "new"):
        yield f"{age} side", of_scenario, setting(f"{age}_side")
        yield f"{age} recipe", of_scenario, recipe(age)
        yield f"width of the {age} model", of_method, setting(f"{age}_recipe")
    yield "hyper-parameters", lambda note: note.method, setting("method")
