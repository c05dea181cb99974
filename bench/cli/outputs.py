"""Files that a command writes where a person says: whole or not at all, and never over an input."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError


def check_outputs(outputs: tuple[Path | None, ...], inputs: list[Path | None]) -> None:
    """Raise BenchError for an output that would replace an input, a file beside it, or another."""
    named = [path for path in inputs if path is not None]
    read = [file for path in named for file in (path, path.with_suffix(".ids.txt"))]
    read += [file for path in named if path.is_dir() for file in path.iterdir()]
    taken = {_identity(file) for file in read}
    for output in (path for path in outputs if path is not None):
        if output.is_dir():
            raise BenchError(f"{output} is a folder; name a file to write")
        if (place := _identity(output)) in taken:
            raise BenchError(f"{output} is an input or another output; write it somewhere else")
        taken.add(place)


def _identity(path: Path) -> object:
    """Name a file whatever it is called: by links, or by a path in another spelling."""
    try:
        status = path.stat()
        return status.st_dev, status.st_ino
    except OSError:
        return path.absolute().resolve()


def write_output(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises BenchError where that cannot be done."""
    from bench.storage.files import temporary

    try:
        with temporary(path) as file:
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror})") from error
