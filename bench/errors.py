"""What reaches a person: an exception that is one sentence, and addresses without passwords."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class BenchError(Exception):
    """One sentence: what was found, where, what was expected, what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """Say that `name` is no known `kind`, with the nearest name or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return BenchError(f"unknown {kind} '{name}'; {hint}")


def shown(text: str) -> str:
    """Return an address, or a sentence with addresses in it, without the names and passwords."""
    return re.sub(r"//[^/\s]*@", "//***@", text)
