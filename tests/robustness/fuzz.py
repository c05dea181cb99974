"""Damages files of every kind that is read, and counts what came out but a sentence.

    python -m tests.robustness.fuzz [--examples 1500] [--seed 0]

Of each kind a sound file is written once; hypothesis changes, cuts and stretches its bytes. What
reads it may use what is left, or raise `BenchError`; whatever else comes out is a fault. Results
that carry a checksum may only be used as they were written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.data.embedding_files import EmbeddingTable, read_embeddings, read_order, read_relevance
from bench.data.tables import read_csv, read_lines, read_words, whole_numbers
from bench.errors import BenchError
from bench.evaluation import flips, records
from bench.pipeline.failures import former_failure
from bench.pipeline.plan import make_plan
from bench.report.compare import _read_table
from bench.storage import manifest
from bench.storage.metadata import RunMetadata
from bench.storage.results import cache_folder
from bench.storage.store import Store
from bench.storage.verified import SEAL, read_json, seal_folder, seal_of, sealed_json
from bench.suites.loading import compose, load_suite
from bench.tracking.logged import Logbook
from tests.bench.conftest import PLACE, make_cell
from tests.bench.data.test_embedding_files import IDS, KINDS, TABLE, damaged, qrels, written

DAMAGE = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 255), st.sampled_from(["set", "cut", "add"])),
    min_size=1,
    max_size=4,
)
RELEVANCE = [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".qrels", ".qrels.gz"]
SUITE = """extends = "default"
seeds = [0, 1]
methods = ["ract", "l2"]
[recipe]
epochs = 2
[sides.old]
epochs = 1
[options.l2]
weight = 2.0
"""
TABLE_OF_REPORT = b"method,AUC mAP,AUC mAP low,AUC mAP high\nl2,0.5,0.4,0.6\nract,0.6,0.5,0.7\n"


class Kind:
    """A kind of file: sound content, and what reads a damaged one."""

    def __init__(self, path: Path, content: bytes, read: Callable[[Path], object]) -> None:
        self.path, self.content, self.read = path, content, read
        path.parent.mkdir(parents=True, exist_ok=True)


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file with a sound example below `folder`."""
    found: dict[str, Kind] = {}
    for suffix in KINDS:
        source = folder / "whole" / suffix.strip(".").replace(".", "-")
        source.mkdir(parents=True)
        content = written(source, suffix).read_bytes()
        found[f"embeddings {suffix}"] = Kind(folder / f"e{suffix}", content, read_embeddings)
    for suffix in RELEVANCE:
        names = tuple(name.replace(" ", "-") for name in IDS) if "qrels" in suffix else IDS
        queries = EmbeddingTable(folder / "q", TABLE[:2], ("q0", "q1"))
        gallery = EmbeddingTable(folder / "g", TABLE, names)
        content = qrels(folder, suffix).read_bytes()
        found[f"relevance {suffix}"] = Kind(
            folder / f"r{suffix}",
            content,
            lambda path, queries=queries, gallery=gallery: read_relevance(path, queries, gallery),
        )
    gallery = EmbeddingTable(folder / "g", TABLE, IDS)
    order = "\n".join(reversed(IDS)).encode()
    found["order"] = Kind(folder / "order.txt", order, lambda path: read_order(path, gallery))
    visits = b"item,count\nitem 3,5\nitem 7,9\n"
    found["visits"] = Kind(folder / "visits.csv", visits, lambda path: read_order(path, gallery))
    found["suite"] = Kind(folder / "mine.toml", SUITE.encode(), _plan)
    table = b"path,label\na/1.jpg,1\nb/2.jpg,2\n"
    found["table"] = Kind(folder / "table.csv", table, _numbers)
    words = b"1 a/1.jpg\n2 b/2.jpg\n"
    found["words"] = Kind(folder / "words.txt", words, lambda p: read_words(p, ["n", "path"]))
    found["lines"] = Kind(folder / "lines.txt", b"a 1\nb 2\n", read_lines)
    return found | _results(folder)


def _results(folder: Path) -> dict[str, Kind]:
    """Files of a results folder."""
    rows, note = make_cell("extended-class", "l2", 0, queries=5)
    note = RunMetadata.model_validate({**note, "losses": []})
    whole = folder / "seed-0.parquet"
    records.write(whole, rows.drop(columns=PLACE), note)
    sound = records.read(whole)

    def record(path: Path) -> None:
        again, note = records.read(path)
        assert again.equals(sound[0])
        assert note == sound[1]

    examples = {"schema_version": flips.SCHEMA_VERSION, "order": "", "share": 0.5, "flipped": 0}
    sealed = {**examples, "examples": []}

    def example(path: Path) -> None:
        assert read_json(path) == sealed
        flips.read(path)

    results = folder / "results"
    place = Store(results).ensure("models", "k", _fill)
    version = cache_folder(results) / "VERSION"
    failure = results / "failures.json"
    database = folder / "mlflow.db"
    database.touch()
    state = [str(database), 0, database.stat().st_mtime_ns]
    book = {"state": state, "logged": {"cell": "key"}}
    spec = SimpleNamespace(
        key="k", cell=SimpleNamespace(failure_path=lambda _: failure), stage="records"
    )
    kept = {"key": "k", "transient": False, "error": "e", "traceback": ""}

    def failed(path: Path) -> None:
        found = former_failure(results, spec)
        assert found is None or found.error.startswith("e (")

    report = folder / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>page</p>")
    seal_folder(report, "key")

    def sealed_report(path: Path) -> None:
        made_of, altered = seal_of(report)
        page = (report / "report.html").read_bytes()
        assert altered or (made_of == "key" and page == b"<p>page</p>")

    return {
        "record": Kind(folder / "seed-1.parquet", whole.read_bytes(), record),
        "examples": Kind(folder / "x.flips.json", sealed_json(sealed).encode(), example),
        "manifest": Kind(
            place / manifest.MANIFEST,
            (place / manifest.MANIFEST).read_bytes(),
            _never_used(results),
        ),
        "stage": Kind(place / "file", (place / "file").read_bytes(), _never_used(results)),
        "version": Kind(
            version, manifest.version_text().encode(), lambda _: Store(results, watched=True).open()
        ),
        "failure": Kind(failure, sealed_json(kept).encode(), failed),
        "report": Kind(report / "report.html", b"<p>page</p>", sealed_report),
        "report's checksums": Kind(report / SEAL, (report / SEAL).read_bytes(), sealed_report),
        "table of a report": Kind(folder / "t-on-d.csv", TABLE_OF_REPORT, _read_table),
        "logbook": Kind(
            cache_folder(results) / "mlflow.json",
            json.dumps(book).encode(),
            lambda _: Logbook(results, f"sqlite:///{database}").holds("cell", "key"),
        ),
    }


def _fill(folder: Path) -> dict[str, Any]:
    (folder / "file").write_text("content" * 9)
    return {"length": 63}


def _never_used(results: Path) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        place = Store(results, watched=True).ensure("models", "k", _fill)
        assert (place / "file").read_text() == "content" * 9
        assert manifest.stage_metadata(place) == {"length": 63}

    return read


def _plan(path: Path) -> object:
    return make_plan(compose(load_suite(str(path))), revision="x")


def _numbers(path: Path) -> object:
    return whole_numbers(read_csv(path, ["path", "label"]), "label", path)


def try_kind(kind: Kind, examples: int, number: int) -> tuple[int, list[str]]:
    """Damage a kind's file so many times; return how many were tried, and what came out wrong."""
    tried, faults = 0, []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damage=DAMAGE)
    def attempt(damage: list[tuple[int, int, str]]) -> None:
        nonlocal tried
        tried += 1
        kind.path.parent.mkdir(parents=True, exist_ok=True)
        kind.path.write_bytes(damaged(kind.content, damage))
        try:
            with suppress(BenchError), np.errstate(all="ignore"):
                kind.read(kind.path)
        except Exception:
            faults.append(f"{damage}: {traceback.format_exc(limit=-2)}")

    attempt()
    kind.path.write_bytes(kind.content)
    return tried, faults


def main() -> int:
    """Try every kind and print the counts; 1 when anything but a sentence came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1500, help="damages of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose names hold this")
    arguments = parser.parse_args()
    total, wrong = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in kinds(Path(folder)).items():
            if arguments.only not in name:
                continue
            tried, faults = try_kind(kind, arguments.examples, arguments.seed)
            total, wrong = total + tried, wrong + len(faults)
            print(f"{name}: {tried} tried, {len(faults)} faults", flush=True)
            print("\n".join(faults[:3]), end="\n" if faults else "", flush=True)
    print(f"{total} damaged files tried, {wrong} faults")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
