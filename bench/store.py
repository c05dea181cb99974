"""Content-addressed results of each stage: complete, verified, or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import BenchError

MANIFEST = "manifest.json"
LAYOUT_VERSION = 1


def digest(content: Any) -> str:
    """Hash canonical JSON to the 20 hexadecimal digits that name a result."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def source_digest(paths: Iterable[Path]) -> str:
    """Hash the text of source files, so that changed code never meets old results."""
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


class Store:
    """Folders of finished stages under `results/cache/<stage>/<key>`."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.root = results / "cache"

    def open(self) -> None:
        """Make the folder usable, or say in a sentence why it is not."""
        version = self.root / "VERSION"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
            if not version.exists():
                write_text(version, f"{LAYOUT_VERSION}\n")
            found = version.read_text().strip()
        except OSError as error:
            raise BenchError(
                f"the results folder {self.results} cannot be used: {error.strerror or error}; "
                "give a folder you may read and write with --results"
            ) from error
        if found != str(LAYOUT_VERSION):
            raise BenchError(
                f"the results folder {self.results} has schema version {found}, this harness "
                f"writes version {LAYOUT_VERSION}; give another folder with --results"
            )

    def path(self, stage: str, key: str) -> Path:
        """Where the result of a stage lies once it is finished."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Tell whether a finished result is there, without verifying it."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def ensure(self, stage: str, key: str, make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the folder of a finished stage, making it first when it is not there.

        `make` fills an empty folder and returns JSON facts to keep beside it. One process makes,
        others wait for it. A failure leaves nothing; a damaged result is set aside and made anew.
        """
        place = self.path(stage, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if self.has(stage, key):
                if _intact(place):
                    return place
                _set_aside(place)
            work = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".partial", dir=place.parent))
            try:
                facts = make(work)
                sums = {file.name: _checksum(file) for file in sorted(work.iterdir())}
                write_text(work / MANIFEST, json.dumps({"files": sums, "facts": facts}, indent=1))
                os.replace(work, place)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return place


def facts(place: Path) -> dict[str, Any]:
    """Read the facts that a finished stage keeps beside its files."""
    content: dict[str, Any] = json.loads((place / MANIFEST).read_text())["facts"]
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(name, path)


def publish(source: Path, target: Path) -> None:
    """Copy a file to where people look for it, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    shutil.copyfile(source, name)
    os.replace(name, target)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(place: Path) -> bool:
    """Compare every file of a finished stage with its checksum."""
    try:
        sums = json.loads((place / MANIFEST).read_text())["files"]
        return all(_checksum(place / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _set_aside(place: Path) -> None:
    """Move a damaged result out of the way, where a person can look at it."""
    aside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".damaged", dir=place.parent))
    os.replace(place, aside / place.name)
