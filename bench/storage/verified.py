"""Published files that are verified whenever they are read: each holds the checksum of its content.

A record is the truth from which every number is derived, so that one altered bit must not give
another table: it gives a sentence that says how to restore the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.errors import BenchError
from bench.storage.digest import digest
from bench.storage.files import unreadable
from bench.storage.manifest import checksum_of

NOTE, CHECKSUM = b"bench", b"bench.checksum"
SEAL = "checksums.json"  # of a folder of files that others read
UNSEALED = (1,)  # schema versions of records that were written without a checksum


def sealed_table(table: pa.Table, note: str) -> pa.Table:
    """Return the table with its note and the checksum of both in its metadata."""
    text = note.encode()
    return table.replace_schema_metadata({NOTE: text, CHECKSUM: _checksum(table, text)})


def read_table_note(path: Path) -> str:
    """Return the note of a Parquet file whose rows and note equal its checksum.

    Read once while the file stays as it is. Raises BenchError, which says how to restore it.
    """
    try:
        status = path.stat()
        return _table_note(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except Exception as error:  # of a damaged file, Parquet's reader raises errors of many kinds
        raise unusable(path, error) from error


@cache
def _table_note(path: Path, size: int, changed: int, touched: int) -> str:
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if NOTE not in metadata:
        raise ValueError("it is no record of this harness")
    if CHECKSUM not in metadata:
        if json.loads(metadata[NOTE]).get("schema_version") in UNSEALED:
            return str(metadata[NOTE], "utf-8")
        raise ValueError("it has lost its checksum")
    if _checksum(table, metadata[NOTE]) != metadata[CHECKSUM]:
        raise ValueError("it differs from its checksum")
    return str(metadata[NOTE], "utf-8")


def _checksum(table: pa.Table, note: bytes) -> bytes:
    """Hash names, types and values of all columns, and the note; however Parquet lays them out."""
    found = hashlib.sha256(note)
    for name, column in zip(table.column_names, table.columns, strict=True):
        found.update(repr((name, str(column.type), len(column), column.null_count)).encode())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            coded = pc.dictionary_encode(column.combine_chunks())
            coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
            found.update(json.dumps(coded.dictionary.to_pylist()).encode())
            column = coded.indices
        found.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes())
    return found.hexdigest().encode()


def sealed_json(content: dict[str, Any]) -> str:
    """Write content as JSON with its checksum."""
    return json.dumps({**content, "checksum": digest(content)}, indent=1)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `sealed_json` wrote; raises BenchError, which says how to restore it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != digest(content):
            raise ValueError("it differs from its checksum")
        return content
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise unusable(path, error) from error


def seal_folder(folder: Path, made_of: str) -> None:
    """Write the checksums of all files below a folder into it, and what they were made of."""
    files = {
        str(path.relative_to(folder)): checksum_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = sealed_json({"made_of": made_of, "files": files})
    (folder / SEAL).write_text(text, encoding="utf-8")


def seal_of(folder: Path) -> tuple[str, list[Path]]:
    """Return what a folder says it was made of, and which of its files were altered since.

    A folder without checksums says nothing; damaged checksums are an altered file.
    """
    if not os.path.lexists(folder / SEAL):
        return "", []
    try:
        content = read_json(folder / SEAL)
        files = {folder / name: checksum for name, checksum in content["files"].items()}
        return content["made_of"], [path for path in files if not _equals(path, files[path])]
    except (BenchError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", [folder / SEAL]


def _equals(path: Path, checksum: str) -> bool:
    return path.is_file() and checksum_of(path) == checksum


def unusable(path: Path, error: Exception) -> BenchError:
    """State why a published file is not used, and what brings it back."""
    if isinstance(error, PermissionError):
        return unreadable(path)
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return BenchError(
        f"{path} is damaged ({reason[:200]}); run the command that made it again, which restores "
        f"it from the cache, or delete it{_beside(path)}"
    )


def _beside(path: Path) -> str:
    return "" if os.access(path.parent, os.W_OK) else ", which only its owner may do"
