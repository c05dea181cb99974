"""The records of a suite, or of some of its runs, read together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.consistency import refuse_mixture
from bench.errors import BenchError, command, unknown
from bench.evaluation.records import read, read_note
from bench.storage.digest import digest
from bench.storage.files import holds, set_aside, write_text
from bench.storage.metadata import RunMetadata
from bench.storage.results import record_paths, suite_note_path, suites_with_records
from bench.suites.schema import Suite

if TYPE_CHECKING:  # a repeated run reads metadata alone, without pandas
    import pandas as pd


def in_order(rows: pd.DataFrame, note: RunMetadata, order: str | None = None) -> pd.DataFrame:
    """Keep a cell's rows of one backfill order, by default its first, and those of no order."""
    return rows[rows["order"].isin(["", order or note.settings.orders[0]])]


@dataclass(frozen=True)
class Choice:
    """Which runs of a suite are meant; None: all there are."""

    scenarios: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    datasets: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Name the choice of scenarios and methods; empty where all are meant."""
        parts = {"scenarios": self.scenarios, "methods": self.methods}
        return "+".join(f"{key}={','.join(names)}" for key, names in parts.items() if names)

    def holds(self, path: Path) -> bool:
        """Whether the run with these records is meant."""
        return all(
            wanted is None or found in wanted
            for wanted, found in zip(
                (self.datasets, self.scenarios, self.methods, self._files),
                _place(path),
                strict=True,
            )
        )

    def among(self, paths: Sequence[Path]) -> Choice:
        """Ask for no scenario and method that these records lack: of some, all runs may fail."""
        there = [_place(path) for path in paths]
        scenarios, methods = ({place[part] for place in there} for part in (1, 2))
        return replace(
            self,
            scenarios=self.scenarios and tuple(x for x in self.scenarios if x in scenarios),
            methods=self.methods and tuple(x for x in self.methods if x in methods),
        )

    @property
    def _files(self) -> tuple[str, ...] | None:
        return None if self.seeds is None else tuple(f"seed-{seed}" for seed in self.seeds)


EVERYTHING = Choice()


def _place(path: Path) -> tuple[str, str, str, str]:
    """Dataset, scenario, method and the name of the seed, which the path of a record spells."""
    dataset, scenario, method = path.parts[-4:-1]
    return dataset, scenario, method, path.stem


def only_suite(results: Path) -> str:
    """Name the only suite that has records; raises BenchError where there is none or a choice."""
    names = suites_with_records(results)
    if not names:
        raise BenchError(
            f"there are no records in {results}; run `{command('all', results=results)}` first"
        )
    if len(names) > 1:
        raise BenchError(
            f"{results} holds the records of {len(names)} suites: {', '.join(names)}; "
            "choose one with --suite NAME"
        )
    return names[0]


def suite_paths(results: Path, suite: str, choice: Choice = EVERYTHING) -> list[Path]:
    """List the records of a suite, scenarios in the suite's order.

    Raises BenchError when there are none, or none of a scenario or method that is asked for.
    """
    paths = record_paths(results, suite)
    if not paths:
        raise _no_records(results, suite)
    places = [_place(path) for path in paths]
    for kind, wanted, position in (
        ("scenario", choice.scenarios, 1),
        ("method", choice.methods, 2),
    ):
        there = dict.fromkeys(place[position] for place in places)
        for name in wanted or ():
            if name not in there:
                raise unknown(f"{kind} among the records of suite '{suite}'", name, there)
    order = {name: place for place, name in enumerate(scenario_order(results, suite))}
    chosen = [path for path in paths if choice.holds(path)]
    if not chosen:
        raise BenchError(f"no record of suite '{suite}' in {results} is all that is asked for")
    return sorted(chosen, key=lambda path: _rank(path, order))


def _rank(path: Path, order: dict[str, int]) -> tuple[str, int, Path]:
    dataset, scenario, _, _ = _place(path)
    return dataset, order.get(scenario, len(order)), path


def _no_records(results: Path, suite: str) -> BenchError:
    names = suites_with_records(results)
    if names:
        listed = ", ".join(names)
        return BenchError(
            f"no records of suite '{suite}' in {results}, only of {listed}; choose with --suite"
        )
    return BenchError(
        f"no records of suite '{suite}' in {results}; "
        f"run `{command('all', '--suite', suite, results=results)}` first"
    )


def keep_order(results: Path, suite: Suite) -> None:
    """Note a suite's summary and the order of its scenarios beside its records."""
    path = suite_note_path(results, suite.name)
    before, now = scenario_order(results, suite.name), list(suite.scenarios)
    whole = now if set(now) >= set(before) else list(dict.fromkeys([*before, *now]))
    text = json.dumps({"summary": suite.summary, "scenarios": whole}, indent=1)
    if not holds(path, text):
        if path.is_dir():
            set_aside(path)
        write_text(path, text)


def scenario_order(results: Path, suite: str) -> list[str]:
    """Scenarios of a suite in the order in which it names them; empty where none was noted."""
    names = _note(results, suite).get("scenarios")
    return [str(name) for name in names] if isinstance(names, list) else []


def suite_summary(results: Path, suite: str) -> str:
    """What a suite says that it is for; empty where none was noted."""
    return str(_note(results, suite).get("summary") or "")


def _note(results: Path, suite: str) -> dict[str, object]:
    """What is noted of a suite beside its records, which need no note to be read."""
    try:
        content = json.loads(suite_note_path(results, suite).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def suite_key(results: Path, suite: str, choice: Choice = EVERYTHING) -> str:
    """Name what a suite's records hold, without reading their rows."""
    return digest([read_note(path).key for path in suite_paths(results, suite, choice)])


def read_suite(
    results: Path, suite: str, order: str | None = None, choice: Choice = EVERYTHING
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the records of a suite, in one backfill order: by default each cell's first.

    Returns the rows of all cells with `dataset`, `scenario`, `method` and `seed` added, and one
    metadata row per cell. Raises BenchError when there are none, or none that belong together.
    """
    import pandas as pd

    frames, notes = [], []
    for path in suite_paths(results, suite, choice):
        rows, note = read(path)
        cell = {name: getattr(note, name) for name in ("dataset", "scenario", "method", "seed")}
        frames.append(in_order(rows, note, order).assign(**cell))
        notes.append(note)
    refuse_mixture(notes, f"suite '{suite}' in {results}")
    return pd.concat(frames, ignore_index=True), pd.DataFrame([note.content() for note in notes])


PASSED_OVER = "passed_over_"  # with a kind: a count of what a dataset's folder holds beside images


def left_out(results: Path, suite: str, choice: Choice = EVERYTHING) -> list[str]:
    """State what a suite's datasets hold that no record speaks of, in one sentence each."""
    datasets = {}
    for path in suite_paths(results, suite, choice):
        note = read_note(path)
        datasets[note.dataset] = note.dataset_counts
    sentences = []
    for dataset, counts in datasets.items():
        corrupt, unanswered = (counts.get(key) for key in ("corrupt_skipped", "unanswered_queries"))
        parts = [f"{corrupt:,} corrupt images"] if corrupt else []
        parts += [f"{unanswered:,} queries without a relevant item"] if unanswered else []
        passed = {name: count for name, count in counts.items() if name.startswith(PASSED_OVER)}
        if passed:
            kinds = (f"{n:,} {name.removeprefix(PASSED_OVER)}" for name, n in passed.items())
            total = sum(passed.values())
            parts.append(f"{total:,} files or folders that are no images ({', '.join(kinds)})")
        if parts:
            sentences.append(f"{dataset}: left out {' and '.join(parts)}")
    return sentences
