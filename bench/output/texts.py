"""One place per output that makes a text safe for whoever reads it there.

Names, labels, paths and ids come from files of other people; none may become markup, a command of
a terminal, or a formula. HTML is escaped by the page's templates, commands to paste are written by
`bench.errors.command`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rich.markup import escape

# C0 but for tabs and line ends, delete, C1, directions of writing, other ends of lines, what cannot
# be seen, and halves of surrogate pairs.
COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
FORMULA = re.compile(r"\s*[=+\-@\t\r]")


def plain(text: str) -> str:
    """Spell out whatever commands a terminal, or cannot be written as UTF-8."""
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def told(value: object) -> str:
    """Return a value as it may stand in a sentence with rich's markup: on one line."""
    return escape(plain(str(value)).replace("\n", "\\n"))


def cell(value: object) -> object:
    """Return a value as a cell of a CSV file: a spreadsheet must not take a name for a formula."""
    if isinstance(value, str) and FORMULA.match(value) and not _is_number(value):
        return f"'{value}"
    return value


def spreadsheet(frame: Any) -> Any:
    """Return a frame of pandas whose names and texts are safe in a CSV file."""
    safe: Callable[[object], object] = cell
    return frame.map(safe).rename(columns=safe)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
