"""Files and folders that are whole or not there: locks, temporary names, atomic replacement.

Their modes are what the umask leaves, so that a group that shares a folder can work in it.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import BenchError

UNFINISHED = ".partial"


def lock(path: Path, **how: Any) -> FileLock:
    """Make a lock between processes, which ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # which could never be locked
        set_aside(path)
    return FileLock(path, **how)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Lock a result for the one process that changes it; the lock ends with its process."""
    with lock(place.with_name(f"{place.name}.lock")):
        yield


@contextmanager
def unfinished(place: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which is gone afterwards unless it became the result."""
    clear_unfinished(place)
    work = _new_folder(place, UNFINISHED)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unreadable(place: object) -> BenchError:
    """State that this user may not read what another one made, and who can change that."""
    return BenchError(
        f"{place} may not be read by this user; ask whoever made it for "
        "`chmod -R g+rwX` of the results folder, or give a folder of your own with --results"
    )


def refuse_unreadable(folder: Path) -> None:
    """Raise BenchError where this user may not look into a folder: all in it would seem absent."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise unreadable(error.filename) from error

    for _ in os.walk(folder, onerror=refuse):
        pass


def hand_over(work: Path, place: Path) -> None:
    """Make a filled folder the result, with the modes that the umask leaves.

    Libraries that write by a temporary file of their own leave it closed to everybody else.
    """
    mode = work.stat().st_mode & 0o666
    for file in work.iterdir():
        if file.stat().st_mode & 0o777 != mode:
            with suppress(PermissionError):  # a file system that has one mode for all
                file.chmod(mode)
    os.replace(work, place)


def set_aside(place: Path) -> Path:
    """Move what cannot be used into a new folder beside it; return that folder."""
    aside = _new_folder(place, ".damaged")
    os.replace(place, aside / place.name)
    return aside


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a file to write, which becomes `path` in one step, or vanishes when writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    name.touch(exist_ok=False)
    try:
        yield name
        os.replace(name, path)
    finally:
        name.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    with temporary(path) as file:
        file.write_text(text, encoding="utf-8")


def holds(path: Path, text: str) -> bool:
    """Return whether a file is there and holds this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def publish(source: Path, target: Path) -> None:
    """Copy a file to where people look for it, in one step; a folder there is set aside."""
    if target.is_dir() and not target.is_symlink():
        set_aside(target)
    with temporary(target) as file:
        shutil.copyfile(source, file)


def clear_unfinished(place: Path) -> None:
    """Remove what processes killed while making `place` left; call it under the lock."""
    for work in place.parent.glob(f"{glob.escape(place.name)}.*{UNFINISHED}"):
        discard(work)


def discard(place: Path) -> None:
    """Remove a file, a link or a folder, if it is there and may be removed."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def _new_folder(place: Path, suffix: str) -> Path:
    """Make a folder beside a result, under a name that nobody else chooses."""
    folder = place.with_name(f"{place.name}.{secrets.token_hex(4)}{suffix}")
    folder.mkdir()
    return folder
