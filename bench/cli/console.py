"""Where commands print, and which errors a person can mend."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bench.errors import shown
from bench.output.texts import plain


class Terminal(Console):
    """The one exit to a person: no secret passes, and no character that commands a terminal."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Read a text with markup, once it is safe to show."""
        return super().render_str(plain(shown(text)), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Lay out whatever is printed; what was no plain string is made safe here."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


console = Terminal(highlight=False, emoji=False)


errors = Terminal(stderr=True, highlight=False, emoji=False)


UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    # A file where a folder is to be, and the other way round; names that no file can have.
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)


def print_fault(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback as Python does, without secrets and commands to the terminal."""
    sys.stderr.write(plain(shown("".join(traceback.format_exception(kind, error, trace)))))
