"""What is known to be in MLflow's database, as long as its file is as we left it.

Asking MLflow takes seconds of imports, for an answer that a repeated run has already. Whatever
else writes to the database changes its file, and then it is asked again; so is any server always.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.storage.files import write_text
from bench.storage.results import logged_path
from bench.tracking.connection import SQLITE


class Logbook:
    """Keys of what was logged to one SQLite database, kept with the other results."""

    def __init__(self, results: Path, uri: str) -> None:
        self.path = logged_path(results)
        self.database = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
        self._content: dict[str, Any] = {}

    def holds(self, what: str, key: str) -> bool:
        """Return whether `what` is known to be logged with this key."""
        return self._logged().get(what) == key

    @contextmanager
    def entry(self, what: str, key: str) -> Iterator[None]:
        """Note that the block logs `what`; one process at a time may be in such a block."""
        before = self._logged()
        yield
        if self.database is not None:
            self._content = {"state": self._state(), "logged": {**before, what: key}}
            with suppress(OSError):  # it only saves time
                write_text(self.path, json.dumps(self._content))

    def _logged(self) -> dict[str, str]:
        """What the database holds for sure: nothing when anybody else has changed it."""
        state = self._state()
        if state is None:
            return {}
        if self._content.get("state") != state:
            self._content = self._read()
        logged: dict[str, str] = self._content["logged"] if self._content["state"] == state else {}
        return logged

    def _state(self) -> list[Any] | None:
        """Name the database's file as it is now; None when there is none."""
        try:
            status = self.database.stat() if self.database is not None else None
        except OSError:
            return None
        return status and [str(self.database), status.st_size, status.st_mtime_ns]

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {"state": content["state"], "logged": dict(content["logged"])}
        except (OSError, ValueError, LookupError, TypeError):  # it only saves time
            return {"state": None, "logged": {}}
