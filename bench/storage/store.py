"""Content-addressed results of each stage: complete, verified, or not there at all."""

from __future__ import annotations

import fnmatch
import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from bench.errors import BenchError
from bench.storage.files import (
    UNFINISHED,
    clear_unfinished,
    discard,
    hand_over,
    lock,
    locked,
    set_aside,
    unfinished,
    write_text,
)
from bench.storage.manifest import (
    LAYOUT_VERSION,
    MANIFEST,
    fault_of,
    touched,
    version_in,
    version_text,
    write_manifest,
)
from bench.storage.results import cache_folder, version_path

if TYPE_CHECKING:
    from bench.storage.mirror import Mirror

logger = logging.getLogger(__name__)
LONGEST_WRITE = 3600.0  # seconds after which an unfinished file's process cannot be alive


@dataclass
class Work:
    """The unfinished folder of a stage and the JSON metadata that it will keep."""

    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict)


def refuse_other_version(results: Path) -> None:
    """Raise BenchError for a results folder of another layout version, before anything is written.

    Raises OSError for one that cannot be read.
    """
    try:
        found = version_in(version_path(results).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return
    if found not in (None, LAYOUT_VERSION):
        raise BenchError(
            f"the results folder {results} has schema version {found}, this harness "
            f"writes version {LAYOUT_VERSION}; give another folder with --results"
        )


class Store:
    """Folders of finished stages under `results/cache/<stage>/<key>`.

    `notes` collects sentences about what was found damaged and set aside; where nobody has said
    that they are `watched`, they are warnings as well. What is not in the folder may come from a
    mirror, and what is made goes there too, for processes with another folder.
    """

    def __init__(self, results: Path, mirror: Mirror | None = None, watched: bool = False) -> None:
        self.results, self.mirror, self.watched = results, mirror, watched
        self.root = cache_folder(results)
        self.notes: list[str] = []
        self._verified: dict[Path, Any] = {}

    def open(self) -> None:
        """Make the folder usable, or say in a sentence why it is not; `notes` tell what was mended.

        A folder of another layout version is left as it is.
        """
        version = version_path(self.results)
        try:
            refuse_other_version(self.results)
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
            if not version.is_file() or version_in(version.read_bytes()) is None:
                if os.path.lexists(version):
                    self.note(f"{version} was damaged; set aside in {set_aside(version)}")
                write_text(version, version_text())
            self._sweep()
        except OSError as error:
            raise BenchError(
                f"the results folder {self.results} cannot be used: {error.strerror or error}"
                f"{_where(error)}; give a folder you may read and write with --results"
            ) from error
        if self.mirror:
            for sentence in self.mirror.open():
                self.note(sentence)

    def note(self, sentence: str) -> None:
        """Report what was found damaged."""
        self.notes.append(sentence)
        if not self.watched:
            logger.warning(sentence)

    def path(self, stage: str, key: str) -> Path:
        """Where the result of a stage lies once it is finished."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Return whether a finished result is here or in the mirror, without verifying it."""
        return self.here(stage, key) or bool(self.mirror and self.mirror.has(stage, key))

    def here(self, stage: str, key: str) -> bool:
        """Return whether a finished result is in the folder, without verifying it."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def intact(self, stage: str, key: str) -> bool:
        """Return whether a finished result is in the folder and equals its checksums."""
        return self.here(stage, key) and not fault_of(self.path(stage, key), stage, key)

    def obtain(self, stage: str, key: str, names: Collection[str] = ()) -> bool:
        """Return whether a finished result is in the folder unharmed, fetching it if need be."""
        if self.intact(stage, key):
            return True
        if self.mirror is None or not self.mirror.has(stage, key):
            return False
        place = self.path(stage, key)
        with locked(place):
            return self._usable(place, names) or self._fetch(place, names)

    @contextmanager
    def making(self, stage: str, key: str, names: Collection[str] = ()) -> Iterator[Work | None]:
        """Yield the unfinished folder of a stage to fill, or None where it is finished.

        `names` are the files that it will hold, where they are known: a result of others is none.
        The block fills the folder and sets its `metadata`; it is then published. One process makes,
        others wait for it; the lock ends with its process. A failure leaves nothing; a damaged or
        foreign result is set aside with a note and made anew. A store reads the files of a result
        again for their checksums only when they have been touched since.
        """
        place = self.path(stage, key)
        if self.here(stage, key) and self._verified.get(place) == touched(place):
            yield None
            return
        with locked(place):
            if self._usable(place, names) or self._fetch(place, names):
                yield None
            else:
                with unfinished(place) as folder:
                    work = Work(folder)
                    yield work
                    write_manifest(place, folder, work.metadata)
                    hand_over(folder, place)
            if self.mirror and not self.mirror.has(stage, key):
                self.mirror.publish(stage, key, place)
        self._verified[place] = touched(place)

    def ensure(self, stage: str, key: str, make: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the folder of a finished stage, filled by `make` first when it is not there.

        `make` returns JSON metadata to keep beside its files; see `making`.
        """
        with self.making(stage, key) as work:
            if work is not None:
                work.metadata = make(work.folder)
        return self.path(stage, key)

    def _fetch(self, place: Path, names: Collection[str] = ()) -> bool:
        """Take a result from the mirror, if it is there and is what it should be."""
        stage, key = place.parent.name, place.name
        if self.mirror is None or not self.mirror.has(stage, key):
            return False
        with unfinished(place) as work:
            fault = self.mirror.fetch(stage, key, work) or fault_of(work, stage, key, names)
            if fault:
                self.note(f"{self.mirror.withdraw(stage, key)} {fault}; made anew")
                return False
            hand_over(work, place)
        return True

    def _usable(self, place: Path, names: Collection[str] = ()) -> bool:
        """Verify what lies at `place`; set it aside when it is not what it should be."""
        if not os.path.lexists(place):
            return False
        fault = fault_of(place, place.parent.name, place.name, names)
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
                with lock(place.with_name(f"{place.name}.lock"), blocking=False):
                    clear_unfinished(place)
            except Timeout:  # it is being made at this moment
                continue
        for file in self._cut_off():
            with suppress(FileNotFoundError):  # it was finished meanwhile
                if time.time() - file.lstat().st_mtime > LONGEST_WRITE:
                    discard(file)

    def _cut_off(self) -> Iterator[Path]:
        """Files that are being written, or never will be."""
        yield from self.results.glob(f".*{UNFINISHED}*")
        for folder in ("records", "failures", "cache"):
            # `rglob` fails when a folder vanishes under it, as those of other runs do.
            for parent, _, names in os.walk(self.results / folder):
                yield from (Path(parent, name) for name in fnmatch.filter(names, f".*{UNFINISHED}"))


def _where(error: OSError) -> str:
    return f" at {error.filename}" if error.filename else ""
