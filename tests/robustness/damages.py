"""Damages one file of every kind below a results folder, then gives the commands that read it.

    python -m tests.robustness.damages [--each 3] [--only record,report] [--seed 0]

Each kind of file is flipped, cut, emptied, removed, and replaced by a folder, by a link to nothing
and by another file of its kind; of these seven ways `--each` are drawn for a kind. Then `all` must
end well, with the records, tables and report of an undisturbed folder (a page may name examples
that are lost); `report`, `compare` and `track` must say what they said of that, or refuse in a
sentence. Damage is used when a number differs; it blocks when `all` fails, but for a file where
`reports` is to be, which is somebody's and may be refused in a sentence. What records are made of
is read only where they are gone, so these kinds are damaged in a folder without records. A file of
a kind that is not listed is a fault.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "160"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import mlflow  # noqa: F401  (imported once, before the children)

import bench.report.page  # noqa: F401
from bench.cli import commands
from tests.command import TINY
from tests.robustness.crashes import content

DAMAGES = ("flip", "cut", "empty", "remove", "folder", "dangling", "other")
KINDS = {
    "record": "records/*/*/*/*/seed-*.parquet",
    "flips": "records/*/*/*/*/seed-*.flips.json",
    "suite": "records/*/suite.json",
    "page": "reports/*/report.html",
    "table": "reports/*/tables/*/*-on-*.csv",
    "table in text": "reports/*/tables/*/*.[mt]*",
    "table of all": "reports/*/tables/*.[cmt]*",
    "origin": "reports/*/tables/origin.json",
    "figure": "reports/*/figures/*",
    "seal": "reports/*/checksums.json",
    "database": "mlflow.db",
    "artifact": "artifacts/*/artifacts/**/*",
    "logbook": "cache/mlflow.json",
    "version": "cache/VERSION",
    "lock": "cache/*.lock",
    "lock of a result": "cache/*/*.lock",
    "summary": "cache/tables/*/summary.json",
    "summary's manifest": "cache/tables/*/manifest.json",
    "cached record": "cache/records/*/records.parquet",
    "cached flips": "cache/records/*/flips.json",
    "record's manifest": "cache/records/*/manifest.json",
    "reports": "reports",
    "failures": "failures",
}
MADE_OF = {
    "weights": "cache/models/*/weights.safetensors",
    "model's manifest": "cache/models/*/manifest.json",
    "embeddings": "cache/embeddings/*/embeddings.npy",
    "embeddings' manifest": "cache/embeddings/*/manifest.json",
    "centres": "cache/centres/*/centres.npy",
    "centres' manifest": "cache/centres/*/manifest.json",
    "old answers": "cache/old_search/*/old.npz",
    "old answers' manifest": "cache/old_search/*/manifest.json",
}
METHODS = ("--methods", "independent,l2")
TOLD = "warning|damaged|altered|runs are cached"
REFUSED = re.compile(r"^error: File exists at \S+/results/reports;", re.MULTILINE)
LOST = "Missing beside their records: the examples of"
Said = dict[str, tuple[int, str]]


def ways(results: Path) -> dict[str, list[str]]:
    """Every command that is given after a damage."""
    there = ["--results", str(results)]
    tables = str(results / "reports" / "tiny" / "tables")
    return {
        "report": ["report", *there],
        "compare": ["compare", str(results), str(results), *there],
        "compare tables": ["compare", tables, tables, *there],
        "track": ["track", *there],
        "all": ["all", *TINY, *METHODS, *there],
    }


def give(arguments: list[str]) -> tuple[int, str]:
    """Give a command in a child process; return how it ended and what it said."""
    with tempfile.TemporaryFile("w+") as out:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            sys.stdout, sys.stderr = map(os.fdopen, (1, 2), ("w", "w"))
            sys.argv = ["bench", *arguments]
            code = 0
            try:
                commands.main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        return code, out.read()


def damage(path: Path, how: str, others: list[Path], generator: random.Random) -> bool:
    """Harm one file; False where it cannot be harmed in this way."""
    if path.is_dir():
        if how != "remove":
            return False
        shutil.rmtree(path)
        path.write_text("no folder")
        return True
    data = bytearray(path.read_bytes())
    if how == "flip" and data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
    elif how == "cut" and data:
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty" and data:
        path.write_bytes(b"")
    elif how == "remove":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
        (path / "inside").touch()
    elif how == "dangling":
        path.unlink()
        path.symlink_to("/nowhere/at/all")
    elif how == "other" and others:
        shutil.copyfile(others[0], path)
    else:
        return False
    return True


def numbers(text: str) -> str:
    """Leave out of what was printed how long it took, and what was told of damage."""
    lines = [line for line in text.splitlines() if not re.search(TOLD, line)]
    kept = (re.sub(r"\d+(\.\d+)? (s|min)\b.*", "", line) for line in lines if "✓" not in line)
    return "\n".join(line.rstrip() for line in kept)


def faults(results: Path, kind: str, sound: Said, pages: dict[str, str]) -> Iterator[str]:
    """Give every command on a copy of a damaged folder; yield what is not as it should be."""
    damaged = results.with_name("damaged")
    replace(damaged, results)
    for way, arguments in ways(results).items():
        code, text = give(arguments)
        wrong = _always_wrong(way, code, text)
        if code == 0 and numbers(text) != numbers(sound[way][1]):
            wrong.append("other numbers")
        if code == 0 and way in ("report", "all") and not is_report(kind, snapshot(results), pages):
            wrong.append("another report")
        if wrong:
            yield f"{way}: {', '.join(wrong)}\n{text[-1500:]}"
        if way != "all":
            replace(results, damaged)


def faults_without_records(results: Path) -> Iterator[str]:
    """Have the records made again from what is damaged; yield what is not as it should be."""
    shutil.rmtree(results / "records")
    shutil.rmtree(results / "cache" / "records")
    code, text = give(ways(results)["all"])
    if wrong := _always_wrong("all", code, text):
        yield f"all: {', '.join(wrong)}\n{text[-1500:]}"


def _always_wrong(way: str, code: int, text: str) -> list[str]:
    blocked = way == "all" and code != 0 and not REFUSED.search(text)
    wrong = ["a traceback"] * ("Traceback" in text) + ["blocked"] * blocked
    return wrong + [f"ended with {code}"] * (code not in (0, 1, 2))


def replace(target: Path, source: Path) -> None:
    """Make one folder a copy of another."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def unlisted(results: Path) -> list[str]:
    """Files of no kind that is tried."""
    listed = {path for pattern in (KINDS | MADE_OF).values() for path in results.glob(pattern)}
    files = (path for path in results.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(results)) for path in files if path not in listed)


def snapshot(results: Path) -> dict[str, str]:
    """What a report holds, but for pictures."""
    places = sorted((results / "reports" / "tiny").rglob("*"))
    return {
        str(path): path.read_text(encoding="utf-8", errors="replace")
        for path in places
        if path.suffix in (".html", ".csv", ".tex", ".md")
    }


def is_report(kind: str, found: dict[str, str], sound: dict[str, str]) -> bool:
    """Tell whether a report is the sound one; without flips its page may name them as lost."""
    return found.keys() == sound.keys() and all(
        text == sound[path] or (kind == "flips" and path.endswith(".html") and LOST in text)
        for path, text in found.items()
    )


def main() -> int:
    """Try the damages and print the figures; 1 when damage was used or blocked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=3, help="ways in which each kind is damaged")
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, told, tried = random.Random(arguments.seed), list[str](), 0
    chosen = {
        kind: pattern
        for kind, pattern in (KINDS | MADE_OF).items()
        if not arguments.only or kind in arguments.only.split(",")
    }
    with tempfile.TemporaryDirectory() as folder:
        results, pristine = Path(folder) / "results", Path(folder) / "pristine"
        code, text = give(ways(results)["all"])
        assert code == 0, text
        (results / "failures").mkdir(exist_ok=True)
        sound = {way: give(command) for way, command in ways(results).items()}
        assert all(code == 0 for code, _ in sound.values()), sound
        pages, expected = snapshot(results), content(results)
        told += [f"{file} is of no kind that is tried" for file in unlisted(results)]
        print(*told, sep="\n", end="\n" if told else "", flush=True)
        replace(pristine, results)
        for kind, pattern in chosen.items():
            places = [path for path in sorted(pristine.glob(pattern)) if _is_one(path, kind)]
            assert places, pattern
            left = arguments.each
            for how in generator.sample(DAMAGES, len(DAMAGES)):
                replace(results, pristine)
                place = generator.choice(places)
                others = [other for other in places if other != place]
                if not left or not damage(
                    results / place.relative_to(pristine), how, others, generator
                ):
                    continue
                tried, left = tried + 1, left - 1
                found = (
                    faults_without_records(results)
                    if kind in MADE_OF
                    else faults(results, kind, sound, pages)
                )
                wrong = [f"{kind}, {how} ({place.name}), {each}" for each in found]
                if content(results) != expected:
                    wrong.append(f"{kind}, {how} ({place.name}): other records after `all`")
                print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
                told += wrong
            print(f"{kind}: {tried} tried so far, {len(told)} faults", flush=True)
    print("\n".join(told))
    print(
        f"{tried} damages of {len(chosen)} kinds tried, {len(told)} used, blocking or a traceback"
    )
    return int(bool(told))


def _is_one(path: Path, kind: str) -> bool:
    return path.is_file() or kind in ("reports", "failures")


if __name__ == "__main__":
    sys.exit(main())
