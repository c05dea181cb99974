"""The manifest of a finished stage: its files' checksums and its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench.storage.digest import digest
from bench.storage.files import unreadable, write_text

MANIFEST = "manifest.json"


LAYOUT_VERSION = 2


def stage_metadata(place: Path) -> dict[str, Any]:
    """Read the JSON metadata that a finished stage keeps beside its files."""
    content: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["metadata"]
    return content


def write_manifest(place: Path, work: Path, metadata: dict[str, Any]) -> None:
    """Write into the folder `work` which result it will be, and checksums of all it holds."""
    files = {file.name: checksum_of(file) for file in sorted(work.iterdir())}
    content = {"result": [place.parent.name, place.name], "files": files, "metadata": metadata}
    text = json.dumps({**content, "checksum": digest(content)}, indent=1)
    write_text(work / MANIFEST, text)


def checksum_of(path: Path) -> str:
    """Hash a file's bytes as they are now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def touched(place: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file in a folder; of none if one has just gone."""
    try:
        states = [(file.name, file.lstat()) for file in sorted(place.iterdir())]
    except FileNotFoundError:
        return []
    return [(name, state.st_size, state.st_ctime_ns) for name, state in states]


def _plain(path: Path) -> bool:
    """Whether a path is a file of its own; a pipe would be waited for, a link leads elsewhere."""
    return path.is_file() and not path.is_symlink()


def fault_of(folder: Path, stage: str, key: str, names: Collection[str] = ()) -> str:
    """Return what is wrong with the folder of a finished stage; empty when nothing is.

    `names` are the files that the stage makes, where they are known. Raises BenchError for what
    this user may not read: it may be sound.
    """
    try:
        if not _plain(folder / MANIFEST):
            return "has a damaged manifest"
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        claimed = content.pop("checksum")
        if claimed != digest(content):
            return "has a damaged manifest"
        if content["result"] != [stage, key]:
            return f"is the result of {'/'.join(content['result'])}"
        found = {file.name: file for file in folder.iterdir() if file.name != MANIFEST}
        if set(found) != set(content["files"]):
            return "has lost or gained files"
        if names and set(found) != set(names):
            return f"holds {', '.join(sorted(found)) or 'nothing'}, not {', '.join(sorted(names))}"
        for name, file in found.items():
            if not _plain(file) or checksum_of(file) != content["files"][name]:
                return f"has a damaged file {name}"
    except PermissionError as error:
        raise unreadable(error.filename or folder) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"cannot be read ({type(error).__name__})"
    return ""


def version_text() -> str:
    """What a folder of results says of its layout, with a digest that tells damage from another."""
    return f"{LAYOUT_VERSION}\n{digest(LAYOUT_VERSION)}\n"


def version_in(text: bytes) -> int | None:
    """Read the layout version of a folder; None when what is said is damaged."""
    number, _, checksum = text.decode(errors="replace").partition("\n")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        return None
    # Folders of former releases hold the number alone.
    return int(number) if checksum.strip() in ("", digest(int(number))) else None
