"""Every path below a results folder, spelled once."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from bench.storage.files import refuse_unreadable

# Names of a run's files in the cache.
RECORDS, FLIPS = "records.parquet", "flips.json"
LONGEST_FOLDER = 160  # characters of a name, which file systems bound to 255 bytes


@dataclass(frozen=True)
class Cell:
    """One unit of work and of record: a method in a scenario with a seed."""

    suite: str
    dataset: str
    scenario: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.scenario} · {self.method} · seed {self.seed}"

    def record_path(self, results: Path) -> Path:
        """Path of the per-query records of this run, whatever its settings."""
        return self._below(records_folder(results, self.suite), ".parquet")

    def failure_path(self, results: Path) -> Path:
        """Path of the error of this run, where it failed."""
        return self._below(results / "failures" / self.suite, ".json")

    def published(self, results: Path) -> dict[str, Path]:
        """Paths where a run's files are for people, by their names in the cache."""
        path = self.record_path(results)
        return {RECORDS: path, FLIPS: flips_path(path)}

    def belongs_at(self, path: Path) -> bool:
        """Return whether a record at this path, if it lies among records, is this run's.

        The folder of a suite may have another name: people rename it to keep it.
        """
        among = len(path.parts) >= 6 and path.parts[-6] == "records"
        renamed = replace(self, suite=path.parts[-5]) if among else self
        return not among or path == renamed.record_path(path.parents[5])

    def _below(self, folder: Path, suffix: str) -> Path:
        return folder / self.dataset / self.scenario / self.method / f"seed-{self.seed}{suffix}"


def dataset_label(name: str) -> str:
    """Turn a dataset's name into one that can stand in paths; different sources stay different."""
    kind, colon, source = name.partition(":")
    if not colon:
        return name
    last = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(source).name)
    if last == source:
        return f"{kind}-{last}"
    return f"{kind}-{last}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:6]}"


def flips_path(record: Path) -> Path:
    """Path of a run's examples of negative flips, beside its records."""
    return record.with_suffix(".flips.json")


def records_folder(results: Path, suite: str) -> Path:
    """Folder of a suite's records, by dataset, scenario and method."""
    return results / "records" / suite


def suite_note_path(results: Path, suite: str) -> Path:
    """Path of what is to be known of a suite beside its records: its summary and its order."""
    return records_folder(results, suite) / "suite.json"


def record_paths(results: Path, suite: str | None = None) -> list[Path]:
    """Paths of all records of a suite, or of every suite, in alphabetical order.

    Raises BenchError where this user may not look for them.
    """
    if suite is not None and (suite in ("", "..") or Path(suite).name != suite):  # no name
        return []
    refuse_unreadable(results / "records" / (suite or ""))
    folder = "*" if suite is None else glob.escape(suite)
    return sorted((results / "records").glob(f"{folder}/*/*/*/seed-*.parquet"))


def suites_with_records(results: Path) -> list[str]:
    """Names of the suites that have records, in alphabetical order."""
    return sorted({path.parents[3].name for path in record_paths(results)})


def report_folder(results: Path, suite: str, chosen: str = "") -> Path:
    """Folder of the report of a suite, or of `chosen` ones of its runs."""
    name = f"{suite}+{chosen}" if chosen else suite
    if len(name) > LONGEST_FOLDER:
        name = f"{name[:LONGEST_FOLDER]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return results / "reports" / name


def tuning_folder(results: Path, suite: str, dataset: str) -> Path:
    """Folder of the trials of a suite's methods on a dataset."""
    return results / "tuning" / suite / dataset_label(dataset)


def contact_sheet(results: Path, dataset: str) -> Path:
    """Path of the contact sheet of a dataset."""
    return results / "sheets" / f"{dataset_label(dataset)}.png"


def cache_folder(results: Path) -> Path:
    """Folder of finished stages by key; deleting it costs time only."""
    return results / "cache"


def version_path(results: Path) -> Path:
    """Path of the file that tells a results folder's layout version."""
    return cache_folder(results) / "VERSION"


def dataset_cache(results: Path, dataset: str) -> Path:
    """Folder of what a dataset's adapter keeps: decoded images, lists of checked files."""
    return cache_folder(results) / "data" / dataset.partition(":")[0]


def checkpoint_path(results: Path, key: str) -> Path:
    """Path of the checkpoint of a training by the key of its model."""
    return cache_folder(results) / "checkpoints" / f"{key}.pt"


def timings_folder(cache: Path) -> Path:
    """Folder in the cache of seconds that were measured for plans."""
    return cache / "timings"


def lock_path(results: Path, purpose: str) -> Path:
    """Path of a lock between processes that work in the same results folder."""
    return cache_folder(results) / f"{purpose}.lock"


def logged_path(results: Path) -> Path:
    """Path of the list of what MLflow's own database holds."""
    return cache_folder(results) / "mlflow.json"


def database_path(results: Path) -> Path:
    """Path of MLflow's own database."""
    return results / "mlflow.db"


def artifacts_folder(results: Path) -> Path:
    """Folder of MLflow's artifacts, where its database is the results folder's own."""
    return results / "artifacts"
