"""Put silent faults into a copy of the code, one at a time, and demand that a test notices each.

    python -m tests.mutants.run [NAME ...] [--jobs N] [--outcomes FILE] [--markdown FILE]

A fault in `faults.toml` has the file, the text and what replaces it, what it would falsify, and the
tests that have to notice. Whoever adds a joint between two parts adds its fault, tries it, and
writes its row: `python -m tests.mutants.run NAME --outcomes tests/mutants/outcomes.json --markdown
docs/mutants.md`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import tomllib
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.toml")
COPIED = (
    "bench",
    "methods",
    "datasets",
    "tests",
    "docs",
    "results/reference",
    "pyproject.toml",
    "README.md",
)
SECONDS = 600
FORK = multiprocessing.get_context("fork")
LIBRARIES = (
    *("torch", "torchvision", "timm", "faiss", "lightning_fabric", "scipy.stats", "pandas"),
    *("pyarrow.parquet", "scikit_posthocs", "matplotlib.figure", "hypothesis", "pydantic"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "loky", "rich.console", "typer"),
)
Outcome = dict[str, Any]  # the test that noticed a fault, and the CPU seconds until then
HEAD = """# Silent faults, and what notices them

Faults that crash nothing and falsify results, put into a copy of the code one at a time by
`python -m tests.mutants.run`. Of {count} faults {tried} were tried, and a test noticed {noticed}.
The list, chosen by hand at the joints between parts, is `tests/mutants/faults.toml`; whoever adds a
joint adds its fault and tries it. Seconds are of CPU, until the first test that fails.

| fault | what it falsifies | where | noticed by (`tests/`) | s |
|---|---|---|---|---|
"""


def copy_code(folder: Path) -> None:
    """Copy what the tests need into an empty folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def tried(fault: dict[str, str], folder: Path) -> str:
    """Return which test noticed a fault; empty when none did.

    Raises ValueError for a fault whose text is not in the file exactly once, and where the test
    fails without the fault as well, which notices nothing.
    """
    path = folder / fault["file"]
    original = path.read_text(encoding="utf-8")
    if original.count(fault["text"]) != 1:
        count = original.count(fault["text"])
        raise ValueError(f"{fault['name']}: its text is {count} times in {fault['file']}")
    path.write_text(original.replace(fault["text"], fault["fault"]), encoding="utf-8")
    try:
        noticed = _first_failure(fault["tests"].split(), folder, fault["name"])
    finally:
        path.write_text(original, encoding="utf-8")
    if noticed and _first_failure([noticed], folder, fault["name"]):
        raise ValueError(f"{fault['name']}: {noticed} fails without the fault, too")
    return noticed


def _first_failure(tests: list[str], folder: Path, name: str) -> str:
    """Run tests until one fails; return which, empty when none did."""
    output = folder / "output"
    process = FORK.Process(target=_run_tests, args=(tests, folder, output))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        raise ValueError(f"{name}: the tests took more than {SECONDS} s")
    said = output.read_text(encoding="utf-8", errors="replace")
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR "))]
    if process.exitcode and not failed:
        raise ValueError(f"{name}: the tests could not run\n{said[-2000:]}")
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else ""


def _run_tests(tests: list[str], folder: Path, output: Path) -> None:
    """Run tests on the copied code, in a process that has imported everything but that code."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(each for each in sys.path if each not in ("", str(ROOT)))]
    for name in [each for each in sys.modules if each.partition(".")[0] == "tests"]:
        del sys.modules[name]
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "", *tests]
    os._exit(int(pytest.main(arguments)) | _flushed())


def _flushed() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return 0


def import_libraries() -> None:
    """Import once what every process of tests would import for itself for seconds."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    for name in LIBRARIES:
        with suppress(ImportError):
            import_module(name)


def outcome_of(fault: dict[str, str]) -> Outcome:
    """Try a fault in a copy of its own; return the test that noticed it, and CPU seconds."""
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory() as name:
        copy_code(Path(name))
        noticed = tried(fault, Path(name))
    return {"noticed by": noticed, "seconds": round(_cpu_seconds() - before)}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page(faults: list[dict[str, str]], outcomes: dict[str, Outcome]) -> str:
    """Return the page of the documentation that says which test notices which fault."""
    found = [outcomes.get(fault["name"]) for fault in faults]
    rows = [
        f"| {fault['name']} | {fault['falsifies']} | `{fault['file']}` | {_told(outcome)} |"
        for fault, outcome in zip(faults, found, strict=True)
    ]
    tried = [outcome for outcome in found if outcome is not None]
    noticed = sum(bool(outcome["noticed by"]) for outcome in tried)
    head = HEAD.format(count=len(faults), tried=len(tried), noticed=noticed)
    return head + "\n".join(rows) + "\n"


def _told(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not tried yet | –"
    noticed = outcome["noticed by"].removeprefix("tests/")
    return f"{f'`{noticed}`' if noticed else '**survived**'} | {outcome['seconds']}"


def main() -> int:
    """Try the faults that are named, or all; return the number that no test noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--outcomes", type=Path, help="add to this file, for a list tried in parts")
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    every = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]
    faults = [each for each in every if not chosen.names or each["name"] in chosen.names]
    outcomes: dict[str, Outcome] = {}
    if chosen.outcomes and chosen.outcomes.exists():
        outcomes = json.loads(chosen.outcomes.read_text(encoding="utf-8"))
    import_libraries()
    with ProcessPoolExecutor(chosen.jobs, FORK) as pool:
        for fault, outcome in zip(faults, pool.map(outcome_of, faults), strict=True):
            print(f"{outcome['noticed by'] or 'SURVIVED'}: {fault['name']}", flush=True)
            outcomes[fault["name"]] = outcome
            if chosen.outcomes:
                chosen.outcomes.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    if chosen.markdown:
        chosen.markdown.write_text(page(every, outcomes), encoding="utf-8")
    survivors = sum(not outcomes[fault["name"]]["noticed by"] for fault in faults)
    print(f"{len(faults)} faults, {survivors} survived")
    return survivors


if __name__ == "__main__":
    sys.exit(min(main(), 100))
