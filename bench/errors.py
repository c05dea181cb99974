"""The one exception that reaches a person as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """One sentence: what was found, where, what was expected, what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """Say that `name` is no known `kind`, with the nearest name or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return BenchError(f"unknown {kind} '{name}'; {hint}")
