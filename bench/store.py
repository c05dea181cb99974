"""Content-addressed results of each stage: complete, verified, or not there at all."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.remote import Mirror

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
LAYOUT_VERSION = 1
UNFINISHED = ".partial"
LONGEST_WRITE = 3600.0  # seconds after which an unfinished file's process cannot be alive


def digest(content: Any) -> str:
    """Hash canonical JSON to the 20 hexadecimal digits that name a result."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def source_digest(paths: Iterable[Path]) -> str:
    """Hash the text of source files, so that changed code never meets old results."""
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


def file_digest(path: Path) -> str:
    """Hash a file's bytes, once while it stays as it is; raises BenchError when it is not there."""
    try:
        status = path.expanduser().stat()
        return _file_digest(path.expanduser(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror or error}") from error


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Folders of finished stages under `results/cache/<stage>/<key>`.

    `notes` collects sentences about what was found damaged and set aside; where nobody has said
    that they are `watched`, they are warnings as well. What is not in the folder may come from a
    mirror, and what is made goes there too, for processes with another folder.
    """

    def __init__(self, results: Path, mirror: Mirror | None = None, watched: bool = False) -> None:
        self.results, self.mirror, self.watched = results, mirror, watched
        self.root = results / "cache"
        self.notes: list[str] = []
        self._verified: dict[Path, Any] = {}

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
            self._sweep()
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
        if self.mirror:
            self.mirror.open()

    def note(self, sentence: str) -> None:
        """Tell what was found damaged."""
        self.notes.append(sentence)
        if not self.watched:
            logger.warning(sentence)

    def path(self, stage: str, key: str) -> Path:
        """Where the result of a stage lies once it is finished."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Tell whether a finished result is here or in the mirror, without verifying it."""
        return self.here(stage, key) or bool(self.mirror and self.mirror.has(stage, key))

    def here(self, stage: str, key: str) -> bool:
        """Tell whether a finished result is in the folder, without verifying it."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def intact(self, stage: str, key: str) -> bool:
        """Tell whether a finished result is in the folder and equals its checksums."""
        return self.here(stage, key) and not _fault(self.path(stage, key), stage, key)

    def obtain(self, stage: str, key: str) -> bool:
        """Tell whether a finished result is in the folder unharmed, fetching it if need be."""
        if self.intact(stage, key):
            return True
        if self.mirror is None or not self.mirror.has(stage, key):
            return False
        place = self.path(stage, key)
        with locked(place):
            return self._usable(place) or self._fetch(place)

    def ensure(self, stage: str, key: str, make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the folder of a finished stage, making it first when it is not there.

        `make` fills an empty folder and returns JSON facts to keep beside it. One process makes,
        others wait for it; the lock ends with its process. A failure leaves nothing; a damaged or
        foreign result is set aside with a note and made anew. A store reads the files of a result
        again for their checksums only when they have been touched since.
        """
        place = self.path(stage, key)
        if self.here(stage, key) and self._verified.get(place) == _touched(place):
            return place
        with locked(place):
            if not self._usable(place) and not self._fetch(place):
                self._make(place, make)
            if self.mirror and not self.mirror.has(stage, key):
                self.mirror.publish(stage, key, place)
        self._verified[place] = _touched(place)
        return place

    def _make(self, place: Path, make: Callable[[Path], dict[str, Any]]) -> None:
        with unfinished(place) as work:
            facts = make(work)
            write_text(work / MANIFEST, json.dumps(_manifest(place, work, facts), indent=1))
            os.replace(work, place)

    def _fetch(self, place: Path) -> bool:
        """Take a result from the mirror, if it is there and is what it should be."""
        stage, key = place.parent.name, place.name
        if self.mirror is None or not self.mirror.has(stage, key):
            return False
        with unfinished(place) as work:
            fault = self.mirror.fetch(stage, key, work) or _fault(work, stage, key)
            if fault:
                self.note(f"{self.mirror.withdraw(stage, key)} {fault}; made anew")
                return False
            os.replace(work, place)
        return True

    def _usable(self, place: Path) -> bool:
        """Verify what lies at `place`; set it aside when it is not what it should be."""
        if not os.path.lexists(place):
            return False
        fault = _fault(place, place.parent.name, place.name)
        if not fault:
            return True
        aside = set_aside(place)
        self.note(f"{place} {fault}; set aside in {aside} and made anew")
        return False

    def _sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        for work in self.root.glob(f"*/[!.]*{UNFINISHED}"):
            place = work.with_name(work.name.partition(".")[0])
            try:
                with FileLock(f"{place}.lock", blocking=False):
                    _clear(place)
            except Timeout:  # it is being made at this moment
                continue
        for file in self._cut_off():
            with suppress(FileNotFoundError):  # it was finished meanwhile
                if time.time() - file.stat().st_mtime > LONGEST_WRITE:
                    file.unlink()

    def _cut_off(self) -> Iterator[Path]:
        """Files that are being written, or never will be."""
        yield from self.results.glob(f".*{UNFINISHED}*")
        for folder in ("records", "failures", "cache"):
            # `rglob` fails when a folder vanishes under it, as those of other runs do.
            for parent, _, names in os.walk(self.results / folder):
                yield from (Path(parent, name) for name in fnmatch.filter(names, f".*{UNFINISHED}"))


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Be the one process that changes a result; the lock ends with its process."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        yield


@contextmanager
def unfinished(place: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which is gone afterwards unless it became the result."""
    _clear(place)
    work = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=UNFINISHED, dir=place.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def set_aside(place: Path) -> Path:
    """Move what cannot be used into a new folder beside it; return that folder."""
    aside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".damaged", dir=place.parent))
    os.replace(place, aside / place.name)
    return aside


def facts(place: Path) -> dict[str, Any]:
    """Read the facts that a finished stage keeps beside its files."""
    content: dict[str, Any] = json.loads((place / MANIFEST).read_text())["facts"]
    return content


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Give a file to write, which becomes `path` in one step, or vanishes when writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    with temporary(path) as file:
        file.write_text(text)


def publish(source: Path, target: Path) -> None:
    """Copy a file to where people look for it, in one step."""
    with temporary(target) as file:
        shutil.copyfile(source, file)


def _manifest(place: Path, work: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Say which result this is, what its files hold, and what the manifest itself holds."""
    files = {file.name: _checksum(file) for file in sorted(work.iterdir())}
    content = {"result": [place.parent.name, place.name], "files": files, "facts": facts}
    return {**content, "checksum": digest(content)}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touched(place: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file in a folder."""
    states = [(file.name, file.stat()) for file in sorted(place.iterdir())]
    return [(name, state.st_size, state.st_ctime_ns) for name, state in states]


def _fault(folder: Path, stage: str, key: str) -> str:
    """Say what is wrong with the folder of a finished stage; empty when nothing is."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        claimed = content.pop("checksum")
        if claimed != digest(content):
            return "has a damaged manifest"
        if content["result"] != [stage, key]:
            return f"is the result of {'/'.join(content['result'])}"
        found = {file.name: file for file in folder.iterdir() if file.name != MANIFEST}
        if set(found) != set(content["files"]):
            return "has lost or gained files"
        for name, file in found.items():
            if file.is_symlink() or _checksum(file) != content["files"][name]:
                return f"has a damaged file {name}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__})"
    return ""


def _clear(place: Path) -> None:
    """Remove what processes killed while making `place` left; call it under the lock."""
    for work in place.parent.glob(f"{place.name}.*{UNFINISHED}"):
        shutil.rmtree(work, ignore_errors=True)
