"""Under which name a run's records are kept, so that no command spoils what another one made.

Other settings give a suite another name (`bench.suites.variants`). What a name cannot show, code,
packages and the content of a dataset, shows in the keys: where records under a suite's name are not
what the suite would make now, they stay, and the run takes the next free name, `default+2`.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from bench.errors import BenchError
from bench.evaluation.records import read_note
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import CellSpec
from bench.storage.metadata import RunMetadata
from bench.storage.results import record_paths
from bench.suites.schema import Suite


def named_plan(suite: Suite, results: Path) -> tuple[Suite, list[CellSpec]]:
    """Plan a suite under the first of its names whose records the suite would make alike today.

    Raises BenchError as `make_plan` does.
    """
    for number in count(1):
        name = suite.name if number == 1 else f"{suite.name}+{number}"
        named = suite.model_copy(update={"name": name})
        plan = make_plan(named)
        if _fits(named, plan, _notes(results, name), results):
            return named, plan
    raise AssertionError("some name is free")


def _notes(results: Path, name: str) -> dict[Path, RunMetadata]:
    """Metadata of a suite's records by their path; damaged ones are made anew or refused later."""
    found = {}
    for path in record_paths(results, name):
        try:
            found[path] = read_note(path)
        except BenchError:
            continue
    return found


def _fits(
    suite: Suite, plan: list[CellSpec], notes: dict[Path, RunMetadata], results: Path
) -> bool:
    """Whether a plan replaces no records of another key and joins none that are outdated."""
    planned = {spec.cell.record_path(results): spec for spec in plan}
    if any(notes[path].key != spec.key for path, spec in planned.items() if path in notes):
        return False
    others = {path: note for path, note in notes.items() if path not in planned}
    if not others or planned.keys() <= notes.keys():
        return True
    present = {
        f"{part}s": tuple(dict.fromkeys(getattr(note, part) for note in others.values()))
        for part in ("scenario", "method", "seed")
    }
    try:
        current = {
            spec.cell.record_path(results): spec
            for spec in make_plan(suite.model_copy(update=present))
        }
    except BenchError:  # a method or a scenario that is gone
        return False
    return all(path in current and current[path].key == note.key for path, note in others.items())
