"""A mirror of finished stages at a URL, for nodes of a cluster that share no folder.

A file lies at `URL/<stage>/<key>/<its checksum>`, and `URL/<stage>/<key>/manifest.json`, written
last, says which checksums make the result. So a reader finds a whole result or none, and two
writers of the same result do no harm. There are no locks over a URL: two nodes may make the same
stage at the same time; both results are the same but for measured speed, and the later one stays.
Whoever fetches a result verifies it as if it were its own (`bench.storage.store`): checksums show
that it is whole, not who made it, so that whoever may write there is trusted. Checkpoints of
trainings under way lie beside the results, each a file with its own checksum
(`bench.training.checkpoint`).
"""

from __future__ import annotations

import json
import re
import uuid
from contextlib import suppress
from pathlib import Path

from bench.errors import BenchError, shown
from bench.storage.files import UNFINISHED, temporary
from bench.storage.manifest import LAYOUT_VERSION, MANIFEST, version_in, version_text

URL = re.compile(r"[a-z][a-z0-9+.:-]*://.", re.I)
CHECKSUM = re.compile("[0-9a-f]{64}")
FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")  # names of a stage's files


def open_mirror(url: str | None) -> Mirror | None:
    """The mirror at a URL; none without one."""
    return Mirror(url) if url else None


class Mirror:
    """Finished stages at an fsspec URL, such as `s3://bucket/prefix` or `file:///mnt/shared`.

    Raises BenchError for a URL that fsspec cannot serve. A store that is out of reach raises
    fsspec's OSError, which fails the cell in hand until the next run.
    """

    def __init__(self, url: str) -> None:
        self.url = shown(url.rstrip("/"))
        # fsspec takes whatever is no URL for a path below the folder of whoever calls.
        if not URL.match(url):
            raise BenchError(f"--mirror {self.url} is no URL; write file:///path for a folder")
        try:
            from fsspec.core import url_to_fs

            # Other nodes write too: a listing is old at once.
            self.files, self.root = url_to_fs(url.rstrip("/"), use_listings_cache=False)
        except Exception as error:  # each store has errors of its own
            raise BenchError(
                f"--mirror {self.url} cannot be used: {type(error).__name__}: {error}; "
                "give a URL that fsspec knows and install what it needs, s3fs for s3://"
            ) from error
        if hasattr(self.files, "auto_mkdir"):
            self.files.auto_mkdir = True  # an object store would make a bucket of a folder

    def open(self) -> list[str]:
        """Make the mirror usable, or say in a sentence why it is not; return what was mended."""
        version, notes = f"{self.root}/VERSION", list[str]()
        try:
            there = self.files.exists(version)
            found = version_in(self.files.cat_file(version)) if there else None
            if found is None:
                if there:
                    notes.append(f"{self.url}/VERSION was damaged; written anew")
                self.files.pipe_file(version, version_text().encode())
        except Exception as error:  # each store has errors of its own
            raise BenchError(
                f"--mirror {self.url} cannot be used: {type(error).__name__}: {error}; "
                "give a URL that every node may read and write"
            ) from error
        if found not in (None, LAYOUT_VERSION):
            raise BenchError(
                f"--mirror {self.url} has schema version {found}, this harness writes version "
                f"{LAYOUT_VERSION}; give another URL"
            )
        return notes

    def has(self, stage: str, key: str) -> bool:
        """Return whether a finished result is there, without verifying it."""
        return bool(self.files.exists(self._path(stage, key, MANIFEST)))

    def fetch(self, stage: str, key: str, folder: Path) -> str:
        """Copy a result into an empty folder; return what is wrong with it if that shows."""
        try:
            text = self.files.cat_file(self._path(stage, key, MANIFEST)).decode()
            for name, checksum in json.loads(text)["files"].items():
                if not FILE.fullmatch(name) or name == MANIFEST or not CHECKSUM.fullmatch(checksum):
                    return f"names a file {name[:99]!r} that cannot be its own"
                self.files.get_file(self._path(stage, key, checksum), str(folder / name))
            (folder / MANIFEST).write_text(text, encoding="utf-8")
        except (FileNotFoundError, IsADirectoryError):
            return "has lost files"
        except (RecursionError, ValueError, LookupError, TypeError, AttributeError):
            return "has a damaged manifest"
        return ""

    def publish(self, stage: str, key: str, folder: Path) -> None:
        """Copy a finished result here, its manifest last."""
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, address in {**files, MANIFEST: MANIFEST}.items():
            self._put(folder / name, self._path(stage, key, address))

    def withdraw(self, stage: str, key: str) -> str:
        """Set a damaged result aside, so that a new one takes its place; return its address."""
        aside = self._path(stage, key, f"manifest.{uuid.uuid4().hex}.damaged")
        with suppress(FileNotFoundError):  # another node was faster
            self.files.mv(self._path(stage, key, MANIFEST), aside)
        return f"{self.url}/{stage}/{key}"

    def send(self, file: Path, folder: str) -> None:
        """Copy a single file here, in place of the former one of its name."""
        self._put(file, self._path(folder, file.name))

    def bring(self, folder: str, file: Path) -> None:
        """Copy a single file of this name from here, if it is here."""
        with suppress(FileNotFoundError), temporary(file) as part:
            self.files.get_file(self._path(folder, file.name), str(part))

    def drop(self, folder: str, name: str) -> None:
        """Remove a single file, if it is here."""
        with suppress(FileNotFoundError):
            self.files.rm_file(self._path(folder, name))

    def _path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def _put(self, file: Path, path: str) -> None:
        """Copy a file here so that a reader sees all of it or none, also where it takes a while."""
        unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
        self.files.put_file(str(file), unfinished)
        self.files.mv(unfinished, path)
