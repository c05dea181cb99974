"""Seconds that were measured on this machine before, so that no plan waits for them twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.storage.digest import digest
from bench.storage.files import write_text


@dataclass(frozen=True)
class Timings:
    """Measured seconds in `folder`, a small file each; `machine` is what else decides them."""

    folder: Path
    machine: dict[str, Any]

    def seconds(
        self, what: tuple[Any, ...], measure: Callable[[], float], notes: MutableMapping[str, None]
    ) -> tuple[float, bool]:
        """Return the seconds of `what`, and whether they were known; else measure and keep them.

        What measuring adds to `notes` is kept with them. A file that cannot be used is measured
        anew, and one that cannot be written is done without.
        """
        path = self.folder / f"{digest([what, self.machine])}.json"
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = json.loads(path.read_text("utf-8"))
            found, told = float(kept["seconds"]), [str(note) for note in kept["notes"]]
            if math.isfinite(found) and found >= 0:
                notes.update(dict.fromkeys(told))
                return found, True
        before = set(notes)
        taken = measure()
        new = [note for note in notes if note not in before]
        with suppress(OSError):
            content = {"what": what, "machine": self.machine, "seconds": taken, "notes": new}
            write_text(path, json.dumps(content, indent=1))
        return taken, False
